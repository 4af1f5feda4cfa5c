"""Find the command of another app that ours extends, so that a development server runs a worker, too."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.core.management.base import CommandParser


def next_command(name: str, default: Any) -> Any:
    """Return the first ``Command`` of this name in the apps after ``"mailrail"``, else ``default``.

    An app before it may extend ours.
    """
    names = [config.name for config in apps.get_app_configs()]
    for app in names[names.index("mailrail") + 1 :]:
        path = f"{app}.management.commands.{name}"
        if _exists(path):
            return import_module(path).Command
    return default


def add_noworker(parser: CommandParser) -> None:
    """Add the option that switches the worker off: it sets ``use_worker`` to false."""
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
