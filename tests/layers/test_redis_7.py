"""The contract on the oldest server that the Redis layer supports, where the machine has one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from mailrail.layers import DurableLayer, RedisChannelLayer
from mailrail.layers.redis.servers import version_of

from ..servers import ValkeyServer
from .test_contract import *  # noqa: F403 - every class of it, with the layer below

PROGRAM = shutil.which("redis-server")
VERSION = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True).stdout if PROGRAM else ""

if "v=7." not in VERSION:
    pytest.skip(
        f"no Redis 7 here ({VERSION.strip() or 'no redis-server'}); on Debian 12: apt-get install redis-server",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    server = ValkeyServer(PROGRAM)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def layer(server: ValkeyServer) -> Iterator[DurableLayer]:
    with server.client() as client:
        client.flushall()
    layer = RedisChannelLayer([server.url])
    yield layer
    layer.stop_listening()


def test_it_is_redis_and_new_enough(layer: RedisChannelLayer, server: ValkeyServer) -> None:
    one = layer.stores[0].server
    kind, version = version_of(one.info("server"))
    assert kind == "Redis" and version >= (7, 0)
    assert all("127.0.0.1" in text for text in layer.concerns())
