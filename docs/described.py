"""Parts of the reference that are read out of the code, as Markdown. ``conf.py`` puts them where a page says
``{public}``, ``{command}`` or ``{checks}``; tests hold the pages to what there is."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from importlib import import_module
from inspect import isclass, isroutine
from typing import Any

from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.db.models import Model
from django.dispatch import Signal


def public(module: str) -> Iterator[str]:
    """All that a module exports: its signature, and what its docstring says."""
    yield "```{eval-rst}"
    for name in import_module(module).__all__:
        found = getattr(import_module(module), name)
        if isinstance(found, Signal):  # they have a page of their own
            continue
        yield f".. {_directive(found)}:: {module}.{name}"
        # A model's own members are Django's.
        if isclass(found) and not issubclass(found, Model | BaseException):
            yield "   :members:"
        yield ""
    yield "```"


def _directive(found: Any) -> str:
    if isclass(found):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if isroutine(found) else "autodata"


def command(name: str) -> Iterator[str]:
    """A management command with its arguments and options: its own, not those that it has from Django."""
    made = load_command_class(get_commands()[name], name)
    yield from [
        f"```{{program}} {name}",
        "```",
        made.help if type(made).help != _parent(made).help else "",
        "",
    ]
    yield from _arguments(made.create_parser("manage.py", name), _theirs(made, name))


def _parent(made: BaseCommand) -> type[BaseCommand]:
    """The command that it extends: Django's ``runserver``, or the root of all commands."""
    return type(made).__mro__[1]


def _theirs(made: BaseCommand, name: str) -> set[str]:
    return {action.dest for action in _parent(made)().create_parser("manage.py", name)._actions}


def _arguments(parser: ArgumentParser, theirs: set[str]) -> Iterator[str]:
    subparsers: list[Any] = []
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            subparsers.append(action)
        elif action.dest not in theirs and action.help != SUPPRESS:
            yield from [f"````{{option}} {_signature(parser, action)}", _help(parser, action), "````", ""]
    for action in subparsers:
        said = {choice.dest: choice.help for choice in action._choices_actions}
        for choice, below in action.choices.items():
            program = below.prog.removeprefix("manage.py ")
            yield from [f"```{{program}} {program}", "```", f"`{program}`: {said[choice]}", ""]
            yield from _arguments(below, theirs | {"help"})


def _signature(parser: ArgumentParser, action: Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    if action.choices is not None:
        value = f" {{{','.join(map(str, action.choices))}}}"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _help(parser: ArgumentParser, action: Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


CHECKS = (
    "mailrail.checks",
    "mailrail.database_check",
    "mailrail.leftover_check",
    "mailrail.project_check",
    "mailrail.mail.checks",
    "mailrail.mail.server_checks",
    "mailrail.mail.unused",
    "mailrail.tasks.checks",
    "mailrail.schedule.checks",
    "mailrail.dashboard.checks",
    "mailrail.invitations.checks",
)
"""The modules with system checks; each has a table of their ids in its docstring."""


def checks(module: str) -> Iterator[str]:
    """What the ids of a module's checks mean."""
    yield from ["| id | what it says |", "|---|---|"]
    for id, meaning in ids_of(module).items():
        yield f"| `{id}` | {meaning} |"


def ids_of(module: str) -> dict[str, str]:
    """The ids in the module's docstring, with what they mean."""
    said = str(import_module(module).__doc__)
    return dict(re.findall(r"^(mailrail[\w.]*\.[EW]\d+) +(\S.*)$", said, re.MULTILINE))
