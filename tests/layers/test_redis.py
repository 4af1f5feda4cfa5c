"""What is particular to Redis: servers and what becomes of them, scripts, encryption, what is stored, notifications."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.layers import get_channel_layer
from django.core.checks import run_checks
from django.core.management import CommandError, call_command

from mailrail.errors import InvalidSettings, LayerUnavailable
from mailrail.layers import DurableLayer, RedisChannelLayer, get_layer
from mailrail.layers.redis.servers import Server, check_version, concerns
from mailrail.messages import Message, Rate

from ..listed import dead_on, waiting_on
from ..ports import free_port
from ..processes import until
from ..proxy import Proxy
from ..servers import ValkeyServer

LEASE = 15.0
TAG = "{mailrail:asgi:work}"


@pytest.fixture
def layer(valkey: ValkeyServer) -> Iterator[Any]:
    layer = RedisChannelLayer([valkey.url])
    yield layer
    layer.stop_listening()


@pytest.fixture
def bare(valkey: ValkeyServer) -> Iterator[Any]:
    with valkey.client() as client:
        yield client


@pytest.fixture
def own_server() -> Iterator[ValkeyServer]:
    """A server that the test may do anything to."""
    server = ValkeyServer(appendonly="yes", appendfsync="always", requirepass="secret")
    server.start()
    yield server
    server.remove()


def send(layer: DurableLayer, channel: str = "work", content: Any = None, **fields: Any) -> UUID:
    [id] = layer.enqueue([Message(channel, content or {"n": 1}, **fields)])
    return id


def claim(layer: DurableLayer, n: int = 10, channel: str = "work", **more: Any) -> list[Message]:
    return layer.claim("w", {channel: n}, LEASE, **more).claims


def test_a_message_of_no_lane_is_stored_with_a_place_of_zero_bytes() -> None:
    """By them the script that finishes knows that it need not read the rest."""
    from mailrail.layers.redis import records

    state = records.record_of(Message("work", {"n": 1}))[records._RECORD.size :]
    assert state[32:40] == bytes(8)


class TestHosts:
    def test_all_that_channels_redis_takes(self, valkey: ValkeyServer) -> None:
        for host in (
            valkey.url,
            ("127.0.0.1", valkey.port),
            ["127.0.0.1", valkey.port],
            {"address": valkey.url},
            {"address": f"unix://{valkey.socket}"},
            {"host": "127.0.0.1", "port": valkey.port, "db": 0},
            {"path": str(valkey.socket)},
        ):
            layer = RedisChannelLayer([host])
            id = send(layer)
            assert [m.id for m in claim(layer)] == [id]

    def test_databases_are_apart(self, valkey: ValkeyServer) -> None:
        one, other = RedisChannelLayer([valkey.url]), RedisChannelLayer([valkey.url[:-1] + "1"])
        send(one)
        assert claim(other) == [] and len(claim(one)) == 1

    def test_prefixes_are_apart(self, valkey: ValkeyServer) -> None:
        one, other = (RedisChannelLayer([valkey.url], prefix=prefix) for prefix in ("a", "b"))
        send(one)
        one.take("bucket", 5, Rate(5, 3600))
        one.heartbeat("w", {})
        assert claim(other) == [] and other.stats() == {} and other.workers() == []
        assert other.take("bucket", 5, Rate(5, 3600)).granted == 5
        assert len(claim(one)) == 1

    def test_several_hosts_share_the_channels(self, valkey: ValkeyServer, own_server: ValkeyServer) -> None:
        layer = RedisChannelLayer([valkey.url, {"address": own_server.url, "password": "secret"}])
        names = [f"channel-{n}" for n in range(20)]
        sent = layer.enqueue([Message(name, {"n": n}) for n, name in enumerate(names)])
        with own_server.client() as client:
            assert 0 < len(client.keys("*:body")) < 20
        assert sorted(layer.stats()) == sorted(names)
        layer.advance_time(5)
        got = layer.claim("w", dict.fromkeys(names, 5), LEASE).claims
        assert sorted(m.id for m in got) == sorted(sent)
        assert layer.claim("w", dict.fromkeys(names, 5), LEASE, got[:10]) == ([], [], [])
        assert layer.renew(got[10:], dict.fromkeys(names, LEASE)) == layer.finish(got[10:]) == []
        assert layer.stats() == {}

    @pytest.mark.parametrize(
        "hosts", ["redis://127.0.0.1", 7, [7], ["http://127.0.0.1"], [{"master_name": "m"}]]
    )
    def test_what_cannot_be_followed_is_said(self, hosts: Any) -> None:
        with pytest.raises(InvalidSettings, match=r"CONFIG\['hosts'\] of the Redis layer"):
            RedisChannelLayer(hosts)

    def test_names_of_servers_hold_no_password(self) -> None:
        for host, name in (
            ({"address": "redis://user:secret@db.example:7000/3"}, "db.example:7000/3"),
            ({"address": "rediss://:secret@db.example"}, "db.example:6379"),
            ({"host": "db.example", "password": "secret"}, "db.example:6379"),
            ({"address": "unix:///run/redis.sock?db=2"}, "/run/redis.sock"),
            ({"sentinels": [("a", 1), ("b", 2)], "master_name": "m"}, "'m' of the Sentinels a:1, b:2"),
        ):
            assert Server(host).name == name

    def test_a_database_that_is_not_there_is_said(self) -> None:
        with pytest.raises(InvalidSettings, match=r"CONFIG\['using'\].*'elsewhere'.*not in DATABASES"):
            RedisChannelLayer(using="elsewhere")

    def test_a_prefix_is_text(self) -> None:
        with pytest.raises(InvalidSettings, match=r"CONFIG\['prefix'\]"):
            RedisChannelLayer(prefix=b"asgi")  # type: ignore[arg-type]

    @pytest.mark.parametrize("package", ["redis", "channels_redis"])
    def test_a_package_that_is_missing_is_named_with_what_to_install(
        self, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mailrail.layers

        monkeypatch.setattr(mailrail.layers, "find_spec", lambda name: None if name == package else name)
        with pytest.raises(InvalidSettings, match=rf'{package}.*pip install "mailrail\[redis\]"'):
            _ = mailrail.layers.RedisChannelLayer


class TestVersions:
    @pytest.mark.parametrize(
        ("info", "said"),
        [
            ({"redis_version": "6.2.14"}, "Redis 6.2"),
            ({"redis_version": "7.2.4", "valkey_version": "7.2.8"}, "Valkey 7.2"),
        ],
    )
    def test_an_old_server_is_refused(self, info: Any, said: str) -> None:
        with pytest.raises(
            InvalidSettings, match=rf"db:6379 is {said}; the Redis layer needs Redis 7 or Valkey 8"
        ):
            check_version("db:6379", info)

    def test_others_are_not(self, bare: Any) -> None:
        for info in ({"redis_version": "7.0.0"}, {"valkey_version": "8.0.1"}, bare.info("server")):
            check_version("db", {name: str(value) for name, value in info.items()})

    def test_a_server_is_looked_at_before_it_is_given_scripts(
        self, layer: Any, bare: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mailrail.layers.redis import servers

        bare.script_flush()
        monkeypatch.setattr(servers, "OLDEST_VALKEY", (99, 0))
        with pytest.raises(InvalidSettings, match=r"is Valkey \d+\.\d+; the Redis layer needs"):
            send(layer)


class TestConcerns:
    def test_of_a_server_that_may_delete_and_forget(self, own_server: ValkeyServer) -> None:
        layer = RedisChannelLayer([{"address": own_server.url, "password": "secret"}])
        assert layer.concerns() == []
        with own_server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("appendonly", "no")
        policy, file = layer.concerns()
        assert "maxmemory-policy allkeys-lru" in policy and "noeviction" in policy
        assert "keeps no append-only file" in file and "appendonly yes" in file

    def test_an_old_server_is_refused_here_too(self, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from mailrail.layers.redis import servers

        monkeypatch.setattr(servers, "OLDEST_VALKEY", (99, 0))
        with pytest.raises(InvalidSettings, match="the Redis layer needs"):
            layer.concerns()

    def test_a_server_that_says_nothing_of_it(self) -> None:
        assert len(concerns("db", {})) == 1


@pytest.mark.django_db(databases=["default", "other"])  # Django asks SQLite whether it knows JSON
class TestChecks:
    def use(self, settings: Any, *hosts: Any, **config: Any) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "mailrail.layers.RedisChannelLayer",
                "CONFIG": {"hosts": list(hosts), **config},
            }
        }

    def deployed(self) -> list[Any]:
        found = run_checks(include_deployment_checks=True)
        layers = [message for message in found if str(message.id).startswith("mailrail.")]
        # What mail says depends on the name of the machine.
        return [message for message in layers if not str(message.id).startswith("mailrail.mail.")]

    def test_a_good_project_needs_hosts_and_routing(self, settings: Any, valkey: ValkeyServer) -> None:
        self.use(settings, valkey.url, routing="tests.routes.redis_routing")
        assert [m for m in run_checks() if str(m.id).startswith("mailrail.")] == []
        assert isinstance(get_layer(), RedisChannelLayer) and get_layer() is get_channel_layer()

    def test_atomic_consumers_are_an_error(self, settings: Any, valkey: ValkeyServer) -> None:
        self.use(settings, valkey.url)
        errors = [m.msg for m in run_checks() if m.id == "mailrail.E004"]
        assert errors and all("atomic=True) needs the database layer" in error for error in errors)

    @pytest.mark.parametrize(
        "config", [{"host": "x"}, {"symmetric_encryption_keys": "secret"}, {"using": "elsewhere"}]
    )
    def test_a_config_that_cannot_be_followed_is_an_error(self, settings: Any, config: Any) -> None:
        self.use(settings, **config)
        assert "mailrail.E002" in [m.id for m in run_checks()]

    def test_a_server_that_may_lose_messages_is_a_warning(self, settings: Any, valkey: ValkeyServer) -> None:
        self.use(settings, valkey.url, routing="tests.routes.redis_routing")
        [warning] = self.deployed()
        assert warning.id == "mailrail.W006"
        assert warning.msg.startswith("CHANNEL_LAYERS['default']: The Redis server 127.0.0.1:")
        assert "keeps no append-only file" in warning.msg

    def test_a_server_that_is_not_there_is_a_warning(self, settings: Any) -> None:
        self.use(settings, ("127.0.0.1", free_port()), routing="tests.routes.redis_routing")
        [warning] = self.deployed()
        assert warning.id == "mailrail.W006" and "cannot be asked" in warning.msg

    def test_one_that_is_too_old_is_an_error(
        self, settings: Any, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mailrail.layers.redis import servers

        monkeypatch.setattr(servers, "OLDEST_VALKEY", (99, 0))
        self.use(settings, valkey.url, routing="tests.routes.redis_routing")
        [error] = self.deployed()
        assert error.id == "mailrail.E006" and "needs Redis 7 or Valkey 8" in error.msg
        with pytest.raises(CommandError, match="needs Redis 7 or Valkey 8"):
            call_command("runworker")


class TestOutages:
    def test_a_server_that_is_not_there_is_named_at_once(self) -> None:
        port = free_port()
        begun = time.monotonic()
        with pytest.raises(LayerUnavailable, match=rf"127\.0\.0\.1:{port}.*CONFIG\['hosts'\].*refused"):
            send(RedisChannelLayer([f"redis://127.0.0.1:{port}"]))
        assert time.monotonic() - begun < 5

    def test_a_server_that_stands_still_is_given_up_in_time(self, own_server: ValkeyServer) -> None:
        host = {"address": own_server.url, "password": "secret", "socket_timeout": 0.5}
        layer = RedisChannelLayer([host])
        send(layer)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(LayerUnavailable, match="Timeout"):
                send(layer)
            assert 0.4 < time.monotonic() - begun < 5
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        send(layer)

    def test_the_wrong_password_is_said(self, own_server: ValkeyServer) -> None:
        for password in ("wrong", None):
            layer = RedisChannelLayer([{"address": own_server.url, "password": password}])
            with pytest.raises(LayerUnavailable, match="user or password"):
                send(layer)

    def test_a_full_server_takes_nothing_and_says_so(self, own_server: ValkeyServer) -> None:
        layer = RedisChannelLayer([{"address": own_server.url, "password": "secret"}])
        send(layer)
        with own_server.client() as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(LayerUnavailable, match=r"it is full .*maxmemory"):
                layer.enqueue([Message("work", {"n": n}) for n in range(10)])
            [got] = claim(layer)  # working makes room
            assert layer.finish([got]) == []
            client.config_set("maxmemory", 0)
        assert layer.stats() == {}

    def test_a_crash_costs_nothing_where_every_write_is_kept(self, own_server: ValkeyServer) -> None:
        layer = RedisChannelLayer([{"address": own_server.url, "password": "secret"}])
        ids = [send(layer, content={"n": n}, lane="l" if n % 2 else None, key=f"k{n}") for n in range(50)]
        [running, other, *_] = claim(layer, 50)
        layer.bury(other, "boom")
        own_server.stop(signal.SIGKILL)
        with pytest.raises(LayerUnavailable):
            claim(layer)
        own_server.start()
        assert layer.finish([running]) == []
        left = {m.id for m in waiting_on(layer, "work", 100)} | {d.message.id for d in dead_on(layer, "work")}
        layer.advance_time(LEASE + 1)
        while got := claim(layer, 50):
            left |= {m.id for m in got}
            layer.finish(got)
        assert left == set(ids) - {running.id}

    def test_all_connections_killed_are_noticed_by_nobody_who_sends(self, layer: Any, bare: Any) -> None:
        send(layer)
        bare.client_kill_filter(_type="normal", skipme=True)
        send(layer)
        bare.client_kill_filter(_type="normal", skipme=True)
        assert layer.stats()["work"].ready == 2

    def test_a_claim_is_not_repeated_blindly(self, layer: Any, bare: Any) -> None:
        send(layer)
        bare.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(LayerUnavailable):
            claim(layer)
        assert len(claim(layer)) == 1

    def test_connections_that_died_while_idle_are_made_anew(
        self, layer: Any, bare: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mailrail.layers.redis import connections

        send(layer)
        monkeypatch.setattr(connections, "IDLE_BEFORE_CHECK_S", 0.0)
        bare.client_kill_filter(_type="normal", skipme=True)
        assert len(claim(layer)) == 1

    def test_a_failover_behind_the_same_address_is_followed(self, own_server: ValkeyServer) -> None:
        """As behind a name in the DNS: the old master lives on as a replica, and its connections stay open."""
        follows = {"replicaof": f"127.0.0.1 {own_server.port}", "masterauth": "secret"}
        other = ValkeyServer(requirepass="secret", **follows)
        other.start()
        proxy = Proxy(own_server.port)
        try:
            layer = RedisChannelLayer([f"redis://:secret@127.0.0.1:{proxy.port}/0"])
            layer.claim("w", {"work": 1}, LEASE)
            with own_server.client() as master, other.client() as replica:
                until(
                    lambda: replica.info("replication")["master_link_status"] == "up", what="the first copy"
                )
                replica.replicaof("NO", "ONE")
                proxy.lead_to(other.port)
                master.config_set("masterauth", "secret")
                master.replicaof("127.0.0.1", str(other.port))
            with pytest.raises(LayerUnavailable, match="read only replica"):  # a claim is never repeated
                claim(layer)
            id = send(layer)
            assert [m.id for m in claim(layer)] == [id]
        finally:
            proxy.close()
            other.remove()

    @pytest.mark.parametrize("is_in_url", [False, True])
    def test_threads_wait_for_their_turn(self, valkey: ValkeyServer, bare: Any, is_in_url: bool) -> None:
        host: Any = {"address": valkey.url, "max_connections": 2}
        layer = RedisChannelLayer([f"{valkey.url}?max_connections=2" if is_in_url else host])
        before = len(bare.client_list())
        threads = [threading.Thread(target=lambda: [send(layer) for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert layer.stats()["work"].ready == 400
        assert len(bare.client_list()) <= before + 2

    def test_a_layer_that_is_dropped_closes_them(self, valkey: ValkeyServer) -> None:
        layer: Any = RedisChannelLayer([valkey.url])
        send(layer)
        server = layer.stores[0].server
        [(connection, _)] = server._connections._idle
        assert connection.is_connected
        del layer, server
        gc.collect()
        assert not connection.is_connected

    def test_a_child_process_has_connections_of_its_own(self, layer: Any) -> None:
        send(layer)
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(50):
                    send(layer)
                code = 0
            finally:
                os._exit(code)
        for _ in range(50):
            send(layer)
        assert os.waitpid(child, 0)[1] == 0
        assert layer.stats()["work"].ready == 101


class TestLostAnswers:
    @pytest.fixture
    def proxy(self, valkey: ValkeyServer) -> Iterator[Proxy]:
        proxy = Proxy(valkey.port)
        yield proxy
        proxy.close()

    def test_claims_whose_answer_was_lost_are_recovered(self, proxy: Proxy) -> None:
        layer = RedisChannelLayer([f"redis://127.0.0.1:{proxy.port}"])
        done, *_ = ids = [send(layer, content={"n": n}) for n in range(5)]
        [first] = claim(layer, 1)
        proxy.lose_answer_to(lambda data: b"EVALSHA" in data)
        with pytest.raises(LayerUnavailable):
            layer.claim("w", {"work": 10}, LEASE, finished=[first])
        assert proxy.swallowed == 1
        proxy.lose_answer_to(None)
        assert layer.claim("other", {"work": 10}, LEASE) == ([], [], [])
        claims, lost, expired = layer.claim("w", {"work": 10}, LEASE, finished=[first])
        assert sorted(m.id for m in claims) == sorted(ids[1:]) and lost == expired == []
        assert {(m.attempt, m.losses) for m in claims} == {(1, 0)}
        assert layer.finish(claims) == [] and layer.stats() == {} and first.id == done

    def test_what_a_call_without_room_has_finished_is_not_called_lost(self, proxy: Proxy) -> None:
        layer = RedisChannelLayer([f"redis://127.0.0.1:{proxy.port}"])
        send(layer)
        [finished] = claim(layer, 1)
        proxy.lose_answer_to(lambda data: b"EVALSHA" in data)
        with pytest.raises(LayerUnavailable):
            layer.claim("w", {}, LEASE, finished=[finished])
        proxy.lose_answer_to(None)
        assert layer.claim("w", {"work": 10}, LEASE, finished=[finished]) == ([], [], [])

    def test_a_send_whose_answer_was_lost_is_repeated_and_stored_once(self, proxy: Proxy) -> None:
        layer = RedisChannelLayer([f"redis://127.0.0.1:{proxy.port}"])
        send(layer)
        proxy.lose_answer_to(lambda data: b"EVALSHA" in data and not proxy.swallowed)
        id = send(layer, key="k")
        assert proxy.swallowed == 1 and layer.stats()["work"].ready == 2
        assert send(layer, key="k") == id

    def test_a_claim_that_a_server_makes_long_after_it_was_given_up_is_recovered(
        self, own_server: ValkeyServer
    ) -> None:
        """It stood still, for longer than a lease, with the claim in its socket."""
        host = {"address": own_server.url, "password": "secret", "socket_timeout": 0.3}
        layer = RedisChannelLayer([host])
        assert claim(layer) == []  # the server knows the script
        id, lease = send(layer), 1.0
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(LayerUnavailable, match="Timeout"):
                layer.claim("w", {"work": 1}, lease)
            until(lambda: time.monotonic() > begun + 0.3 + 1.5 * lease)
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        layer.stats()  # it is back
        [found] = until(lambda: layer.claim("w", {"work": 1}, lease).claims)
        assert (found.id, found.attempt, found.losses) == (id, 1, 0)


class TestScripts:
    def test_a_server_that_has_forgotten_them_gets_them_again(self, layer: Any, bare: Any) -> None:
        for verb in (
            lambda: send(layer),
            lambda: layer.enqueue([Message(channel, {}) for channel in ("a", "b", "c")]),
            lambda: claim(layer),
            lambda: layer.stats(),
        ):
            bare.script_flush()
            verb()
        assert sorted(layer.stats()) == ["a", "b", "c", "work"]

    def test_a_call_that_would_hold_the_server_up_is_refused(self, layer: Any) -> None:
        with pytest.raises(ValueError, match=r"100,001 messages for channel 'work'.*at most 100,000"):
            layer.enqueue([Message("work", {})] * 100_001)
        assert layer.stats() == {}

    def test_ten_thousand_at_once_are_claimed_and_finished_at_once(self, layer: Any) -> None:
        ids = layer.enqueue([Message("work", {"n": n}, due=1.0) for n in range(10_000)])
        claims = claim(layer, 20_000)
        assert [m.id for m in claims] == sorted(ids)
        assert layer.claim("w", {"work": 1}, LEASE, finished=claims) == ([], [], [])
        assert layer.stats() == {}

    @pytest.mark.parametrize("more", [10, 0], ids=["places are free", "the lane is full"])
    def test_a_claim_from_a_lane_costs_the_same_however_many_have_a_place(
        self, layer: Any, bare: Any, more: int
    ) -> None:
        costs = []
        for number in (5, 50):
            channel = f"c{number}"
            layer.enqueue([Message(channel, {}, lane="l", places=number + more) for _ in range(number)])
            assert len(claim(layer, 100, channel)) == number
            send(layer, channel, lane="l", places=number + more)
            bare.config_resetstat()
            assert len(claim(layer, 100, channel)) == (1 if more else 0)
            stats = bare.info("commandstats")
            costs.append(sum(stat["calls"] for name, stat in stats.items() if name.startswith("cmdstat_z")))
        assert costs[0] == costs[1] > 0


class TestServersOfOtherLanguages:
    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
        """Lua compares strings as the server's language does."""
        made = tmp_path / "en_US.UTF-8"
        if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/en_US").exists():
            pytest.skip("needs the sources of a locale (apt-get install locales)")
        subprocess.run(["localedef", "-i", "en_US", "-f", "UTF-8", made], check=True, timeout=60)
        monkeypatch.setenv("LOCPATH", str(tmp_path))
        monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
        server = ValkeyServer()
        server.start()
        with server.client() as client:
            assert client.eval("return ('a' < 'B') and 1 or 0", 0) == 1
        yield server
        server.remove()

    def test_messages_of_one_moment_are_in_the_order_of_their_ids(self, server: ValkeyServer) -> None:
        layer = RedisChannelLayer([server.url])
        ids, due = sorted(uuid4() for _ in range(90)), time.time() - 10
        layer.enqueue([Message(f"channel-{n % 3}", {}, id=id, due=due) for n, id in enumerate(ids)])
        layer.enqueue([Message("work", {}, id=id, due=due, priority=n % 5) for n, id in enumerate(ids)])
        assert [m.id for m in waiting_on(layer, "work", 90)] == ids
        claims = layer.claim("w", {f"channel-{n}": 90 for n in range(3)}, LEASE).claims
        assert [claim.id for claim in claims] == ids
        for dead in claim(layer, 90):
            layer.bury(dead, "boom")
        with server.client() as client:
            client.zadd(f"{TAG}:dead", {id.bytes: due for id in ids})
        found: list[UUID] = []
        last = None
        while page := dead_on(layer, "work", 7, last):
            found += [dead.message.id for dead in page]
            last = page[-1]
        assert found == ids[::-1]


class TestEncryption:
    def layers(self, valkey: ValkeyServer, *keys: list[str] | None) -> list[Any]:
        return [RedisChannelLayer([valkey.url], symmetric_encryption_keys=k) for k in keys]

    def test_the_server_never_sees_content_headers_and_errors(self, valkey: ValkeyServer, bare: Any) -> None:
        [layer] = self.layers(valkey, ["key"])
        send(layer, content={"name": "hidden-content"}, headers={"tenant": "hidden-header"}, max_attempts=3)
        [got] = claim(layer)
        assert got.content == {"name": "hidden-content"} and got.headers == {"tenant": "hidden-header"}
        assert got.max_attempts == 3
        layer.bury(got, "hidden-error é")
        [dead] = dead_on(layer, "work")
        assert dead.error == "hidden-error é" and dead.message.content == got.content
        layer.requeue("work", [got.id])
        stored = b"".join(bare.dump(key) for key in bare.scan_iter())
        assert b"hidden" not in stored

    def test_keys_are_changed_step_by_step_while_messages_wait(self, valkey: ValkeyServer) -> None:
        old, both, turned, new = self.layers(valkey, ["old"], ["old", "new"], ["new", "old"], ["new"])
        send(old, content={"n": 1})
        send(turned, content={"n": 2})
        assert [m.content["n"] for m in waiting_on(both, "work")] == [1, 2]
        assert [m.content["n"] for m in waiting_on(turned, "work")] == [1, 2]
        unreadable, readable = waiting_on(new, "work")
        assert unreadable.defect and readable.content == {"n": 2}

    def test_what_cannot_be_read_is_a_defect_and_kept(self, valkey: ValkeyServer) -> None:
        plain, sealed = self.layers(valkey, None, ["key"])
        send(plain)
        [got] = claim(sealed)
        assert got.defect == (
            "its body cannot be read: it is encrypted with none of CONFIG['symmetric_encryption_keys']"
        )
        sealed.bury(got, "unreadable")
        plain.requeue("work", [got.id])
        assert claim(plain)[0].content == {"n": 1}

    def test_keys_are_a_list(self) -> None:
        for keys in ("secret", [7], [""]):
            with pytest.raises(
                InvalidSettings, match=r"CONFIG\['symmetric_encryption_keys'\] must be a list"
            ):
                RedisChannelLayer(symmetric_encryption_keys=keys)  # type: ignore[arg-type]


class TestWhatIsStored:
    def test_all_keys_of_a_channel_lie_in_one_slot(self, layer: Any, bare: Any) -> None:
        for n in range(6):
            send(layer, lane=f"lane-{n % 2}", key=f"{{k}}{n}", priority=n, lifetime=100)
        layer.bury(claim(layer, 2)[0], "boom")
        layer.pause("work")
        keys = {key.decode() for key in bare.scan_iter()} - {"{mailrail:asgi}:channels"}
        assert len(keys) > 8 and all(key.startswith(TAG) for key in keys)
        assert all(bare.ttl(key) == -1 for key in keys)

    def test_nothing_is_left_of_what_is_done(self, layer: Any, bare: Any) -> None:
        for n in range(30):
            send(layer, lane=f"lane-{n % 3}", key=f"k{n}", priority=n % 4, lifetime=1000)
        while got := claim(layer, 5):
            layer.bury(got[0], "boom")
            layer.finish(got[1:])
        layer.discard("work", [d.message.id for d in dead_on(layer, "work")])
        assert layer.stats() == {} and bare.keys("*") == []

    def test_nothing_is_left_of_a_lane_with_places_once_a_claim_has_found_nothing(
        self, layer: Any, bare: Any
    ) -> None:
        for _ in range(2):  # the second time, the limit holds again
            first, second = send(layer, lane="l", places=1), send(layer, lane="l", places=1)
            for id in (first, second):
                [got] = claim(layer)
                assert got.id == id
                layer.finish([got])
            assert claim(layer) == [] and layer.stats() == {} and bare.keys("*") == []

    def test_a_waiting_message_takes_little_room(self, layer: Any, bare: Any) -> None:
        content = {"id": "x" * 100}
        layer.enqueue([Message("work", content) for _ in range(20_000)])
        used = sum(bare.memory_usage(key, samples=0) for key in bare.scan_iter())
        assert used / 20_000 - len(json.dumps(content)) < 600

    def test_a_body_that_somebody_has_taken_away_is_a_defect(self, layer: Any, bare: Any) -> None:
        send(layer)
        bare.delete(f"{TAG}:body")
        [got] = claim(layer)
        assert got.defect and layer.bury(got, got.defect) == []

    def test_a_message_without_its_state_is_claimed_all_the_same(self, layer: Any, bare: Any) -> None:
        send(layer, priority=7)
        bare.delete(f"{TAG}:state")
        [got] = claim(layer)
        assert (got.content, got.priority, got.attempt) == ({"n": 1}, 7, 1)
        assert layer.finish([got]) == []

    def test_a_key_whose_message_lost_its_state_is_free(self, layer: Any, bare: Any) -> None:
        first = send(layer, key="k")
        bare.delete(f"{TAG}:state")
        second = send(layer, key="k")
        assert second != first and send(layer, key="k") == second
        bare.hdel(f"{TAG}:state", second.bytes)
        assert {m.id for m in claim(layer)} == {first, second}  # as if they were new
        assert send(layer, key="k") not in (first, second)

    def test_a_wiped_server_is_an_empty_one(self, layer: Any, bare: Any) -> None:
        send(layer)
        [got] = claim(layer)
        bare.flushall()
        assert layer.finish([got]) == [got] and layer.stats() == {} and claim(layer) == []
        send(layer)
        assert layer.stats()["work"].ready == 1

    def test_another_format_is_a_defect(self, layer: Any) -> None:
        layer.enqueue([replace(Message("work", {"n": 1}), v=99)])
        assert "format version is 99" in (claim(layer)[0].defect or "")

    def test_a_full_bucket_is_forgotten_in_the_end(self, layer: Any, bare: Any) -> None:
        layer.take("b", 5, Rate(10, 60))
        [key] = bare.keys("*bucket*")
        assert 30 < bare.ttl(key) <= 91

    def test_channels_redis_flush_spares_durable_messages(self, layer: Any) -> None:
        from asgiref.sync import async_to_sync

        send(layer)
        async_to_sync(layer.flush)()
        assert layer.stats()["work"].ready == 1


class TestHints:
    def live(self, layer: Any, *channels: str) -> None:
        """Wait until notifications of these channels arrive."""
        until(lambda: layer._waiting.listener.listen(channels), what="listening")

    def notifications(self, bare: Any, channel: str = "work") -> Any:
        """What is published for a channel, from now on."""
        notifications = bare.pubsub()
        notifications.subscribe(f"{{mailrail:asgi:{channel}}}")
        assert notifications.get_message(timeout=10)["type"] == "subscribe"
        return notifications

    def test_a_send_notifies(self, layer: Any, valkey: ValkeyServer) -> None:
        self.live(layer, "work", "other")
        elsewhere = RedisChannelLayer([valkey.url])
        for channel in ("work", "other"):
            seen = layer.wakes
            send(elsewhere, channel)
            until(lambda: layer.wakes > seen, what="hearing")  # noqa: B023

    def test_other_channels_wake_nobody(self, layer: Any, valkey: ValkeyServer) -> None:
        self.live(layer, "work")
        seen = layer.wakes
        elsewhere = RedisChannelLayer([valkey.url])
        send(elsewhere, "other")
        send(elsewhere, "work")
        until(lambda: layer.wakes > seen, what="hearing")
        assert layer.wakes == seen + 1

    def test_channels_awaited_later_are_notified_too(self, layer: Any, valkey: ValkeyServer) -> None:
        self.live(layer, "work")
        self.live(layer, "later")
        seen = layer.wakes
        send(RedisChannelLayer([valkey.url]), "later")
        until(lambda: layer.wakes > seen, what="hearing")

    def test_only_who_could_be_waiting_is_told(self, layer: Any, bare: Any) -> None:
        notifications = self.notifications(bare)

        def told() -> bool:
            bare.publish(TAG, "end")
            said = iter(lambda: notifications.get_message(timeout=10)["data"], b"end")
            return bool(list(said))

        send(layer, delay=100)
        assert told()
        send(layer, delay=200)
        assert not told()  # later than what they wait for
        send(layer, delay=50)
        assert told()
        send(layer)
        assert told()
        send(layer)
        layer.enqueue([Message("work", {}) for _ in range(10)])
        assert not told()  # a backlog: nobody waits
        got = claim(layer, 20)
        layer.release(got[:1])
        assert told()
        layer.retry(got[1], 0, "boom")
        assert not told()
        layer.pause("work")
        layer.resume("work")
        assert told()

    def test_a_cut_connection_is_made_anew(self, layer: Any, bare: Any, valkey: ValkeyServer) -> None:
        self.live(layer, "work")
        bare.client_kill_filter(_type="pubsub")
        until(lambda: not layer._waiting.listener.is_live, what="noticing")
        self.live(layer, "work")
        seen = layer.wakes
        send(RedisChannelLayer([valkey.url]))
        until(lambda: layer.wakes > seen, what="hearing")

    def test_without_hints_it_looks_often(self, layer: Any, valkey: ValkeyServer, monkeypatch: Any) -> None:
        monkeypatch.setattr(layer._waiting.listener, "listen", lambda channels: False)
        sender = threading.Timer(0.2, send, [RedisChannelLayer([valkey.url])])
        sender.start()
        begun = time.monotonic()
        layer.wait(["work"], timeout=30)
        sender.join()
        assert time.monotonic() - begun < 10 and len(claim(layer)) == 1

    def test_close_ends_the_thread_and_its_connection(self, layer: Any, bare: Any) -> None:
        self.live(layer, "work")
        assert len(bare.client_list(_type="pubsub")) == 1
        layer.stop_listening()
        until(lambda: not bare.client_list(_type="pubsub"), what="closing")
        assert "mailrail-listener" not in [thread.name for thread in threading.enumerate()]

    def test_a_half_dead_connection_is_noticed(self, own_server: ValkeyServer, monkeypatch: Any) -> None:
        from mailrail.layers.redis import listener

        monkeypatch.setattr(listener, "CONNECTION_CHECK_INTERVAL_S", 0.2)
        layer: Any = RedisChannelLayer([{"address": own_server.url, "password": "secret"}])
        self.live(layer, "work")
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            until(lambda: not layer._waiting.listener.is_live, what="noticing")
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        self.live(layer, "work")
        layer.stop_listening()
