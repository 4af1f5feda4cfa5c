"""The ways to a server: Sentinels, TLS, passwords and users, a Unix socket."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import trustme
from asgiref.sync import async_to_sync

from mailrail.errors import LayerUnavailable
from mailrail.layers import RedisChannelLayer
from mailrail.messages import Message, Rate
from mailrail.routing import Routing, route
from mailrail.worker import Worker

from ..listed import get_one, waiting_on
from ..ports import free_port
from ..processes import ROOT, until
from ..servers import ValkeyServer
from ..topologies import ValkeyCluster, WatchedMaster, ask

LEASE = 15.0
PASSWORD = "correct-horse"


def works(layer: Any) -> None:
    """All that a user sees: durable messages, hints, and what channels_redis carries."""
    try:
        until(lambda: layer._waiting.listener.listen(["work"]), what="listening")
        seen = layer.wakes
        [id] = layer.enqueue([Message("work", {"n": 1})])
        until(lambda: layer.wakes > seen, what="hearing")
        [claim] = layer.claim("w", {"work": 1}, LEASE).claims
        assert claim.id == id and layer.finish([claim]) == [] and layer.stats() == {}
        assert layer.take(uuid4().hex, 1, Rate(1, 60)).granted == 1
        layer.concerns()
        assert async_to_sync(_group)(layer) == {"type": "hello"}
    finally:
        layer.stop_listening()


async def _group(layer: Any) -> Any:
    name = await layer.new_channel()
    await layer.group_add("g", name)
    await layer.group_send("g", {"type": "hello"})
    try:
        return await asyncio.wait_for(layer.receive(name), 10)
    finally:
        await layer.flush()


def is_accepted(layer: Any) -> bool:
    try:
        layer.enqueue([Message("work", {})])
    except LayerUnavailable:
        return False
    return True


def refused(hosts: Any, **config: Any) -> str:
    """What a send there is answered."""
    with pytest.raises(LayerUnavailable) as caught:
        RedisChannelLayer(hosts, **config).enqueue([Message("work", {})])
    assert PASSWORD not in str(caught.value) and "wrong-battery" not in str(caught.value)
    assert "CONFIG['hosts']" in str(caught.value)
    return str(caught.value)


@pytest.fixture
def closed_server() -> Iterator[ValkeyServer]:
    """Nobody gets in without a password. There is a user of Mailrail's own."""
    server = ValkeyServer(requirepass=PASSWORD)
    server.start()
    ask(server, *acl())
    yield server
    server.remove()


def acl() -> list[str]:
    """What docs/how-to/redis.md says that a user needs."""
    [line] = [
        x for x in (ROOT / "docs/how-to/redis.md").read_text().splitlines() if x.startswith("ACL SETUSER")
    ]
    return line.replace(">secret", f">{PASSWORD}").split()


class TestSeveralHosts:
    def test_a_busy_one_starves_no_other(self, valkey: ValkeyServer, closed_server: ValkeyServer) -> None:
        url = f"redis://:{PASSWORD}@127.0.0.1:{closed_server.port}/0"
        layer: Any = RedisChannelLayer([valkey.url, url])
        busy = next(n for n in map(str, range(99)) if layer._store.of(n) is layer.stores[0])
        quiet = next(n for n in map(str, range(99)) if layer._store.of(n) is layer.stores[1])
        layer.enqueue([Message(busy, {}) for _ in range(20)] + [Message(quiet, {})])
        for order in ([busy, quiet], [quiet, busy]):
            limits = dict.fromkeys(order, 4)
            claims = [claim for _ in range(2) for claim in layer.claim("w", limits, LEASE, total=4).claims]
            assert quiet in {claim.channel for claim in claims}
            layer.release(claims)

    def test_the_channels_of_one_can_be_asked_for_while_another_is_away(self, valkey: ValkeyServer) -> None:
        layer: Any = RedisChannelLayer([f"redis://127.0.0.1:{free_port()}", valkey.url])
        here = next(n for n in map(str, range(99)) if layer._store.of(n) is layer.stores[1])
        layer.each_host()[1].enqueue([Message(here, {})])
        away, other = layer.each_host()
        with pytest.raises(LayerUnavailable):
            away.list_channels()
        assert other.list_channels() == [here] == [*other.stats()]
        assert layer.shards([here]) == {other: [here]} and other.each_host() == [other]

    def test_one_that_is_away_keeps_nobody_from_the_others(self, valkey: ValkeyServer) -> None:
        server = ValkeyServer()
        server.start()
        layer: Any = RedisChannelLayer([server.url, valkey.url])
        away, here = (
            next(n for n in map(str, range(99)) if layer._store.of(n) is layer.stores[part])
            for part in (0, 1)
        )
        layer.enqueue([Message(away, {}), *(Message(here, {}) for _ in range(40))])
        claims = layer.claim("w", {away: 1, here: 10}, LEASE).claims
        lost, *held = sorted(claims, key=lambda claim: claim.channel != away)
        server.remove()
        shard = next(shard for shard, names in layer.shards([away, here]).items() if names == [here])
        for whole in (lambda: layer.renew([lost, *held], 100.0), lambda: layer.finish([lost, *held])):
            with pytest.raises(LayerUnavailable):
                whole()
        assert shard.finish(held) == held  # the others were told
        for _ in range(10):
            [claim] = shard.claim("w", {here: 1}, LEASE).claims
            assert shard.renew([claim], 100.0) == []
            assert (get_one(shard, here, claim.id) or claim).due > claim.due + 50
            assert shard.finish([claim]) == []
        assert shard._unconfirmed.calls == []
        # What is finished there is not taken for settled; what was claimed with it is found by the next call.
        with pytest.raises(LayerUnavailable):
            layer.claim("w", {away: 1, here: 20}, LEASE, finished=[lost])
        again = layer.claim("w", {here: 20}, LEASE).claims
        assert len(again) == 20 and {(m.attempt, m.losses) for m in again} == {(1, 0)}


class TestPasswords:
    def test_a_password(self, closed_server: ValkeyServer) -> None:
        works(RedisChannelLayer([f"redis://:{PASSWORD}@127.0.0.1:{closed_server.port}/0"]))
        works(RedisChannelLayer([{"host": "127.0.0.1", "port": closed_server.port, "password": PASSWORD}]))

    def test_a_user_who_may_do_what_the_layer_needs(self, closed_server: ValkeyServer) -> None:
        works(RedisChannelLayer([f"redis://mailrail:{PASSWORD}@127.0.0.1:{closed_server.port}/0"]))

    def test_such_a_user_on_a_cluster(self, valkey_cluster: ValkeyCluster) -> None:
        for node in valkey_cluster.nodes:
            ask(node, *acl())
        url = valkey_cluster.urls[0].replace("//", f"//mailrail:{PASSWORD}@")
        layer: Any = RedisChannelLayer([url], cluster=True)
        sent = layer.enqueue([Message(str(n), {}) for n in range(20)])
        assert len(layer.claim("w", {str(n): 1 for n in range(20)}, LEASE).claims) == len(sent)
        assert len(layer.stats()) == 20 and layer.concerns()

    def test_the_wrong_one_names_the_setting_and_not_the_password(self, closed_server: ValkeyServer) -> None:
        where = f"127.0.0.1:{closed_server.port}"
        for login in (":wrong-battery@", "mailrail:wrong-battery@", f"nobody:{PASSWORD}@", ""):
            said = refused([f"redis://{login}{where}/0"])
            assert "does not accept the user or password" in said and where in said

    def test_a_user_who_may_too_little_is_told_so(self, closed_server: ValkeyServer) -> None:
        ask(closed_server, "ACL", "SETUSER", "mailrail", "resetkeys", "~other:*")
        said = refused([f"redis://mailrail:{PASSWORD}@127.0.0.1:{closed_server.port}/0"])
        assert "its user may not do what the layer needs" in said and "ACL" in said


class TestUnixSockets:
    def test_by_url_and_by_path(self, valkey: ValkeyServer) -> None:
        works(RedisChannelLayer([f"unix://{valkey.socket}"]))
        # channels_redis opens no path that is not in a URL.
        layer = RedisChannelLayer([{"path": str(valkey.socket)}])
        assert len(layer.enqueue([Message("work", {})])) == 1

    def test_one_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        assert str(tmp_path / "none") in refused([f"unix://{tmp_path / 'none'}"])

    def test_with_a_password(self, closed_server: ValkeyServer) -> None:
        works(RedisChannelLayer([f"unix://:{PASSWORD}@{closed_server.socket}"]))


class TlsFront:
    """TLS on a port of its own, before a server whose build may have none."""

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._wait_for(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._wait_for(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _wait_for(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = [_pump(reader, inner_writer), _pump(inner_reader, writer)]
        with suppress(asyncio.CancelledError):
            await asyncio.wait(map(asyncio.ensure_future, ends), return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, inner_writer):
            end.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class TestTls:
    @pytest.fixture
    def port(self, valkey: ValkeyServer, authority: trustme.CA) -> Iterator[int]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        front = TlsFront(valkey.port, context)
        yield front.port
        front.close()

    def ca(self, authority: trustme.CA, folder: Path) -> str:
        file = folder / "ca.pem"
        authority.cert_pem.write_to_path(file)
        return str(file)

    def test_a_url_and_the_authority_to_trust(self, port: int, authority: trustme.CA, tmp_path: Path) -> None:
        file = self.ca(authority, tmp_path)
        works(RedisChannelLayer([f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={file}"]))
        works(RedisChannelLayer([{"address": f"rediss://127.0.0.1:{port}/0", "ssl_ca_certs": file}]))

    def test_another_authority_is_refused(self, port: int, tmp_path: Path) -> None:
        file = self.ca(trustme.CA(), tmp_path)
        said = refused([{"address": f"rediss://127.0.0.1:{port}/0", "ssl_ca_certs": file}])
        assert f"127.0.0.1:{port}" in said and "certificate verify failed" in said.lower().replace("_", " ")

    def test_a_certificate_for_another_name_is_refused(
        self, valkey: ValkeyServer, authority: trustme.CA, tmp_path: Path
    ) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("redis.example").configure_cert(context)
        front = TlsFront(valkey.port, context)
        try:
            file = self.ca(authority, tmp_path)
            said = refused([{"address": f"rediss://127.0.0.1:{front.port}/0", "ssl_ca_certs": file}])
            assert "CERTIFICATE_VERIFY_FAILED" in said or "not valid for" in said
        finally:
            front.close()

    def test_without_tls_there_is_no_answer(self, port: int) -> None:
        assert f"127.0.0.1:{port}" in refused([f"redis://127.0.0.1:{port}/0"])


@pytest.fixture(scope="module")
def fronts(authority: trustme.CA) -> Iterator[dict[ValkeyServer, TlsFront]]:
    nodes = ValkeyCluster(requirepass=PASSWORD, masterauth=PASSWORD)
    nodes.start()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    fronts = {node: TlsFront(node.port, context) for node in nodes.nodes}
    for node, front in fronts.items():
        ask(node, "CONFIG", "SET", "cluster-announce-port", front.port)
    announced = {front.port for front in fronts.values()}
    until(
        lambda: all(
            {master[1] for _, _, master, *_ in ask(node, "CLUSTER", "SLOTS")} == announced
            for node in nodes.nodes
        ),
        what="the announcement of all ports",
    )
    yield fronts
    for front in fronts.values():
        front.close()
    nodes.remove()


class TestTlsAndPasswordsOnACluster:
    """Each node is reached by TLS, on a port that it announces: the others name it in MOVED and in their maps."""

    @pytest.fixture
    def host(self, fronts: Any, authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
        file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(file)
        first = next(iter(fronts.values()))
        return {
            "address": f"rediss://:{PASSWORD}@127.0.0.1:{first.port}/0",
            "ssl_ca_certs": str(file),
        }

    def test_every_node_is_reached_as_the_first_one_is(self, fronts: Any, host: dict[str, Any]) -> None:
        layer: Any = RedisChannelLayer([host], cluster=True)
        names = [str(n) for n in range(30)]
        try:
            until(lambda: layer._waiting.listener.listen(names), what="listening")
            seen = layer.wakes
            sent = layer.enqueue([Message(name, {}) for name in names])
            until(lambda: layer.wakes > seen, what="hearing")
            claims = layer.claim("w", dict.fromkeys(names, 1), LEASE).claims
            assert {claim.id for claim in claims} == set(sent)
            assert all(ask(node, "KEYS", "*:claimed") for node in fronts), (
                "each node has some of the channels"
            )
            assert layer.finish(claims) == [] and layer.stats() == {}
            assert len(layer.stores[0].server.nodes()) == 3 and len(layer.concerns()) == 3
        finally:
            layer.stop_listening()

    def test_a_wrong_password_or_authority_is_told(self, host: dict[str, Any], tmp_path: Path) -> None:
        wrong = {**host, "address": host["address"].replace(PASSWORD, "wrong-battery")}
        assert "does not accept the user or password" in refused([wrong], cluster=True)
        file = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(file)
        said = refused([{**host, "ssl_ca_certs": str(file)}], cluster=True)
        assert "certificate verify failed" in said.lower().replace("_", " ")

    def test_a_user_of_its_own(self, fronts: Any, host: dict[str, Any]) -> None:
        for node in fronts:
            ask(node, *acl())
        address = host["address"].replace("//:", "//mailrail:")
        layer: Any = RedisChannelLayer([{**host, "address": address}], cluster=True)
        assert len(layer.enqueue([Message(str(n), {}) for n in range(20)])) == 20
        assert len(layer.claim("w", {str(n): 1 for n in range(20)}, LEASE).claims) == 20


class TestSentinels:
    @pytest.fixture
    def watched(self) -> Iterator[WatchedMaster]:
        watched = WatchedMaster()
        watched.start()
        yield watched
        watched.remove()

    @pytest.mark.timeout(180)
    def test_kill_9_of_the_master_is_survived_by_what_its_replica_had(self, watched: WatchedMaster) -> None:
        layer: Any = RedisChannelLayer(watched.hosts)
        works(layer)
        kept = layer.enqueue([Message("work", {"n": n}) for n in range(200)])
        watched.wait_for_copies()
        ran = Counter[UUID]()
        watched.kill_master()
        begun = time.monotonic()
        worker = Worker(layer, Routing([route("work", lambda message: ran.update([message.id]))]))
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        message, refusals = Message("work", {}), 0
        while True:
            try:
                layer.enqueue([message])
                break
            except LayerUnavailable:
                refusals += 1
                assert time.monotonic() < begun + 90
        print(f"accepted again {time.monotonic() - begun:.1f} s after the kill, after {refusals} errors")
        until(lambda: {*kept, message.id} <= set(ran), what="what the replica had")
        print(f"all consumed {time.monotonic() - begun:.1f} s after the kill")
        assert refusals > 0 and set(ran.values()) == {1}
        worker.stop(5)
        thread.join(30)
        works(layer)

    def test_passwords_of_the_servers_and_of_the_sentinels(self) -> None:
        """Two of them: the Sentinels ask each other for theirs, too, or none would see a majority."""
        watched = WatchedMaster(password=PASSWORD, watchword="halt-who-goes-there")
        watched.start()
        try:
            works(RedisChannelLayer(watched.hosts))
            for part in ({"password": "wrong-battery"}, {"sentinel_kwargs": {"password": "wrong-battery"}}):
                assert "'mailrail' of the Sentinels" in refused([{**watched.hosts[0], **part}])
            layer: Any = RedisChannelLayer(watched.hosts)
            [id] = layer.enqueue([Message("work", {})])
            watched.wait_for_copies()
            watched.kill_master()
            until(lambda: is_accepted(layer), what="the promotion")
            assert id in {message.id for message in waiting_on(layer, "work")}
        finally:
            watched.remove()

    def test_sentinels_that_are_gone_are_passed_over(self, watched: WatchedMaster) -> None:
        watched.sentinels[0].remove()
        begun = time.monotonic()
        works(RedisChannelLayer(watched.hosts))
        assert time.monotonic() - begun < 5

    def test_without_any_sentinel_they_are_named(self, watched: WatchedMaster) -> None:
        for sentinel in watched.sentinels:
            sentinel.remove()
        begun = time.monotonic()
        said = refused(watched.hosts)
        assert "'mailrail' of the Sentinels 127.0.0.1:" in said and time.monotonic() - begun < 5
