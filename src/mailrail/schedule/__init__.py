"""Run tasks and send messages by the clock.

    @periodic("*/5 * * * *", tz="Europe/Berlin")
    @task
    def sync(): ...

The names below are imported at first use. An app's ``tasks.py`` may be imported before there can be models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control import UnknownEntry, pause, resume, run_now
    from .definition import every
    from .registry import periodic, schedulable

__all__ = ["UnknownEntry", "every", "pause", "periodic", "resume", "run_now", "schedulable"]

_HOMES = {
    "control": ("UnknownEntry", "pause", "resume", "run_now"),
    "definition": ("every",),
    "registry": ("periodic", "schedulable"),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_home_of[name]}", __name__), name)
