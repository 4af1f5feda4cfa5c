"""Both layers as Channels 4 layers: groups and ``!`` names within a process, named channels durable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.db import connections

from mailrail import Channel
from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer, get_layer
from mailrail.layers.channels_bridge import LocalChannels
from mailrail.messages import Message

from .listed import dead_on, waiting_on

pytestmark = pytest.mark.django_db(transaction=True)

BACKENDS = {"memory": InMemoryChannelLayer, "sqlite": DatabaseChannelLayer}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


@pytest.fixture
def layer(backend: Any) -> Any:
    return backend()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it to its end, with the layer's verbs on this thread, as under ``async_to_sync`` in a view."""

    async def within_reason() -> Any:
        return await asyncio.wait_for(coroutine, 30)

    return async_to_sync(within_reason)()


class TestInTheSettings:
    def test_channels_finds_the_very_layer_that_mailrail_uses(self, settings: Any, backend: Any) -> None:
        path = f"{LocalChannels.__module__.rpartition('.')[0]}.{backend.__name__}"
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": path}}
        assert isinstance(get_channel_layer(), backend)
        assert get_channel_layer() is get_layer()

    def test_a_send_through_channels_is_claimed_through_mailrail(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
        run(get_channel_layer().send("work", {"type": "do.it", "id": 7}))
        [claim] = get_layer().claim("w", {"work": 5}, 15.0).claims
        assert claim.content == {"type": "do.it", "id": 7}

    def test_it_says_what_it_can(self, layer: Any) -> None:
        assert {"groups", "flush"} <= set(layer.extensions)


class TestChannelsOfThisProcess:
    def test_a_new_channel_carries_what_is_sent_to_it(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            assert "!" in name
            await layer.send(name, {"type": "hello"})
            await layer.send(name, {"type": "again"})
            return [await layer.receive(name), await layer.receive(name)]

        assert run(talk()) == [{"type": "hello"}, {"type": "again"}]

    def test_new_channels_differ_and_take_a_prefix(self, layer: Any) -> None:
        async def names() -> list[str]:
            return [await layer.new_channel("chat.") for _ in range(50)]

        made = run(names())
        assert len(set(made)) == 50 and all(name.startswith("chat.") for name in made)

    def test_a_receiver_waits_for_what_is_sent_later(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            waiting = asyncio.create_task(layer.receive(name))
            await asyncio.sleep(0)
            assert not waiting.done()
            await layer.send(name, {"type": "late"})
            return await waiting

        assert run(talk()) == {"type": "late"}

    def test_nothing_of_it_is_kept_and_content_need_not_be_json(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            await layer.send(name, {"bytes": b"\xff"})
            assert await layer.acall("stats") == {}
            return await layer.receive(name)

        assert run(talk()) == {"bytes": b"\xff"}

    def test_a_full_channel_is_full(self, backend: Any) -> None:
        async def fill(layer: Any, name: str) -> int:
            for sent in range(1000):
                try:
                    await layer.send(name, {"n": sent})
                except ChannelFull:
                    return sent
            raise AssertionError("it is never full")

        assert run(fill(backend(capacity=3), "a!b")) == 3
        limits = backend(capacity=3, channel_capacity={"big*": 5, "small!x": 1})
        assert run(fill(limits, "big!x")) == 5
        assert run(fill(limits, "small!x")) == 1
        assert run(fill(limits, "other!x")) == 3

    def test_what_expired_is_not_received(self, backend: Any) -> None:
        async def talk(layer: Any) -> Any:
            await layer.send("a!b", {"n": 1})
            layer.expiry = 60
            await layer.send("a!b", {"n": 2})
            return await layer.receive("a!b")

        assert run(talk(backend(expiry=-1))) == {"n": 2}  # over before it was sent

    def test_cancelling_a_receiver_loses_nothing(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(layer.receive(name), 0.01)
            await layer.send(name, {"n": 1})
            return await layer.receive(name)

        assert run(talk()) == {"n": 1}

    @pytest.mark.parametrize("name", ["", "no spaces", "a" * 100, "é", "a!b!c", None, 7])
    def test_a_bad_name_is_refused(self, layer: Any, name: Any) -> None:
        with pytest.raises(TypeError, match="Channel name must be"):
            run(layer.send(name, {}))
        with pytest.raises(TypeError, match="Channel name must be"):
            run(layer.receive(name))


class TestGroups:
    def test_every_member_gets_what_the_group_gets(self, layer: Any) -> None:
        async def talk() -> Any:
            names = [await layer.new_channel() for _ in range(3)]
            for name in names[:2]:
                await layer.group_add("room", name)
            await layer.group_send("room", {"type": "hello"})
            got = [await layer.receive(name) for name in names[:2]]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(layer.receive(names[2]), 0.01)
            return got

        assert run(talk()) == [{"type": "hello"}] * 2

    def test_who_left_gets_nothing(self, layer: Any) -> None:
        async def talk() -> None:
            name = await layer.new_channel()
            await layer.group_add("room", name)
            await layer.group_discard("room", name)
            await layer.group_send("room", {"type": "hello"})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(layer.receive(name), 0.01)

        run(talk())

    def test_an_empty_group_takes_anything(self, layer: Any) -> None:
        run(layer.group_send("nobody", {"type": "hello"}))
        assert layer.stats() == {}

    def test_a_named_member_gets_a_durable_message(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            await layer.group_add("room", "work")
            await layer.group_add("room", name)
            await layer.group_send("room", {"type": "hello"})
            return await layer.receive(name)

        assert run(talk()) == {"type": "hello"}
        [claim] = layer.claim("w", {"work": 5}, 15.0).claims
        assert claim.content == {"type": "hello"}

    def test_flush_forgets_groups(self, layer: Any) -> None:
        async def talk() -> None:
            await layer.group_add("room", "work")
            await layer.flush()
            await layer.group_send("room", {"type": "hello"})

        run(talk())
        assert layer.stats() == {}

    def test_a_bad_group_name_is_refused(self, layer: Any) -> None:
        with pytest.raises(TypeError, match="Group name must be"):
            run(layer.group_add("no spaces", "work"))


class TestNamedChannels:
    def test_send_makes_a_durable_message(self, layer: Any) -> None:
        run(layer.send("work", {"n": 1}))
        [message] = waiting_on(layer, "work")
        assert message.content == {"n": 1}

    @pytest.mark.parametrize("content", [{"body": b"\xff"}, {"list": [b""]}])
    def test_bytes_are_refused_by_path(self, layer: Any, content: Any) -> None:
        with pytest.raises(
            TypeError, match=r'^content\["(body|list)"\].* is a bytes, which JSON cannot hold'
        ):
            run(layer.send("work", content))
        assert layer.stats() == {}

    def test_what_is_no_dict_is_refused(self, layer: Any) -> None:
        with pytest.raises(TypeError, match=r"^content must be a dict"):
            run(layer.send("work", ["n"]))

    def test_capacity_and_expiry_are_not_for_durable_messages(self, backend: Any) -> None:
        layer = backend(capacity=1, expiry=-1)

        async def talk() -> None:
            for n in range(3):
                await layer.send("work", {"n": n})

        run(talk())
        assert len(waiting_on(layer, "work")) == 3

    def test_receive_takes_what_was_sent_in_order_and_finishes_it(self, layer: Any) -> None:
        async def talk() -> Any:
            await layer.send("work", {"n": 1})
            await layer.send("work", {"n": 2})
            return [await layer.receive("work"), await layer.receive("work")]

        assert run(talk()) == [{"n": 1}, {"n": 2}]
        assert layer.stats() == {}

    def test_receive_takes_what_a_producer_sent(self, settings: Any, backend: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"mailrail.layers.{backend.__name__}"}}
        Channel("work").send({"n": 1})
        assert run(get_channel_layer().receive("work")) == {"n": 1}

    def test_receive_waits_for_what_is_sent_later(self, layer: Any) -> None:
        async def talk() -> Any:
            waiting = asyncio.create_task(layer.receive("work"))
            await layer.send("work", {"n": 1})
            return await waiting

        assert run(talk()) == {"n": 1}

    def test_two_receivers_never_get_the_same(self, layer: Any) -> None:
        async def talk() -> Any:
            waiting = [asyncio.create_task(layer.receive("work")) for _ in range(5)]
            for n in range(5):
                await layer.send("work", {"n": n})
            return await asyncio.gather(*waiting)

        assert sorted(m["n"] for m in run(talk())) == [0, 1, 2, 3, 4]

    def test_receive_buries_what_it_cannot_read_and_goes_on(self, layer: Any) -> None:
        layer.enqueue([replace(Message("work", {"n": 1}), v=99), Message("work", {"n": 2})])
        assert run(layer.receive("work")) == {"n": 2}
        assert "format version is 99" in dead_on(layer, "work")[0].error

    def test_a_receiver_that_gives_up_while_it_waits_loses_nothing(self, layer: Any) -> None:
        async def talk() -> Any:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(layer.receive("work"), 0.1)
            await layer.send("work", {"n": 1})
            return await layer.receive("work")

        assert run(talk()) == {"n": 1}

    def test_a_receiver_cancelled_while_it_claims_gives_the_message_back(self, layer: Any) -> None:
        layer.enqueue([Message("work", {"n": 1})])
        with pytest.raises(asyncio.CancelledError):
            cancel_during("claim", layer)
        [message] = waiting_on(layer, "work")
        assert (message.content, message.attempt, message.losses) == ({"n": 1}, 0, 0)

    def test_a_receiver_cancelled_while_it_finishes_returns_the_message_all_the_same(
        self, layer: Any
    ) -> None:
        layer.enqueue([Message("work", {"n": 1})])
        assert cancel_during("finish", layer) == {"n": 1}
        assert layer.stats() == {}

    def test_a_receiver_whose_event_loop_ends_while_it_claims_gives_the_message_back(
        self, layer: Any
    ) -> None:
        layer.enqueue([Message("work", {"n": 1})])
        hold = Hold(layer, "claim")

        async def leave() -> asyncio.Task[Any]:
            receiving = asyncio.create_task(layer.receive("work"))
            await asyncio.to_thread(hold.entered.wait, 20)
            return receiving

        assert asyncio.run(leave()).cancelled()
        hold.let_go.set()
        asyncio.run(close_thread())  # after what that thread was at
        [message] = waiting_on(layer, "work")
        assert (message.attempt, message.losses) == (0, 0)


class Hold:
    """Keeps a layer inside a verb, after it was done, until told to let go."""

    def __init__(self, layer: DurableLayer, verb: str) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()
        original = getattr(layer, verb)

        def held(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if args[0]:  # not where claim() itself finishes nothing
                self.entered.set()
                self.let_go.wait(20)
            return result

        setattr(layer, verb, held)


def cancel_during(verb: str, layer: Any) -> Any:
    """What a receiver returns, or raises, that is cancelled while the layer is inside a verb."""
    hold = Hold(layer, verb)

    async def talk() -> Any:
        receiving = asyncio.create_task(layer.receive("work"))
        await asyncio.to_thread(hold.entered.wait, 20)
        receiving.cancel()
        await asyncio.sleep(0)  # the receiver learns of it
        hold.let_go.set()
        try:
            return await receiving
        finally:
            await close_thread()

    return asyncio.run(talk())  # not run(): the verb needs a thread beside the loop's


async def close_thread() -> None:
    """Close the database connections of the thread on which asgiref runs sync code."""
    await sync_to_async(connections.close_all)()
