"""The schedule on each layer, with entries of the test alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from mailrail.layers import DurableLayer, get_layer
from mailrail.moments import aware
from mailrail.schedule import engine, registry
from mailrail.schedule.definition import Definition
from mailrail.schedule.enqueuing import database
from mailrail.schedule.models import ScheduleEntry, ScheduleTick
from mailrail.schedule.times import Cron

from ..tasks.conftest import layer_settings

LAYERS = [
    pytest.param("sqlite", marks=pytest.mark.django_db),
    pytest.param("postgres", marks=pytest.mark.django_db(databases=["default", "postgres"])),
    pytest.param("redis", marks=pytest.mark.django_db),
]
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)

Declare = Callable[..., Definition]


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry is declared, and nothing marked, but by the test."""
    registry.import_modules()
    monkeypatch.setattr(registry, "_registered", [])
    monkeypatch.setattr(registry, "_schedulable", {})
    engine._told.clear()


@pytest.fixture(params=LAYERS)
def on_layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()


@pytest.fixture(params=LAYERS[:2])
def on_database(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()


def declare(**options: Any) -> Definition:
    """Declare an entry for every ten minutes, of a channel unless the options say another thing."""
    defaults: dict[str, Any] = {"name": "job", "times": Cron("*/10 * * * *", "UTC"), "overlap": "allow"}
    if "task" not in options:
        defaults["channel"] = "ledger"
    definition = Definition(**{**defaults, **options})
    registry._registered[:] = [
        each for each in registry._registered if each.definition.name != definition.name
    ]
    registry.register(definition, "a test")
    return definition


def ticks(decision: str = "enqueued") -> list[datetime]:
    """The ticks of which this was decided, in order."""
    rows = ScheduleTick.objects.using(database()).filter(decision=decision)
    return [in_utc(tick) for tick in rows.order_by("tick").values_list("tick", flat=True)]


def decided_until() -> datetime:
    return in_utc(row().decided_until)


def in_utc(moment: datetime) -> datetime:
    return aware(moment).astimezone(UTC)


def row(name: str = "job") -> ScheduleEntry:
    return ScheduleEntry.objects.using(database()).select_related("last").get(name=name)
