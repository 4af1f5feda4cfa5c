"""Register what code declares: entries of the schedule, and what the admin may make entries of.

    @periodic("*/5 * * * *", tz="Europe/Berlin")
    @task
    def sync(): ...

The modules ``tasks`` and ``consumers`` of the installed apps are imported when entries are asked for first.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from mailrail.autoreload import import_watched
from mailrail.errors import InvalidSettings
from mailrail.messages import check_channel_name
from mailrail.routing import Routing

from .choices import ONCE, SKIP
from .definition import Definition
from .times import Cron, Every

F = TypeVar("F")


@dataclass(frozen=True)
class Registered:
    """Hold a definition with the place in the code that declares it."""

    definition: Definition
    place: str


@dataclass(frozen=True)
class Broken:
    """Say why a module could not be imported."""

    module: str
    error: Exception


_registered: list[Registered] = []
_schedulable: dict[str, str] = {}
_broken: list[Broken] = []
_are_imported = False
_importing = threading.RLock()


def periodic(
    when: str | Every,
    *,
    tz: str | None = None,
    missed: str = ONCE,
    overlap: str = SKIP,
    jitter: float | timedelta = 0.0,
    channel: str | None = None,
    content: Mapping[str, Any] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Callable[[F], F]:
    """Declare an entry of the schedule, above ``@task``, or above a consumer with its ``channel``.

    ``when``: a cron expression of five fields, or ``every(minutes=5)``. ``tz``: the time zone of the expression, by
    default ``TIME_ZONE``. ``missed``: of the ticks that no worker could decide in time, ``"skip"`` runs none,
    ``"once"`` the last, ``"all"`` the last 100. ``overlap``: while the last run waits or runs, ``"skip"`` drops the
    tick, ``"queue"`` runs it afterwards, ``"allow"`` beside it. ``jitter``: seconds by which a run is delayed at most,
    at random. ``args`` and ``kwargs`` are those of the task, ``content`` that of the message. ``name``: by default the
    path of the task, or the channel; two entries of one task need names.

    Raises ``TypeError`` and ``ValueError`` that name the argument, and ``InvalidSettings`` if ``"mailrail.schedule"``
    is not in ``INSTALLED_APPS``.
    """
    _check_installed("periodic")
    times = _times(when, tz)
    options = dict[str, Any](missed=missed, overlap=overlap, jitter=jitter, args=args)
    options |= {"kwargs": {} if kwargs is None else kwargs, "content": {} if content is None else content}

    def declare(decorated: F) -> F:
        target = _target("periodic", decorated, channel)
        label = target["task"] or target["channel"] if name is None else name
        register(Definition(name=label, times=times, **target, **options), _place())
        return decorated

    return declare


def schedulable(decorated: Any = None, *, channel: str | None = None) -> Any:
    """Let people make entries of a task, or of a channel, in the admin: ``@schedulable`` above ``@task``.

    Above a consumer, it needs the channel: ``@schedulable(channel="index")``. Raises what ``periodic`` raises.
    """
    _check_installed("schedulable")
    if decorated is None and channel is not None:
        return lambda consumer: schedulable(consumer, channel=channel)
    target = _target("schedulable", decorated, channel)
    _schedulable[target["task"] or target["channel"]] = "task" if target["task"] else "channel"
    return decorated


def register(definition: Definition, place: str) -> None:
    """Keep a definition. Raises ``ValueError`` for a name that another one has."""
    new = Registered(definition, place)
    for old in _registered:
        if old == new:  # its module was imported again
            return
        if old.definition.name == definition.name:
            raise ValueError(
                f"name: the schedule has an entry {definition.name!r} already, declared at {old.place}. Give this one "
                "another name."
            )
    _registered.append(new)


def definitions() -> dict[str, Definition]:
    """Return the entries that code declares, by name."""
    import_modules()
    return {each.definition.name: each.definition for each in _registered}


def has_any() -> bool:
    """Tell whether there can be entries: those of code, or rows of the admin for what code has marked."""
    import_modules()
    return bool(_registered or _schedulable)


def schedulable_tasks() -> list[str]:
    """Return the paths of the tasks of which people may make entries."""
    import_modules()
    return sorted(name for name, kind in _schedulable.items() if kind == "task")


def schedulable_channels() -> list[str]:
    """Return the channels of which people may make entries."""
    import_modules()
    return sorted(name for name, kind in _schedulable.items() if kind == "channel")


def broken_modules() -> list[Broken]:
    """Return the modules of apps that could not be imported."""
    import_modules()
    return list(_broken)


def import_modules() -> None:
    """Import the modules of apps that may declare entries, once. What ``tasks`` raise is kept for the checks.

    Routing imports ``consumers``, and has checks of its own for what they raise.
    """
    global _are_imported
    with _importing:
        if _are_imported:
            return
        _are_imported = True
        for config in apps.get_app_configs():
            if config.module and module_has_submodule(config.module, "tasks"):
                try:
                    import_watched(f"{config.name}.tasks", import_module)
                except Exception as error:
                    _broken.append(Broken(f"{config.name}.tasks", error))
        with suppress(InvalidSettings):
            Routing.of_layer()


def _check_installed(decorator: str) -> None:
    if apps.apps_ready and not apps.is_installed("mailrail.schedule"):
        raise InvalidSettings(
            f'{decorator}() needs "mailrail.schedule" in INSTALLED_APPS: without it, no worker looks at the schedule.'
        )


def _times(when: Any, tz: str | None) -> Cron | Every:
    if isinstance(when, Every):
        if tz is not None:
            raise ValueError(f"tz={tz!r} has no effect with every(), which counts seconds. Leave it out.")
        return when
    if not isinstance(when, str):
        raise TypeError(f"periodic() needs a cron expression, or every(minutes=5), not {when!r}.")
    return Cron(when, tz)


def _target(decorator: str, decorated: Any, channel: str | None) -> dict[str, Any]:
    if channel is not None:
        return {"task": "", "channel": check_channel_name(channel)}
    path = getattr(decorated, "module_path", None)
    if not isinstance(path, str):
        raise TypeError(
            f"{decorator}() needs a task, so it stands above @task; or above a consumer with channel=…. Not "
            f"{decorated!r}."
        )
    _check_is_of_module(decorator, decorated)
    return {"task": path, "channel": ""}


def _check_is_of_module(decorator: str, task: Any) -> None:
    """Raise ``ValueError`` for a copy made by ``using``: workers enqueue what the module holds."""
    function = getattr(task, "func", None)
    module = sys.modules.get(getattr(function, "__module__", ""))
    found = getattr(module, getattr(function, "__qualname__", ""), task)
    if getattr(found, "func", None) is function and found != task:
        raise ValueError(
            f"{decorator}() takes {task.module_path} as its module holds it: what using() has changed would be lost. "
            "Give these options to @task, or to a task of their own."
        )


def _place() -> str:
    """Return the file and line where the caller's caller declares an entry."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"
