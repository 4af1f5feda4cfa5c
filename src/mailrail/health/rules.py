"""What apps add to the questions of ``look``: each is a function that yields problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from django.db import Error

from ..errors import MailrailError


@dataclass(frozen=True, slots=True)
class Problem:
    """``reason`` is for everybody: it names no server, no channel, no mailer and no content.

    ``detail`` is for operators: the same with names, or the error as it was raised.
    """

    reason: str
    detail: str


Rule: TypeAlias = Callable[[float], Iterable[Problem]]
"""Takes the seconds for which something may be late, and yields what is later."""

_rules: list[Rule] = []


def register(rule: Rule) -> Rule:
    """Have ``look`` apply this rule wherever it is asked whether work is late; to be used as a decorator.

    An app registers its rules in ``AppConfig.ready``. What a rule raises of a database or of Mailrail is told as a
    problem.
    """
    if rule not in _rules:
        _rules.append(rule)
    return rule


def apply_rules(limit: float) -> Iterator[Problem]:
    """Yield the problems that the registered rules find."""
    for rule in _rules:
        try:
            yield from rule(limit)
        except (MailrailError, Error, OSError) as error:
            reason = f"{rule.__name__.replace('_', ' ')}: this cannot be found out"
            yield Problem(reason, f"{reason}: {error}")
