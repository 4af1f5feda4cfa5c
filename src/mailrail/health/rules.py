"""Register rules of apps for ``look``: functions that yield problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from django.db import Error

from ..errors import MailrailError


@dataclass(frozen=True, slots=True)
class Problem:
    """Describe a problem. ``reason`` is public: it names no server, channel, mailer or content.

    ``detail`` is for operators: it has the names, or the text of the error. ``since``: Unix seconds, if that is known.
    ``kind`` says what has the problem: ``"layer"``, ``"channel"``, ``"workers"``, ``"mailer"``, ``"email"``, or a word
    of the app. ``name`` is that of the channel or mailer. A rule yields the worst of a kind first.
    """

    reason: str
    detail: str
    since: float | None = None
    kind: str = ""
    name: str = ""


Rule: TypeAlias = Callable[[float], Iterable[Problem]]
"""Takes the seconds for which work may be due, and yields a problem for work that has been due longer."""

_rules: list[Rule] = []


def register(rule: Rule) -> Rule:
    """Make ``look`` apply this rule whenever it has a limit; used as a decorator.

    An app registers its rules in ``AppConfig.ready``. A database error or Mailrail error that a rule raises becomes a
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
            yield unknown(rule.__name__, error)


def unknown(name: str, error: Exception) -> Problem:
    """Return the problem that a function of an app, with this name, could not find out what it was asked."""
    reason = f"{name.replace('_', ' ')}: this cannot be found out"
    return Problem(reason, f"{reason}: {error}", kind="unknown")
