"""Receivers that hear of one channel: its name is compared by value, and all else is as in Django."""

from __future__ import annotations

import asyncio
import enum
import gc
import json
from typing import Any

import pytest
from django.db import models
from django.dispatch import receiver

from mailrail import signals
from mailrail.signals import ChannelSignal


def name(text: str) -> str:
    """This text as a new string, as a layer reads a channel's name."""
    return str(json.loads(json.dumps(text)))


@pytest.fixture
def signal() -> ChannelSignal:
    return ChannelSignal()


@pytest.fixture
def heard() -> list[Any]:
    return []


@pytest.fixture
def hear(heard: list[Any]) -> Any:
    def hear(sender: object, **facts: Any) -> str:
        heard.append(sender)
        return "heard"

    return hear


def test_all_signals_of_a_worker_are_of_this_kind() -> None:
    told = (
        signals.message_started,
        signals.message_finished,
        signals.message_retried,
        signals.message_buried,
        signals.message_discarded,
    )
    assert all(isinstance(signal, ChannelSignal) for signal in told)


@pytest.mark.parametrize("verb", ["send", "send_robust", "asend", "asend_robust"])
def test_a_receiver_hears_of_its_channel_and_of_no_other(
    signal: ChannelSignal, heard: list[Any], hear: Any, verb: str
) -> None:
    def send(sender: object) -> list[Any]:
        answers: Any = getattr(signal, verb)(sender, message=None)
        return list(asyncio.run(answers) if asyncio.iscoroutine(answers) else answers)

    signal.connect(hear, sender=name("orders"))
    assert send(name("orders")) == [(hear, "heard")]
    assert send(name("orders.more")) == []
    assert send(None) == [] and send(object()) == []
    assert heard == ["orders"]


def test_a_name_is_heard_after_the_string_it_was_connected_with_is_gone(
    signal: ChannelSignal, heard: list[Any], hear: Any
) -> None:
    for n in range(100):
        signal.connect(hear, sender=name(f"channel-{n}"))
    gc.collect()
    others = [name(f"other-{n}") for n in range(1000)]  # they may lie where those lay
    for other in others:
        signal.send(other)
    assert heard == []
    for n in range(100):
        signal.send(name(f"channel-{n}"))
    assert heard == [f"channel-{n}" for n in range(100)]


def test_a_member_of_an_enum_is_its_text(signal: ChannelSignal, heard: list[Any], hear: Any) -> None:
    class Choices(models.TextChoices):
        ORDERS = "orders", "The orders"

    class Names(enum.StrEnum):
        ORDERS = "orders"

    signal.connect(hear, sender=Choices.ORDERS)
    signal.connect(hear, sender=Names.ORDERS)  # the same
    for sender in (name("orders"), Choices.ORDERS, Names.ORDERS):
        signal.send(sender)
    assert heard == ["orders"] * 3 and {type(sender) for sender in heard} == {str}


def test_a_receiver_without_a_sender_hears_everything_once(
    signal: ChannelSignal, heard: list[Any], hear: Any
) -> None:
    signal.connect(hear)
    sender = object()
    for told in (name("orders"), sender, None):
        signal.send(told)
    assert heard == ["orders", sender, None]


def test_a_sender_that_is_no_name_is_compared_by_identity(
    signal: ChannelSignal, heard: list[Any], hear: Any
) -> None:
    class Same:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    one, other = Same(), Same()
    signal.connect(hear, sender=one)
    signal.send(other)
    assert heard == []
    signal.send(one)
    assert len(heard) == 1 and heard[0] is one


def test_connecting_twice_is_connecting_once_and_disconnecting_ends_it(
    signal: ChannelSignal, heard: list[Any], hear: Any
) -> None:
    signal.connect(hear, sender=name("orders"))
    signal.connect(hear, sender=name("orders"))
    assert signal.has_listeners(name("orders")) and not signal.has_listeners(name("others"))
    assert not signal.disconnect(hear, sender=name("others"))
    assert signal.disconnect(hear, sender=name("orders"))
    assert not signal.disconnect(hear, sender=name("orders"))
    signal.send(name("orders"))
    assert heard == [] and not signal.has_listeners(name("orders"))


def test_a_dispatch_uid_is_one_for_each_name(signal: ChannelSignal, heard: list[Any], hear: Any) -> None:
    def second(**facts: Any) -> None:
        heard.append("second")

    signal.connect(hear, sender=name("orders"), dispatch_uid="us")
    signal.connect(second, sender=name("orders"), dispatch_uid="us")
    signal.connect(second, sender=name("others"), dispatch_uid="us")
    signal.send(name("orders"))
    signal.send(name("others"))
    assert heard == ["orders", "second"]
    assert signal.disconnect(sender=name("orders"), dispatch_uid="us")
    signal.send(name("orders"))
    assert heard == ["orders", "second"]


def test_receivers_are_held_weakly_unless_told_otherwise(signal: ChannelSignal, heard: list[Any]) -> None:
    def connect(weak: bool) -> None:
        def hear(sender: object, **facts: Any) -> None:
            heard.append((sender, weak))

        signal.connect(hear, sender=name("orders"), weak=weak)

    connect(weak=True)
    connect(weak=False)
    gc.collect()
    signal.send(name("orders"))
    assert heard == [("orders", False)]


def test_robust_sending_gives_the_errors_of_sync_and_async_receivers(
    signal: ChannelSignal, heard: list[Any], hear: Any
) -> None:
    @receiver(signal, sender=name("orders"))
    def raises(**facts: Any) -> None:
        raise RuntimeError("sync")

    @receiver(signal, sender=name("orders"))
    async def raises_later(**facts: Any) -> None:
        raise RuntimeError("async")

    @receiver(signal, sender=name("orders"))
    async def hears(sender: object, **facts: Any) -> None:
        heard.append(sender)

    signal.connect(hear, sender=name("orders"))
    answers = dict(signal.send_robust(name("orders")))
    assert answers[hear] == "heard" and answers[hears] is None
    assert str(answers[raises]) == "sync" and str(answers[raises_later]) == "async"
    assert heard == ["orders", "orders"]
