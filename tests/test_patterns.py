"""``route("tenant.*")``: one route for all channels of a prefix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from mailrail import Channel
from mailrail.errors import InvalidSettings, LayerUnavailable
from mailrail.layers import DurableLayer, InMemoryChannelLayer
from mailrail.messages import ChannelStats
from mailrail.routes import Route
from mailrail.routing import Routing, route
from mailrail.selection import Selection
from mailrail.signals import channel_paused, channel_resumed
from mailrail.testing import drain, sent
from mailrail.worker import Worker, maintenance

from .routes import first, second
from .worker.test_worker import Running, Seen, send, until


def tenants(**options: Any) -> Route:
    return route("tenant.*", first, known_channels=lambda: ["tenant.a", "tenant.b"], **options)


def test_a_pattern_routes_all_channels_of_its_prefix_each_with_a_plan_of_its_own() -> None:
    routing = Routing([tenants(concurrency=2), route("tenant.b", second), route("tenant.b.*", second)])
    assert set(routing.plans) == {"tenant.a", "tenant.b"}
    assert (
        routing.plan_for("tenant.new").channel == "tenant.new"
        and routing.plan_for("tenant.new").concurrency == 2
    )
    assert [r.name for r in routing.plan_for("tenant.b").routes] == ["tests.routes.second"]  # its very name
    assert [r.name for r in routing.plan_for("tenant.b.c").routes] == ["tests.routes.second"]  # the longest
    assert "tenant.x" in routing and "tenant" not in routing and "tenants" not in routing
    with pytest.raises(KeyError):
        routing.plan_for("other")
    assert "Routed: tenant.*, tenant.a, tenant.b, tenant.b.*." in routing.no_route_for("other")


@pytest.mark.parametrize("name", ["*", ".*", "a*", "a.*.*", "a.*b", "x" * 98 + ".*"])
def test_no_other_use_of_an_asterisk_is_a_pattern(name: str) -> None:
    if name == "x" * 98 + ".*":
        assert route(name, first).channels == (name,)
        return
    with pytest.raises(ValueError, match="A channel name is 1 to 99 ASCII letters"):
        route(name, first)


def test_known_channels_are_checked() -> None:
    with pytest.raises(InvalidSettings, match=r"known_channels of 'tenant\.\*': A channel name is"):
        Routing([route("tenant.*", first, known_channels=lambda: ["tenant.ä"])])
    with pytest.raises(InvalidSettings, match=r"'other' does not belong to 'tenant\.\*'"):
        Routing([route("tenant.*", first, known_channels=lambda: ["other"])])
    with pytest.raises(TypeError, match="known_channels must be a function that returns names of channels"):
        route("tenant.*", first, known_channels=["tenant.a"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), ["other", "tenant.a", "tenant.b", "tenant.new"]),
        (Selection(("tenant",)), ["tenant.a", "tenant.b", "tenant.new"]),
        (Selection(("tenant.*",)), ["tenant.a", "tenant.b", "tenant.new"]),
        (Selection(("tenant.later", "other")), ["other", "tenant.later"]),
        (Selection(only=("tenant",)), ["tenant.a", "tenant.b", "tenant.new"]),
        (Selection(exclude=("tenant",)), ["other"]),
        (Selection(exclude=("tenant.n*",)), ["other", "tenant.a", "tenant.b"]),
        (Selection(("tenant",), only=("*.a", "other")), ["tenant.a"]),
    ],
)
def test_the_name_of_a_pattern_means_all_its_channels(selection: Selection, chosen: list[str]) -> None:
    routing = Routing([tenants(), route("other", first)])
    assert sorted(selection.channels(routing, ["tenant.new", "unrouted", "tenant"])) == chosen


def test_a_worker_serves_what_is_known_what_holds_messages_and_what_it_finds_later(
    layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SCAN_INTERVAL_S", 0.05)
    monkeypatch.setattr(maintenance, "RELAY_INTERVAL_S", 0.05)
    seen = Seen()
    work = route("tenant.*", seen, known_channels=lambda: ["tenant.a"])
    send(layer, channel="tenant.b")
    send(layer, channel="tenant.never")
    with Running(layer, work, channels=Selection(("tenant",), exclude=("tenant.never",))) as worker:
        until(lambda: len(seen) == 1)
        send(layer, channel="tenant.a")
        until(lambda: len(seen) == 2)
        send(layer, channel="tenant.later")
        until(lambda: len(seen) == 3)
        assert sorted(worker.plans) == ["tenant.a", "tenant.b", "tenant.later"]
    assert [m.channel for m in seen] == ["tenant.b", "tenant.a", "tenant.later"]
    assert layer.stats()["tenant.never"].ready == 1


def test_a_worker_of_patterns_alone_waits_for_their_first_channel(
    layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SCAN_INTERVAL_S", 0.05)
    monkeypatch.setattr(maintenance, "RELAY_INTERVAL_S", 0.05)
    seen = Seen()
    with Running(layer, route("tenant.*", seen)) as worker:
        until(lambda: layer.workers())
        assert not worker.plans
        send(layer, channel="tenant.first")
        until(lambda: len(seen) == 1)


class Sharded(InMemoryChannelLayer):
    """A layer with a shard that has all its channels but one."""

    is_sharded = True

    def __init__(self, shard: DurableLayer) -> None:
        super().__init__()
        self.shard = shard

    def shards(self, channels: Iterable[str]) -> Mapping[DurableLayer, list[str]]:
        return {self.shard: [channel for channel in channels if channel != "tenant.elsewhere"]}

    def list_channels(self) -> list[str]:
        return self.shard.list_channels()


class CallingWhenWoken(InMemoryChannelLayer):
    """A claim loop that is being made wakes its layer; ``on_wake`` gets the number of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.on_wake: Callable[[int], object] = lambda number: None
        self._calls = 0

    def wake(self) -> None:
        self._calls += 1
        self.on_wake(self._calls)
        super().wake()


def test_a_channel_found_while_the_loop_of_a_shard_is_made_has_its_lease_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maintenance, "RELAY_INTERVAL_S", 60.0)
    seen, shard = Seen(), CallingWhenWoken()
    known = route("tenant.*", seen, known_channels=lambda: ["tenant.a", "tenant.elsewhere"], lease=20)
    running = Running(Sharded(shard), known)

    def find(number: int) -> None:
        if number == 2:  # for the channels of the shard: the worker does not know the loop yet
            running.worker._serve(["tenant.new"])

    shard.on_wake = find
    with running as worker:
        until(lambda: "tenant.new" in worker.plans)
        send(shard, channel="tenant.new")
        until(lambda: seen and not shard.stats())
    claim = seen[0].claim
    assert claim.claimed_until - claim.sent_at >= 20


def test_a_channel_found_while_the_only_loop_is_made_is_served() -> None:
    seen, layer = Seen(), CallingWhenWoken()
    running = Running(layer, route("tenant.*", seen, known_channels=lambda: ["tenant.a"]))

    def find(number: int) -> None:
        if number == 1 and running.worker._maintenance._thread.thread.is_alive():  # else it finds nothing yet
            running.worker._serve(["tenant.new"])

    layer.on_wake = find
    with running as worker:
        until(lambda: layer.workers())
        worker._serve(["tenant.new"])
        send(layer, channel="tenant.new")
        until(lambda: seen)


class Away(InMemoryChannelLayer):
    """A host that cannot be asked for its channels."""

    def list_channels(self) -> list[str]:
        raise LayerUnavailable("away")

    def stats(self, most: int = 0) -> dict[str, ChannelStats]:
        raise LayerUnavailable("away")


class TwoHosts(Sharded):
    """A layer of two hosts, of which the first is away."""

    def each_host(self) -> list[DurableLayer]:
        return [Away(), self.shard]

    def list_channels(self) -> list[str]:
        return [name for host in self.each_host() for name in host.list_channels()]

    def stats(self, most: int = 0) -> dict[str, ChannelStats]:
        return {name: stats for host in self.each_host() for name, stats in host.stats().items()}


def test_a_host_that_is_away_hides_no_channel_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    seen, shard = Seen(), InMemoryChannelLayer()
    send(shard, channel="tenant.new")
    send(shard, channel="unrouted")
    worker = Worker(TwoHosts(shard), Routing([route("tenant.*", seen)]), drain=True)
    worker.run()
    assert len(seen) == 1
    text = "cannot ask which channels of tenant.* hold messages, trying again in a minute: LayerUnavailable: away"
    assert (text, logging.WARNING) in [(r.getMessage(), r.levelno) for r in caplog.records]
    send(shard, channel="tenant.later")
    with pytest.raises(LayerUnavailable):  # maintenance tells it
        worker._scan()
    assert "tenant.later" in worker.plans and "channel unrouted has 1 message and no route" in caplog.text


def test_a_draining_worker_serves_what_the_layer_holds(layer: DurableLayer) -> None:
    seen = Seen()
    send(layer, channel="tenant.x")
    Worker(layer, Routing([route("tenant.*", seen)]), drain=True).run()
    assert len(seen) == 1


@pytest.fixture
def routed(settings: Any, monkeypatch: pytest.MonkeyPatch) -> InMemoryChannelLayer:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.InMemoryChannelLayer"}}
    routing = Routing([route("tenant.*", Seen()), route("other", Seen())])
    monkeypatch.setattr(Routing, "of_layer", lambda alias=None: routing)
    layer = Channel("other").layer
    assert isinstance(layer, InMemoryChannelLayer)
    return layer


def printed(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_commands_take_the_name_of_a_pattern_for_all_its_channels(routed: InMemoryChannelLayer) -> None:
    calls: list[tuple[str, str, str | None]] = []

    def tell(name: str) -> Any:
        return lambda sender, **kwargs: calls.append((name, sender, kwargs.get("reason")))

    pause, resume = tell("paused"), tell("resumed")
    channel_paused.connect(pause)
    channel_resumed.connect(resume)
    try:
        ids = [Channel(f"tenant.{name}").send({"id": name}) for name in "ab"]
        text = printed("channels", "pause", "tenant", "--reason", "why")
        assert text == "tenant.a, tenant.b are paused: messages are kept, and nobody claims them.\n"
        assert all(routed.stats()[f"tenant.{name}"].paused for name in "ab")
        assert printed("channels", "resume", "tenant") == (
            "tenant.a, tenant.b are resumed: workers claim their messages again.\n"
        )
        because = {"pause": "why", "resume": None}
        assert calls == [
            (f"{what}d", f"tenant.{name}", why) for what, why in because.items() for name in "ab"
        ]
    finally:
        channel_paused.disconnect(pause)
        channel_resumed.disconnect(resume)
    assert all(str(id) in printed("channels", "waiting", "tenant") for id in ids)
    assert "no route" not in printed("channels")
    assert printed("channels", "cancel", "tenant", str(ids[1])) == "1 cancelled\n"
    assert [m.channel for m in sent("tenant")] == ["tenant.a"]
    assert [ran.message.claim.channel for ran in drain("tenant")] == ["tenant.a"]
    for name in "ab":
        [claim] = (Channel(f"tenant.{name}").send({}), routed.claim("w", {f"tenant.{name}": 1}, 60).claims)[1]
        routed.bury(claim, f"error of {name}")
    assert "error of a" in (dead := printed("channels", "dead", "tenant")) and "error of b" in dead
    assert printed("channels", "requeue", "tenant", "--all") == "2 requeued\n"
    with pytest.raises(CommandError, match="There is no channel 'tenants'"):
        printed("channels", "waiting", "tenants")
