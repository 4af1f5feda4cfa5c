"""Faults of a PostgreSQL: it restarts, says nothing, has no slot, no disk. A ledger counts what ran.

Those that it shares with Valkey are in ``test_servers``.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest
from django.db import connections

from mailrail import Channel
from mailrail.layers import get_layer

from ..listed import dead_on
from ..processes import Ledger, WorkerProcess, until
from ..proxy import Proxy
from ..servers import PostgresServer
from .checks import THREADS, check
from .checks import start as start_on
from .conftest import end, is_empty, more, recover

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.timeout(300),
]

SLOW = {"seconds": 0.03}
"""For "slow": so that work is left when a fault is over."""


@pytest.fixture
def layer(settings: Any) -> Iterator[Any]:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
    }
    yield get_layer()
    connections["postgres"].close()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    proxy = Proxy(postgres_server.port)
    yield proxy
    proxy.close()


def start(stack: ExitStack, ledger: Ledger, *arguments: str, number: int = 2) -> list[WorkerProcess]:
    return start_on("postgres", stack, ledger, *arguments, number=number)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_of_the_server_in_mid_drain(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer, how: signal.Signals
) -> None:
    ids = {str(id) for id in Channel("slow").send_many([SLOW] * 1000)}
    with ExitStack() as stack:
        pair = start(stack, ledger, "slow")
        for share in (0.2, 0.5):
            until(lambda share=share: len(ledger.counts()) >= share * len(ids), timeout=120)  # type: ignore[misc]
            postgres_server.stop(how)
            connections.close_all()
            goes_on = more(ledger)
            postgres_server.start()
            # On a starved machine, all may have run before this process saw that half had.
            recover(
                lambda goes_on=goes_on: goes_on() or is_empty(layer),  # type: ignore[misc]
                "a restart of the server, which is back,",
            )
        connections.close_all()
        until(lambda: is_empty(layer), timeout=120)
        end(*pair)
    check(ledger, ids, 2 * 2 * 2 * THREADS)
    assert not dead_on(layer, "ledger")


def test_a_network_that_says_nothing_any_more_is_given_up_after_15_seconds(
    layer: Any, ledger: Ledger, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that hang are not reset. New ones work, as through another router."""
    monkeypatch.setenv("MAILRAIL_TEST_POSTGRES_PORT", str(proxy.port))
    with ExitStack() as stack:
        [worker] = start(stack, ledger, "ledger", number=1)
        until(lambda: len(layer.workers()) == 2)
        proxy.silence()
        silent_since = time.monotonic()
        id = str(Channel("ledger").send({}))
        until(lambda: id in ledger.counts(), timeout=25)
        print(f"started {time.monotonic() - silent_since:.1f} s after the silence began")
        assert "the layer cannot be used just now" in worker.log
        until(lambda: is_empty(layer))
        end(worker)
    check(ledger, {id}, 0)


def test_full_connection_slots_are_waited_out(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 200)}
    hogs = []
    with ExitStack() as stack:
        with suppress(psycopg.OperationalError):
            while True:
                hogs.append(postgres_server.connect())
        [worker] = start(stack, ledger, "ledger", number=1)
        until(lambda: "the layer cannot be used just now" in worker.log, what="its word of it")
        for hog in hogs:
            hog.close()
        recover(more(ledger), "full connection slots, which are free again,")
        until(lambda: is_empty(layer))
        end(worker)
    check(ledger, ids, 0)


def test_an_idle_session_that_the_server_ends_is_made_anew(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    with ExitStack() as stack, postgres_server.connect() as admin:
        admin.execute("ALTER DATABASE mailrail SET idle_session_timeout = '300ms'")
        try:
            [worker] = start(stack, ledger, "ledger", number=1)
            until(lambda: len(layer.workers()) == 2)
            for _ in range(3):
                connections.close_all()
                ended = postgres_server.log.count("idle-session timeout")
                until(lambda ended=ended: postgres_server.log.count("idle-session timeout") >= ended + 2)  # type: ignore[misc]
                id = str(Channel("ledger").send({}))
                recover(lambda id=id: id in ledger.counts(), "the end of idle sessions")  # type: ignore[misc]
            end(worker)
        finally:
            admin.execute("ALTER DATABASE mailrail RESET idle_session_timeout")
    assert set(ledger.counts().values()) == {1}


def test_an_error_of_the_disk_loses_nothing(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    """SQLSTATE 53100 from a trigger: what a server without room says to every write."""
    ids = {str(id) for id in Channel("slow").send_many([SLOW] * 400)}
    with ExitStack() as stack, postgres_server.connect(dbname="mailrail") as admin:
        [worker] = start(stack, ledger, "slow", number=1)
        until(lambda: len(ledger.counts()) >= 50)
        admin.execute(
            """
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
            CREATE TRIGGER full_disk BEFORE UPDATE OR DELETE ON mailrail_message
            FOR EACH STATEMENT EXECUTE FUNCTION full_disk()
            """
        )
        try:
            until(lambda: "no space left on device" in worker.log)
        finally:
            admin.execute("DROP FUNCTION full_disk CASCADE")
        recover(more(ledger), "an error of the disk, which is gone,")
        until(lambda: is_empty(layer))
        end(worker)
    check(ledger, ids, 0)
