"""The layers stay small: few classes above each other, a narrow contract, and a narrower store."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer, RedisChannelLayer
from mailrail.layers.base import Claim, Inspect, Record, Send
from mailrail.layers.history import HistoryStore
from mailrail.layers.memory_history import MemoryHistory
from mailrail.layers.memory_store import MemoryStore
from mailrail.layers.postgresql import PostgresqlStore
from mailrail.layers.postgresql.history import PostgresqlHistory
from mailrail.layers.redis.history import RedisHistory
from mailrail.layers.redis.shards import RedisShards
from mailrail.layers.redis.store import RedisStore
from mailrail.layers.sqlite import SqliteStore
from mailrail.layers.sqlite.history import SqliteHistory
from mailrail.layers.store import DatabaseStore, Store

LAYERS: list[type[DurableLayer]] = [DatabaseChannelLayer, InMemoryChannelLayer, RedisChannelLayer]
HISTORIES: list[type] = [MemoryHistory, PostgresqlHistory, RedisHistory, SqliteHistory]
STORES: list[type] = [MemoryStore, PostgresqlStore, RedisShards, RedisStore, SqliteStore]


def verbs_of(protocol: Any) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(verb) for name, verb in vars(protocol).items() if is_verb(name, verb)}


def is_verb(name: str, verb: object) -> bool:
    return inspect.isfunction(verb) and not name.startswith("_")


@pytest.mark.parametrize("cls", [*LAYERS, *STORES])
def test_at_most_four_classes_of_ours_stand_above(cls: type) -> None:
    ours = [base for base in cls.__mro__[1:] if base.__module__.startswith("mailrail")]
    assert len(ours) <= 4


def test_the_contract_and_the_store_are_narrow() -> None:
    assert sum(len(verbs_of(protocol)) for protocol in (Send, Claim, Inspect)) <= 22
    assert len(verbs_of(Record)) <= 5 and len(verbs_of(HistoryStore)) <= 5
    assert len(verbs_of(Store)) <= 16 and len(verbs_of(DatabaseStore)) <= 2


@pytest.mark.parametrize("protocol", [Send, Claim, Inspect, Record])
def test_the_one_layer_has_the_verbs_of_the_contract_as_they_are_declared(protocol: type) -> None:
    declared = verbs_of(protocol)
    assert {name: inspect.signature(getattr(DurableLayer, name)) for name in declared} == declared


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_has_a_verb_of_its_own_way(layer: type[DurableLayer]) -> None:
    for name in (name for protocol in (Send, Claim, Inspect, Record) for name in verbs_of(protocol)):
        assert getattr(layer, name) is getattr(DurableLayer, name)


@pytest.mark.parametrize("store", STORES)
def test_stores_have_all_primitives(store: type) -> None:
    for name, signature in verbs_of(Store).items():
        assert inspect.signature(getattr(store, name)) == signature


@pytest.mark.parametrize("history", HISTORIES)
def test_what_keeps_history_has_all_primitives(history: type) -> None:
    for name, signature in verbs_of(HistoryStore).items():
        assert inspect.signature(getattr(history, name)) == signature
