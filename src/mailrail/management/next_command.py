"""The command of another app that one of ours extends: a development server gets a worker inside."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.core.management.base import CommandParser


def next_command(name: str, default: Any) -> Any:
    """Return the first ``Command`` of that name among the apps that come after us, else ``default``.

    An app that comes before us may extend ours.
    """
    names = [config.name for config in apps.get_app_configs()]
    for app in names[names.index("mailrail") + 1 :]:
        path = f"{app}.management.commands.{name}"
        if _exists(path):
            return import_module(path).Command
    return default


def add_noworker(parser: CommandParser) -> None:
    """Add the option that switches the worker off: ``use_worker`` is then false."""
    parser.add_argument(
        "--noworker",
        action="store_false",
        dest="use_worker",
        help="Tells Mailrail to NOT run a worker along with the server.",
    )


def _exists(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError:  # the app has no management package
        return False
