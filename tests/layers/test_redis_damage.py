"""Keys and values of the Redis layer that somebody else has changed: nothing stops but what was changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from mailrail.errors import LayerUnavailable
from mailrail.layers import RedisChannelLayer, get_layer
from mailrail.messages import Message
from mailrail.routing import Rate, Routing
from mailrail.transient import is_outage
from mailrail.worker import Worker

from ..listed import dead_on, get_one, get_one_dead, waiting_on
from ..servers import ValkeyServer

TAG = b"{mailrail:asgi:bad}"
BOTH = {"bad": 10, "good": 10}
TYPES = {
    name.replace("parked:<lane>", "parked:p")
    .replace("placed:<lane>", "placed:p")
    .replace("<priority>", "0")
    .replace("<lane>", "l")
    .replace("<class>", "ValueError"): kind
    for name, kind in re.findall(
        r"--   (:\S+)\s+(hash|zset|set|string)\b",
        files("mailrail.layers.redis").joinpath("lua/shared.lua").read_text(),
    )
}
"""The table of keys at the head of the scripts, with names that are in use below."""


@pytest.fixture
def layer(valkey: ValkeyServer) -> Iterator[RedisChannelLayer]:
    layer = RedisChannelLayer([valkey.url])
    yield layer
    layer.stop_listening()


@pytest.fixture
def bare(valkey: ValkeyServer) -> Iterator[Any]:
    with valkey.client() as client:
        yield client


def fill(layer: RedisChannelLayer) -> UUID:
    """Every kind of key is in use on channel "bad". Returns a message that waits there."""
    dead = Message("bad", {})
    layer.enqueue([dead])
    [claim] = layer.claim("w", {"bad": 1}, 15).claims
    layer.bury(claim, "Traceback (most recent call last):\n  …\nValueError: no")
    layer.enqueue([Message("bad", {})])
    layer.retry(layer.claim("w", {"bad": 1}, 15).claims[0], 0.0, "ValueError: no")
    assert layer.claim("w", {"bad": 1}, 15).claims
    layer.enqueue([Message("bad", {}, lane="p", places=1), Message("bad", {}, lane="p", places=1)])
    assert len(layer.claim("w", {"bad": 2}, 15).claims) == 1
    layer.enqueue([Message("bad", {}, lane="l", priority=-1), Message("bad", {}, lane="l", priority=-1)])
    layer.enqueue([Message("bad", {}, key="k", lifetime=3600.0, priority=-1)])
    [waits] = layer.enqueue([Message("bad", {})])
    layer.enqueue([Message("good", {})])
    return waits


def read_all(layer: RedisChannelLayer) -> None:
    """Everything that people look with."""
    layer.stats()
    waiting_on(layer, "bad")
    layer.list_messages(["bad"], 10)
    for each in dead_on(layer, "bad"):
        get_one_dead(layer, "bad", each.message.id)
    layer.list_messages(["bad"], 10, "dead")
    layer.list_messages(["bad"], 10, "dead", error_class="ValueError")
    layer.error_classes(["bad"])


def set_aside(layer: RedisChannelLayer, claims: list[Message]) -> list[Message]:
    """As a worker does. Returns the others."""
    sound = []
    for claim in claims:
        if claim.defect:
            assert layer.bury(claim, claim.defect) == []
        else:
            sound.append(claim)
    return sound


def test_the_table_of_keys_is_what_is_damaged_here(layer: RedisChannelLayer, bare: Any) -> None:
    fill(layer)
    layer.pause("bad")
    found = {key.removeprefix(TAG).decode() for key in bare.keys(TAG.replace(b"{", rb"\{") + b"*")}
    assert set(TYPES) - found == set()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda state: b"",
    "cut": lambda state: state[:20],
    "cut by one": lambda state: state[:-1],
    "overwritten": lambda state: b"this is no state, and longer than one would be by far",
    "longer": lambda state: state + b"!",
    "of the same length": lambda state: b"\xff" * len(state),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_message_whose_state_cannot_be_read_is_set_aside(
    layer: RedisChannelLayer, bare: Any, damage: str
) -> None:
    id = fill(layer)
    state = bare.hget(TAG + b":state", id.bytes)
    bare.hset(TAG + b":state", id.bytes, DAMAGES[damage](state))
    assert layer.unreadable() == ["1 message of channel bad cannot be read; a worker sets them aside"]
    read_all(layer)
    found = get_one(layer, "bad", id)
    assert found is not None and found.defect

    claims = layer.claim("w", BOTH, 15).claims
    assert {claim.channel for claim in set_aside(layer, claims)} == {"bad", "good"}
    assert layer.unreadable() == []
    dead = get_one_dead(layer, "bad", id)
    assert dead is not None and "was damaged" in dead.error and dead.message.defect
    assert layer.requeue("bad", [id]) == [id]
    assert layer.discard("bad", [id]) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_while_it_runs_ends_with_its_lease(layer: RedisChannelLayer, bare: Any, damage: str) -> None:
    [id] = layer.enqueue([Message("bad", {})])
    [claim] = layer.claim("w", {"bad": 1}, 15).claims
    bare.hset(TAG + b":state", id.bytes, DAMAGES[damage](bare.hget(TAG + b":state", id.bytes)))
    if layer.finish([claim]) == []:  # its token is still to be read there
        assert (layer.stats() == {} and "cut" in damage) or damage == "longer"
        return
    bare.zadd(TAG + b":claimed", {id.bytes: 0})
    assert set_aside(layer, layer.claim("w", {"bad": 1}, 15).claims) == []
    assert [dead.message.id for dead in dead_on(layer, "bad")] == [id]


@pytest.mark.parametrize("place", ["head", "behind"])
def test_a_lane_goes_on_without_it(layer: RedisChannelLayer, bare: Any, place: str) -> None:
    ids = layer.enqueue([Message("bad", {"n": n}, lane="l") for n in range(3)])
    broken = ids.pop(0 if place == "head" else 1)
    bare.hset(TAG + b":state", broken.bytes, b"")
    ids += layer.enqueue([Message("bad", {}, lane="l")])
    ran = []
    for _ in range(6):
        for claim in set_aside(layer, layer.claim("w", {"bad": 10}, 15).claims):
            ran.append(claim.id)
            assert layer.finish([claim]) == []
    assert ran == ids
    ids = layer.enqueue([Message("bad", {}, lane="l")])
    assert [claim.id for claim in layer.claim("w", {"bad": 10}, 15).claims] == ids


def test_a_lane_whose_last_one_was_lost_takes_new_ones(layer: RedisChannelLayer, bare: Any) -> None:
    [id] = layer.enqueue([Message("bad", {}, lane="l")])
    bare.hset(TAG + b":state", id.bytes, b"")
    assert set_aside(layer, layer.claim("w", {"bad": 10}, 15).claims) == []
    ids = layer.enqueue([Message("bad", {}, lane="l")])
    assert [claim.id for claim in layer.claim("w", {"bad": 10}, 15).claims] == ids


@pytest.mark.parametrize("name", [name for name in TYPES if name != ":paused"])
def test_a_key_of_another_type_stops_its_channel_only(
    layer: RedisChannelLayer, bare: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(layer)
    bare.set(TAG + name.encode(), "overwritten")
    claims = layer.claim("w", BOTH, 15).claims
    assert [claim.channel for claim in claims].count("good") == 1
    assert layer.poll([*BOTH]) is not None or not claims
    if ":dead:" not in name and ":lane:" not in name and name not in (":parked:p", ":placed:p", ":places"):
        assert layer.unreadable() != []
    lines = [record.getMessage() for record in caplog.records if "channel bad" in record.getMessage()]
    assert len(lines) <= 1 and all("WRONGTYPE" in text for text in lines)
    layer.claim("w", BOTH, 15)
    assert len([record for record in caplog.records if "channel bad" in record.getMessage()]) == len(lines)
    layer.finish([claim for claim in claims if claim.channel == "good"])
    bare.delete(TAG + name.encode())
    layer.claim("w", BOTH, 15)
    read_all(layer)


@pytest.mark.parametrize("name", [name for name, kind in TYPES.items() if kind == "zset"])
def test_a_member_that_is_no_id_stops_nothing(layer: RedisChannelLayer, bare: Any, name: str) -> None:
    fill(layer)
    bare.zadd(TAG + name.encode(), {b"no id": 0})
    read_all(layer)
    claimed = layer.claim("w", BOTH, 15)
    sound = set_aside(layer, claimed.claims)
    assert {claim.channel for claim in sound} == {"bad", "good"}
    set_aside(layer, layer.claim("w", BOTH, 15).claims)
    read_all(layer)


@pytest.mark.parametrize("name", [name for name, kind in TYPES.items() if kind == "hash"])
@pytest.mark.parametrize("value", [b"", b"\xff\0garbage"])
def test_values_of_a_hash_stop_nothing(layer: RedisChannelLayer, bare: Any, name: str, value: bytes) -> None:
    fill(layer)
    key = TAG + name.encode()
    for field in bare.hkeys(key):
        bare.hset(key, field, value)
    read_all(layer)
    assert {claim.channel for claim in layer.claim("w", BOTH, 15).claims} == {"bad", "good"}
    assert layer.enqueue([Message("bad", {}, key="k")])


def test_a_dead_message_that_cannot_be_read_is_told_and_discarded(
    layer: RedisChannelLayer, bare: Any
) -> None:
    fill(layer)
    [dead] = dead_on(layer, "bad")
    bare.hset(TAG + b":graves", dead.message.id.bytes, b"x")
    assert layer.unreadable() == ["1 dead message of channel bad cannot be read: discard them"]
    [found] = dead_on(layer, "bad")
    assert found.message.defect and "cannot be read" in found.error
    assert layer.discard("bad", [found.message.id]) == [found.message.id]
    assert layer.unreadable() == []


def test_what_workers_tell_and_buckets_may_be_garbage(layer: RedisChannelLayer, bare: Any) -> None:
    layer.heartbeat("w", {"host": "h"})
    [details] = bare.keys("*workers*")
    bare.hset(details, "w", b"\xff garbage")
    assert [worker.info for worker in layer.workers()] == [{}]
    layer.take("b", 1, Rate(10, 1.0))
    [bucket] = bare.keys("*:b*")
    bare.set(bucket, "overwritten")
    assert layer.take("b", 1, Rate(10, 1.0)).granted == 1


@pytest.mark.django_db(transaction=True)
def test_channels_check_fails_until_it_is_set_aside_and_a_worker_goes_on(
    valkey: ValkeyServer, bare: Any, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": [valkey.url], "routing": "tests.routes.redis_routing"},
        }
    }
    layer = get_layer()
    layer.heartbeat("w", {"host": "h"})
    layer.enqueue([Message("noop", {}) for _ in range(3)])
    [id, *_] = bare.hkeys(b"{mailrail:asgi:noop}:state")
    bare.hset(b"{mailrail:asgi:noop}:state", id, b"")
    with pytest.raises(CommandError, match=r"1 message of channel noop cannot be read"):
        call_command("channels", "check")
    Worker(layer, Routing.of_layer(), ["noop"], drain=True).run()
    call_command("channels", "check")
    assert capsys.readouterr().out.startswith("OK")
    assert layer.stats()["noop"].dead == 1


def test_a_settlement_that_is_refused_is_no_outage(layer: RedisChannelLayer, bare: Any) -> None:
    """A worker sets it aside, and goes on with the other channels."""
    layer.enqueue([Message("bad", {})])
    [claim] = layer.claim("w", BOTH, 15).claims
    bare.set(TAG + b":state", "overwritten")
    with pytest.raises(LayerUnavailable, match="WRONGTYPE") as raised:
        layer.retry(claim, 1.0, "no")
    assert not is_outage(raised.value)
