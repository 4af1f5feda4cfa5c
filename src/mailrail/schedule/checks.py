"""System checks of the schedule.

mailrail.schedule.E001  a module that may declare entries cannot be imported, or declares one that is wrong
mailrail.schedule.E002  "mailrail" is not in INSTALLED_APPS, or "mailrail.tasks" is not, and an entry runs a task
mailrail.schedule.E003  the task of an entry cannot be enqueued together with its tick
mailrail.schedule.E004  overlap="queue" for a task, or a route, that has lanes of its own
mailrail.schedule.E005  the args and kwargs of an entry do not fit its task
mailrail.schedule.W001  the channel of an entry has no route
mailrail.schedule.W002  a module that may declare entries needs a package that is not installed
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning, register

from mailrail import InvalidSettings
from mailrail.conf import read_for_checks
from mailrail.routing import Routing

from . import registry
from .choices import QUEUE
from .definition import Definition
from .enqueuing import bind_arguments, database, task_of


@register()
@read_for_checks()
def check_schedule(**kwargs: Any) -> list[CheckMessage]:
    """Check the entries that code declares; those of the admin are checked by its form."""
    if not apps.is_installed("mailrail"):
        return [_not_installed("mailrail")]
    try:
        database()
    except InvalidSettings:
        return [*_check_modules()]  # mailrail.E002 and E003 report the layer
    broken = {each.module for each in registry.broken_modules()}
    entries = [
        entry for entry in registry.definitions().values() if entry.task.rpartition(".")[0] not in broken
    ]
    return [
        *_check_modules(),
        *chain.from_iterable(map(check_entry, entries)),
        *chain.from_iterable(map(_check_arguments, entries)),
    ]


def _not_installed(app: str) -> CheckMessage:
    return Error(
        f"The schedule needs {app!r} in INSTALLED_APPS.",
        hint=f"Add {app!r} to INSTALLED_APPS, and run: python manage.py migrate",
        id="mailrail.schedule.E002",
    )


def _check_modules() -> Iterator[CheckMessage]:
    """Check the modules ``tasks``. Those of apps that were made for Celery import it, and are no reason to stop."""
    hint = "Entries of the schedule that it declares are not run."
    for broken in registry.broken_modules():
        text = f"{broken.module} cannot be imported: {type(broken.error).__name__}: {broken.error}"
        if isinstance(broken.error, ModuleNotFoundError):
            yield Warning(text, hint=hint, id="mailrail.schedule.W002")
        else:
            yield Error(text, hint=hint, id="mailrail.schedule.E001")


def check_entry(definition: Definition) -> Iterator[CheckMessage]:
    """Check an entry of code, or of the admin's form."""
    if not definition.task:
        yield from _check_channel(definition)
    elif not apps.is_installed("mailrail.tasks"):
        yield _not_installed("mailrail.tasks")
    else:
        yield from _check_task(definition)


def _check_task(definition: Definition) -> Iterator[CheckMessage]:
    try:
        task = task_of(definition)
    except InvalidSettings as error:
        yield Error(str(error), id="mailrail.schedule.E003")
        return
    effective = task.get_backend().task_options.effective(task, task.module_path)
    if definition.overlap == QUEUE and effective.has_lane:
        yield _has_lanes(definition, f"{definition.task} has a lane, or concurrency=(number, function)")


def _check_arguments(definition: Definition) -> Iterator[CheckMessage]:
    if not definition.task or not apps.is_installed("mailrail.tasks"):
        return
    try:
        bind_arguments(task_of(definition), definition)
    except InvalidSettings:
        return  # E003 reports it
    except TypeError as error:
        yield Error(
            f"{definition.name}: {definition.task} does not take these args and kwargs: {error}.",
            hint="Write args=[…] and kwargs={…} in periodic() as the function of the task takes them.",
            id="mailrail.schedule.E005",
        )


def _check_channel(definition: Definition) -> Iterator[CheckMessage]:
    try:
        routing = Routing.of_layer()
    except InvalidSettings:
        return  # mailrail.E002 to E004 report it
    if definition.channel not in routing:
        yield Warning(
            f"{definition.name}: {routing.no_route_for(definition.channel)}",
            hint="Its messages wait until a consumer comes.",
            id="mailrail.schedule.W001",
        )
    elif definition.overlap == QUEUE and routing.plan_for(definition.channel).limit_per_value is not None:
        yield _has_lanes(
            definition, f"the route of {definition.channel!r} has concurrency=(number, function)"
        )


def _has_lanes(definition: Definition, reason: str) -> CheckMessage:
    return Error(
        f"{definition.name}: overlap='queue' runs one at a time in a lane, and {reason}.",
        hint="Write overlap='skip' or 'allow', or leave the lane of the task or the route out.",
        id="mailrail.schedule.E004",
    )
