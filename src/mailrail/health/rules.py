"""Register rules of apps for ``look``: functions that yield problems.

Late work and outages are two things. How late work may be is for the project to say, so a rule needs a limit. What is
out does not work at all, and people on call want to know at once, whatever the limit is.
"""

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
"""Takes seconds. Yields a problem for work that has been due for longer, or for what has been out for longer."""

_rules: list[Rule] = []
_outages: list[Rule] = []


def register(rule: Rule) -> Rule:
    """Make ``look`` apply this rule of late work whenever it has a limit; used as a decorator.

    An app registers its rules in ``AppConfig.ready``. A database error or Mailrail error that a rule raises becomes a
    problem.
    """
    if rule not in _rules:
        _rules.append(rule)
    return rule


def register_outages(rule: Rule) -> Rule:
    """Make ``look`` apply this rule of outages, as ``register``; ``look`` says from which length on they count."""
    if rule not in _outages:
        _outages.append(rule)
    return rule


def apply_rules(limit: float | None, outages_from: float | None) -> Iterator[Problem]:
    """Yield the problems that the registered rules find: outages, then late work. ``None``: none of them."""
    for rules, seconds in ((_outages, outages_from), (_rules, limit)):
        if seconds is not None:
            for rule in rules:
                yield from _problems(rule, seconds)


def _problems(rule: Rule, seconds: float) -> Iterator[Problem]:
    try:
        yield from rule(seconds)
    except (MailrailError, Error, OSError) as error:
        yield unknown(rule.__name__, error)


def unknown(name: str, error: Exception) -> Problem:
    """Return the problem that a function of an app, with this name, could not find out what it was asked."""
    reason = f"{name.replace('_', ' ')}: this cannot be found out"
    return Problem(reason, f"{reason}: {error}", kind="unknown")
