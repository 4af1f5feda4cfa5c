"""Consumers of Channels 4 under our worker: one message each, retries, leases and dead messages."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import channel_layers, get_channel_layer
from django.core.management import CommandError, call_command
from django.db import connections

from mailrail.applications import serves
from mailrail.errors import InvalidSettings
from mailrail.layers import DurableLayer
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import Worker

from ..consumers4 import handled
from ..listed import dead_on, waiting_on

PATH = "tests.consumers4."


@pytest.fixture(autouse=True)
def in_the_settings(settings: Any, layer: DurableLayer) -> Iterator[None]:
    """The layer is the one that Channels finds; the application is ours."""
    settings.ASGI_APPLICATION = f"{PATH}application"
    settings.MAILRAIL = {"ATTEMPTS": 2, "BACKOFF": 0}
    before = channel_layers.set("default", layer)
    handled.clear()
    yield
    channel_layers.set("default", before)


def send(layer: DurableLayer, channel: str, type: Any, **content: Any) -> None:
    layer.enqueue([Message(channel, {"type": type, **content})])


def work(layer: DurableLayer, *channels: str, routes: Any = (), **options: Any) -> Worker:
    """Run a worker until nothing is due."""
    routing = Routing(routes, layer.supports_atomic).with_applications(channels)
    worker = Worker(layer, routing, drain=True, **options)
    worker.run()
    return worker


class TestHandling:
    @pytest.mark.parametrize("channel", ["sync", "async"])
    def test_what_channels_sends_its_consumer_handles(self, layer: DurableLayer, channel: str) -> None:
        async_to_sync(get_channel_layer().send)(channel, {"type": "make", "id": 7})
        work(layer, channel)
        [(where, message, _)] = handled
        assert (where, message) == (channel, {"type": "make", "id": 7})
        assert layer.stats() == {}

    @pytest.mark.parametrize("channel", ["sync", "async"])
    def test_each_message_has_an_instance_of_its_own(self, layer: DurableLayer, channel: str) -> None:
        for n in range(20):
            send(layer, channel, "make", n=n)
        work(layer, channel, threads=3)
        assert sorted(message["n"] for _, message, _ in handled) == list(range(20))
        assert layer.stats() == {}

    def test_the_type_names_the_method_with_underscores_for_dots(self, layer: DurableLayer) -> None:
        send(layer, "async", "make.dotted")
        work(layer, "async")
        assert handled == ["dotted"]

    def test_sync_consumers_run_beside_each_other(self, layer: DurableLayer) -> None:
        send(layer, "sync", "meet")
        send(layer, "sync", "meet")
        work(layer, "sync", threads=2)
        assert handled == ["met", "met"]

    def test_one_that_stops_itself_is_done(self, layer: DurableLayer) -> None:
        send(layer, "sync", "stop")
        work(layer, "sync")
        assert handled == ["stopped"] and layer.stats() == {}

    def test_an_application_that_returns_is_done(self, layer: DurableLayer) -> None:
        send(layer, "bare", "make")
        work(layer, "bare")
        [(scope, message)] = handled
        assert scope == {"type": "channel", "channel": "bare", "user": "somebody"}
        assert message == {"type": "make"} and layer.stats() == {}

    def test_groups_and_names_of_this_process_work_as_ever(self, layer: DurableLayer) -> None:
        if "groups" not in layer.extensions:  # type: ignore[attr-defined]  # every layer is one of Channels, too
            pytest.skip("a Redis Cluster has no groups; tests/layers/test_redis_cluster.py says what it says")
        send(layer, "async", "chat")
        work(layer, "async")
        assert handled == [True]

    def test_what_a_consumer_sends_to_a_named_channel_is_durable(self, layer: DurableLayer) -> None:
        send(layer, "async", "forward", n=5)
        work(layer, "async")
        assert [m.content for m in waiting_on(layer, "sync")] == [{"type": "make", "n": 5}]
        work(layer, "sync")
        assert handled[0][1] == {"type": "make", "n": 5}

    def test_nothing_is_left_behind(self, layer: DurableLayer, caplog: pytest.LogCaptureFixture) -> None:
        """No task that still waits for messages on the instance's own channel, which asyncio would complain of."""
        for n in range(5):
            send(layer, "async", "make", n=n)
            send(layer, "sync", "make", n=n)
        with caplog.at_level(logging.ERROR):
            work(layer, "sync", "async")
            gc.collect()
        assert len(handled) == 10 and not caplog.records


class TestFailing:
    @pytest.mark.parametrize("channel", ["sync", "async"])
    def test_what_raises_is_retried_and_buried_with_its_traceback(
        self, layer: DurableLayer, channel: str
    ) -> None:
        send(layer, channel, "fail")
        work(layer, channel)
        [dead] = dead_on(layer, channel)
        assert dead.message.attempt == 2
        assert "consumers4.py" in dead.error and dead.error.endswith("RuntimeError: boom\n")

    def test_a_type_without_a_method_is_tried_again_and_then_buried(self, layer: DurableLayer) -> None:
        """Workers of the next release may know it."""
        send(layer, "sync", "unheard.of")
        work(layer, "sync")
        [dead] = dead_on(layer, "sync")
        assert dead.message.attempt == 2 and "No handler for message type unheard.of" in dead.error

    @pytest.mark.parametrize("type", [None, 7, "", "_private", ".private"])
    def test_what_is_no_type_is_buried_at_once(self, layer: DurableLayer, type: Any) -> None:
        send(layer, "sync", type)
        work(layer, "sync")
        [dead] = dead_on(layer, "sync")
        assert dead.message.attempt == 1 and dead.error.startswith(f"Its type is {type!r}. ")
        assert handled == []

    def test_nobody_hears_an_answer(self, layer: DurableLayer) -> None:
        send(layer, "sync", "answer")
        work(layer, "sync")
        assert "'sync' called send(): nobody is connected" in dead_on(layer, "sync")[0].error

    def test_a_time_limit_holds(self, layer: DurableLayer, settings: Any) -> None:
        settings.MAILRAIL = {"ATTEMPTS": 1, "TIMEOUT": 0.1}
        send(layer, "sync", "sleep", seconds=0.5)
        work(layer, "sync")
        assert "limit of 0.1 seconds" in dead_on(layer, "sync")[0].error


class TestRouting:
    def test_a_route_wins(self, layer: DurableLayer) -> None:
        seen: list[Any] = []
        send(layer, "sync", "make")
        work(layer, "sync", routes=[route("sync", lambda message: seen.append(message.content))])
        assert seen == [{"type": "make"}] and handled == []

    def test_routes_and_applications_work_beside_each_other(self, layer: DurableLayer) -> None:
        seen: list[Any] = []
        send(layer, "ours", "make")
        send(layer, "sync", "make")
        work(layer, "sync", routes=[route("ours", lambda message: seen.append(message.content))])
        assert len(seen) == len(handled) == 1

    @pytest.mark.parametrize(
        ("name", "served"),
        [
            ("application", {"sync", "async"}),
            ("router", {"sync", "async"}),
            ("without_channels", set()),
            ("opaque", {"sync", "async", "unknown"}),
        ],
    )
    def test_what_an_application_serves(self, settings: Any, name: str, served: set[str]) -> None:
        settings.ASGI_APPLICATION = PATH + name
        assert {channel for channel in ("sync", "async", "unknown") if serves(channel)} == served

    @pytest.mark.parametrize("path", [None, "tests.asgi.application"])
    def test_no_application_serves_none(self, settings: Any, path: str | None) -> None:
        settings.ASGI_APPLICATION = path
        assert not serves("sync")

    def test_one_that_cannot_be_imported_is_said(self, settings: Any) -> None:
        settings.ASGI_APPLICATION = "tests.nowhere.application"
        with pytest.raises(InvalidSettings, match=r"ASGI_APPLICATION: .*'tests.nowhere'"):
            serves("sync")

    def test_messages_for_an_application_are_not_called_unrouted(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        send(layer, "async", "make")
        send(layer, "nobody", "make")
        worker = Worker(layer, Routing([route("ours", print)]), drain=True)
        with caplog.at_level(logging.WARNING):
            worker._report_unrouted(layer)
        assert "channel nobody has 1 message and no route" in caplog.text
        assert "channel async" not in caplog.text
        connections.close_all()


class TestCommand:
    def test_a_name_that_neither_knows_is_refused(self) -> None:
        with pytest.raises(CommandError, match=r"No route for channel 'unknown'\. Routed: "):
            call_command("runworker", "unknown")
