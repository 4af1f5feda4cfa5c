"""The Redis layer as a Channels 4 layer: what channels_redis documents, between two processes as within one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.contrib.auth.models import Group
from django.db import transaction

from mailrail import Channel
from mailrail.layers import RedisChannelLayer, get_layer

from . import test_layers_as_channels as shared
from .listed import waiting_on
from .servers import ValkeyServer
from .test_layers_as_channels import run


@pytest.fixture
def backend(valkey: ValkeyServer) -> Any:
    def make(**config: Any) -> RedisChannelLayer:
        return RedisChannelLayer([valkey.url], **config)

    return make


@pytest.fixture
def layer(backend: Any) -> Iterator[Any]:
    layer = backend()
    yield layer
    layer.stop_listening()


@pytest.fixture
def elsewhere(backend: Any) -> Any:
    """The same layer, as another process has it."""
    return backend()


async def nothing(layer: Any, channel: str) -> None:
    """Nothing arrives there."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.05)


class TestNamedChannels(shared.TestNamedChannels):
    def test_receive_takes_what_a_producer_sent(self, settings: Any, valkey: ValkeyServer) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [valkey.url]}}
        }
        assert get_channel_layer() is get_layer()
        Channel("work").send({"n": 1})
        assert run(get_channel_layer().receive("work")) == {"n": 1}

    def test_what_one_process_sends_another_receives(self, layer: Any, elsewhere: Any) -> None:
        run(elsewhere.send("work", {"n": 1}))
        assert run(layer.receive("work")) == {"n": 1}


@pytest.mark.django_db(transaction=True)
class TestTransactions:
    @pytest.mark.parametrize("how", ["Channels", "Mailrail"])
    def test_a_send_waits_for_the_commit(
        self, layer: Any, settings: Any, valkey: ValkeyServer, how: str
    ) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [valkey.url]}}
        }

        def send(content: dict[str, Any]) -> None:
            if how == "Channels":
                async_to_sync(get_channel_layer().send)("work", content)
            else:
                Channel("work").send(content)

        content = {"n": 1}
        with transaction.atomic():
            Group.objects.create(name="a")
            send(content)
            content["n"] = 2
            assert layer.stats() == {}
        assert [m.content for m in waiting_on(layer, "work")] == [{"n": 1}]
        with transaction.atomic():
            send({"n": 3})
            transaction.set_rollback(True)
        assert len(waiting_on(layer, "work")) == 1
        with transaction.atomic():
            Channel("work").send({"n": 4}, immediately=True)
            assert len(waiting_on(layer, "work")) == 2


class TestChannelsOfOneProcess:
    def test_what_another_process_sends_arrives_in_order(self, layer: Any, elsewhere: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            assert name.startswith("specific.") and "!" in name
            for n in range(3):
                await elsewhere.send(name, {"type": "hello", "n": n})
            return [(await layer.receive(name))["n"] for _ in range(3)]

        assert run(talk()) == [0, 1, 2]

    def test_receivers_of_one_process_share_a_connection_and_get_their_own(
        self, layer: Any, elsewhere: Any
    ) -> None:
        async def talk() -> Any:
            names = [await layer.new_channel("chat") for _ in range(3)]
            waiting = [asyncio.create_task(layer.receive(name)) for name in names]
            await asyncio.sleep(0)
            for name in reversed(names):
                await elsewhere.send(name, {"to": name})
            return names, await asyncio.gather(*waiting)

        names, got = run(talk())
        assert [message["to"] for message in got] == names and names[0].startswith("chat.")

    def test_content_need_not_be_json_and_nothing_of_it_is_durable(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            await layer.send(name, {"bytes": b"\xff"})
            assert await layer.acall("stats") == {}
            return await layer.receive(name)

        assert run(talk()) == {"bytes": b"\xff"}

    def test_a_full_channel_is_full(self, backend: Any) -> None:
        async def fill(layer: Any, prefix: str) -> int:
            name = await layer.new_channel(prefix)
            for sent in range(1000):
                try:
                    await layer.send(name, {"n": sent})
                except ChannelFull:
                    return sent
            raise AssertionError("it is never full")

        assert run(fill(backend(capacity=3), "any")) == 3
        assert run(fill(backend(capacity=3, channel_capacity={"big*": 5}), "big")) == 5

    def test_what_expired_is_not_received(self, backend: Any) -> None:
        async def talk(layer: Any) -> Any:
            name = await layer.new_channel()
            await layer.send(name, {"n": 1})
            layer.expiry = 60
            await layer.send(name, {"n": 2})
            return await layer.receive(name)

        assert run(talk(backend(expiry=-1))) == {"n": 2}  # over when it was sent

    def test_a_receiver_that_gives_up_loses_nothing_sent_later(self, layer: Any) -> None:
        async def talk() -> Any:
            name = await layer.new_channel()
            await nothing(layer, name)
            await layer.send(name, {"n": 1})
            return await layer.receive(name)

        assert run(talk()) == {"n": 1}

    def test_encrypted_when_there_are_keys(self, backend: Any, valkey: ValkeyServer) -> None:
        async def talk(layer: Any) -> Any:
            name = await layer.new_channel()
            await layer.send(name, {"secret": "hidden"})
            with valkey.client() as client:
                assert not any(b"hidden" in client.dump(key) for key in client.scan_iter())
            return await layer.receive(name)

        assert run(talk(backend(symmetric_encryption_keys=["key"]))) == {"secret": "hidden"}

    @pytest.mark.parametrize("name", ["", "no spaces", "a" * 100, "é", "a!b!c", None, 7])
    def test_a_bad_name_is_refused(self, layer: Any, name: Any) -> None:
        with pytest.raises(TypeError, match="Channel name must be"):
            run(layer.send(name, {}))
        with pytest.raises(TypeError, match="Channel name must be"):
            run(layer.receive(name))


class TestGroups(shared.TestGroups):
    def test_members_of_all_processes_get_it(self, layer: Any, elsewhere: Any) -> None:
        async def talk() -> Any:
            ours, theirs = await layer.new_channel(), await elsewhere.new_channel()
            await layer.group_add("room", ours)
            await elsewhere.group_add("room", theirs)
            await layer.group_send("room", {"type": "hello"})
            return [await layer.receive(ours), await elsewhere.receive(theirs)]

        assert run(talk()) == [{"type": "hello"}] * 2

    def test_a_named_member_leaves_like_others(self, layer: Any) -> None:
        async def talk() -> None:
            await layer.group_add("room", "work")
            await layer.group_discard("room", "work")
            await layer.group_send("room", {"type": "hello"})

        run(talk())
        assert layer.stats() == {}

    def test_who_joined_long_ago_gets_nothing(self, backend: Any) -> None:
        async def talk(layer: Any) -> None:
            name = await layer.new_channel()
            await layer.group_add("room", name)
            await layer.group_send("room", {"type": "hello"})
            await nothing(layer, name)

        run(talk(backend(group_expiry=-1)))

    def test_one_that_is_full_keeps_nobody_else_from_it(self, backend: Any) -> None:
        async def talk(layer: Any, other: Any) -> Any:
            full, free = await layer.new_channel(), await other.new_channel()
            await layer.group_add("room", full)
            await layer.group_add("room", free)
            await layer.send(full, {"n": 1})
            await layer.group_send("room", {"n": 2})
            return await other.receive(free), await layer.receive(full)

        assert run(talk(backend(capacity=1), backend())) == ({"n": 2}, {"n": 1})
