"""Tasks on each layer, with their records on its database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mailrail.layers import DurableLayer, get_layer
from mailrail.tasks import ChannelBackend
from mailrail.tasks.compat import task_finished

from ..servers import ValkeyServer

LAYERS = [
    pytest.param("memory", marks=pytest.mark.django_db),
    pytest.param("sqlite", marks=pytest.mark.django_db),
    pytest.param("postgres", marks=pytest.mark.django_db(databases=["default", "postgres"])),
    pytest.param("redis", marks=pytest.mark.django_db),
]


def layer_settings(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return ``CHANNEL_LAYERS`` for one of the layers."""
    kinds = {"memory": "InMemoryChannelLayer", "redis": "RedisChannelLayer"}
    config: dict[str, Any] = {"routing": "tests.routes.redis_routing"}  # without atomic consumers
    if name == "postgres":
        config = {"using": "postgres"}
    elif name == "redis":
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        config |= {"hosts": [valkey.url]}
    kind = kinds.get(name, "DatabaseChannelLayer")
    return {"default": {"BACKEND": f"mailrail.layers.{kind}", "CONFIG": config}}


@pytest.fixture(params=LAYERS)
def on_layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    """Each layer in turn. The tests run in a transaction that is rolled back."""
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()


@pytest.fixture
def ended() -> Iterator[list[Any]]:
    """The results of which receivers hear that they are finished."""
    heard: list[Any] = []

    def note(task_result: Any, **facts: Any) -> None:
        heard.append(task_result)

    task_finished.connect(note, sender=ChannelBackend)
    yield heard
    task_finished.disconnect(note, sender=ChannelBackend)
