"""The reference has all there is, and nothing that is not; names on all other pages exist."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.dispatch import Signal

from docs.described import CHECKS, command, ids_of, public
from mailrail.conf import Settings

from .processes import ROOT

SOURCE = ROOT / "src" / "mailrail"
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]
COMMANDS = sorted(
    path.stem for path in SOURCE.rglob("management/commands/*.py") if not path.stem.startswith("_")
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def named(page: str, directive: str) -> list[str]:
    """What the directives of a page name, in order."""
    return re.findall(rf"^```{{{directive}}} (\S+)$", (DOCS / "reference" / page).read_text(), re.MULTILINE)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


# -- functions and classes ---------------------------------------------------------------------------------------------


def test_every_module_with_public_names_is_in_the_reference() -> None:
    exporting = {module_of(path) for path in SOURCE.rglob("*.py") if "\n__all__ = " in path.read_text()}
    # What DatabaseChannelLayer makes, and what mailrail.layers exports itself.
    inner = {name for name in exporting if name.startswith("mailrail.layers.")}
    assert sorted(named("api.md", "public")) == sorted(exporting - inner)


@pytest.mark.parametrize("module", named("api.md", "public"))
def test_every_public_name_is_described(module: str) -> None:
    exported = {name: getattr(import_module(module), name) for name in import_module(module).__all__}
    signals = {name for name, found in exported.items() if isinstance(found, Signal)}
    text = "\n".join(public(module))
    assert {name.rpartition(".")[2] for name in re.findall(r":: (\S+)", text)} == exported.keys() - signals
    for name, found in exported.items():
        if callable(found):
            assert found.__doc__ and not found.__doc__.startswith(f"{name}("), f"{name} has no docstring"


# -- commands ----------------------------------------------------------------------------------------------------------


def test_every_command_is_in_the_reference() -> None:
    assert sorted(named("commands.md", "command")) == COMMANDS


def parser_of(name: str) -> ArgumentParser:
    return load_command_class(get_commands()[name], name).create_parser("manage.py", name)


def arguments(parser: ArgumentParser) -> Iterator[tuple[str, Any]]:
    """All that can be written behind a command, with its action; of its own actions, too."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for below in action.choices.values():
                yield from arguments(below)
        elif action.help != SUPPRESS:
            yield from (
                (name, action) for name in action.option_strings or [str(action.metavar or action.dest)]
            )


OF_DJANGO = {name for name, _ in arguments(BaseCommand().create_parser("manage.py", "any"))}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_described(name: str) -> None:
    described = re.findall(r"^````{option} (.*)\n(.*)$", "\n".join(command(name)), re.MULTILINE)
    written = {part.split()[0] for signature, _ in described for part in signature.split(", ")}
    there = {argument for argument, _ in arguments(parser_of(name))} - OF_DJANGO
    if name == "runserver":  # the others are those of the runserver that it extends
        there = {"--noworker"}
    assert written == there
    assert [signature for signature, help in described if not help.strip()] == []


@every_page
def test_options_of_commands_exist(page: Path) -> None:
    for name, rest in re.findall(r"(?:manage\.py|\$) ?(\w+)((?: [^\n`]*)?)", page.read_text()):
        if name in COMMANDS:
            known = {argument for argument, _ in arguments(parser_of(name))}
            assert set(re.findall(r"(?<= )--[a-z-]+", rest)) <= known, f"{name}{rest}"


# -- signals, checks, settings -----------------------------------------------------------------------------------------


def test_every_signal_is_in_the_reference() -> None:
    modules = [import_module(f"mailrail.{name}") for name in ("signals", "invitations.signals")]
    there = {name for module in modules for name, found in vars(module).items() if isinstance(found, Signal)}
    found = re.findall(r"^\| `(\w+)` \|", (DOCS / "reference/signals.md").read_text(), re.MULTILINE)
    assert sorted(found) == sorted(there)
    declared = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    assert len(re.findall(r"^\w+ = \w*Signal\(\)", declared, re.MULTILINE)) == len(found)


def test_every_check_is_in_the_reference() -> None:
    used: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        if ids := set(re.findall(r'id="(mailrail[\w.]*\.[EW]\d+)"', path.read_text())):
            used[module_of(path)] = ids
    assert {module: set(ids_of(module)) for module in CHECKS} == used
    assert sorted(named("checks.md", "checks")) == sorted(CHECKS)


@every_page
def test_names_in_the_text_exist(page: Path) -> None:
    text = page.read_text()
    ids = {id for module in CHECKS for id in ids_of(module)}
    channels = {"mailrail.outbox.default", "mailrail.operations"}
    models = [model._meta for model in apps.get_models()]
    own = {f"{its.app_label}.{name}" for its in models for name, _ in its.permissions}
    usual = {f"{its.app_label}.{what}_{its.model_name}" for its in models for what in its.default_permissions}
    for name in sorted(
        set(re.findall(r"[`\"](mailrail(?:\.\w+)+)[`\"(]", text)) - ids - channels - own - usual
    ):
        assert locate(name) is not None, name
    keys = set(re.findall(r"MAILRAIL\[[\"']([A-Z_]+)", text))
    assert keys <= {name.upper() for name in Settings.__dataclass_fields__}
