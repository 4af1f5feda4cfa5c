"""``--check`` of our commands: one rule of ``health``, for cron jobs and monitors that read exit codes."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from mailrail.conf import settings
from mailrail.health.rules import Rule
from mailrail.terminal import single_line


def add_check(parser: CommandParser, help: str) -> None:
    """Add ``--check``, with the help it is given, and ``--oldest``."""
    parser.add_argument("--check", action="store_true", help=help)
    parser.add_argument(
        "--oldest",
        type=_seconds,
        metavar="SECONDS",
        help="With --check: what is too long (default: MAILRAIL['READY_OLDEST_DUE']).",
    )


def is_check(options: Mapping[str, Any]) -> bool:
    """Return whether a check is asked for. Raises ``CommandError`` for ``--oldest`` alone."""
    if options["oldest"] is not None and not options["check"]:
        raise CommandError("--oldest belongs to --check.")
    return bool(options["check"])


def check(rule: Rule, options: Mapping[str, Any]) -> str:
    """Return what to say if the rule finds nothing. Raises ``CommandError`` with what it finds."""
    limit = settings.ready_oldest_due if options["oldest"] is None else options["oldest"]
    if limit is None:
        raise CommandError("Say what is too long: --oldest SECONDS, as MAILRAIL['READY_OLDEST_DUE'] is None.")
    if problems := [problem.detail for problem in rule(limit)]:
        raise CommandError(single_line("; ".join(problems)))
    return "OK."


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"must be seconds, zero or more, not {text!r}")
    return number
