"""Behind poolers of connections: PgBouncer in transaction mode, and Django's own pool."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction

from mailrail import Channel
from mailrail.mail.delivery.outcomes import Result
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.models import Email, Status
from mailrail.prepared_statements import is_pooled
from mailrail.second_connection import unpooled
from mailrail.worker.pooled import replace_broken_connections

from .listed import dead_on, waiting_on
from .pgbouncer import MISSING, PROGRAM, PgBouncer
from .processes import Ledger, WorkerProcess, children_of, until, workers
from .servers import PostgresServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

WHOLE = {"outer", "kept"}
"""What one message of the consumer "book" leaves behind."""


@pytest.fixture
def layer(on_postgres: Any) -> Any:
    return on_postgres


@pytest.fixture
def booked(layer: Any) -> Iterator[None]:
    """The table of the consumer "book"."""
    with connections["postgres"].cursor() as cursor:
        cursor.execute("CREATE TABLE booked (id uuid NOT NULL, how text NOT NULL)")
        yield
        connections["postgres"].cursor().execute("DROP TABLE booked")


@contextmanager
def start(ledger: Ledger, *arguments: str, number: int = 1) -> Iterator[list[WorkerProcess]]:
    options = ("--layer", "postgres", "--threads", "4")
    with workers(ledger, *arguments, *options, number=number) as running:
        yield running


def end(*running: WorkerProcess) -> None:
    for worker in running:
        worker.signal(signal.SIGTERM)
    for worker in running:
        assert worker.wait() == 0, worker.log[-3000:]


def is_empty(layer: Any, *channels: str) -> bool:
    stats = layer.stats()
    return not any(c in stats and stats[c].ready + stats[c].scheduled + stats[c].claimed for c in channels)


def close_pool() -> None:
    """This process's own."""
    connection: Any = connections["postgres"]
    connection.close()
    connection.close_pool()


def rows_of(query: str) -> list[Any]:
    with connections["postgres"].cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
class TestPgBouncer:
    @pytest.fixture(autouse=True)
    def pooler(
        self, postgres_server: PostgresServer, layer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[PgBouncer]:
        """This process and those it starts reach the server through a pooler of 4 sessions for all."""
        connections.close_all()
        pooler = PgBouncer(postgres_server)
        monkeypatch.setenv("MAILRAIL_TEST_POSTGRES_PORT", str(pooler.port))
        monkeypatch.setitem(connections.settings["postgres"], "PORT", str(pooler.port))
        yield pooler
        layer.stop_listening()
        connections.close_all()
        pooler.remove()

    def test_workers_drain_with_keys_and_lanes_and_leave_nothing_in_the_sessions(
        self, layer: Any, ledger: Ledger
    ) -> None:
        assert is_pooled(_connected())
        ids = {str(id) for id in Channel("ledger").send_many([{}] * 1000)}
        ids |= {str(Channel("ledger").send({}, key=f"k{n % 5}")) for n in range(20)}
        in_lane = [str(id) for id in Channel("slow").send_many([{"seconds": 0.001}] * 60, lane="l")]
        with start(ledger, "ledger", "slow", number=2) as pair:
            until(lambda: is_empty(layer, "ledger", "slow"))
            end(*pair)
            for worker in pair:
                assert "Traceback" not in worker.log and "ERROR" not in worker.log
                assert worker.log.count("is reached through a connection pooler") == 1
        assert ledger.counts() == dict.fromkeys([*ids, *in_lane], 1)
        assert [line.id for line in ledger.lines() if line.id in set(in_lane)] == [
            id for id in in_lane for _ in ("began", "ran")
        ]
        with _all_sessions() as sessions:
            for session in sessions:
                assert session.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
                assert session.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
                assert session.execute("SHOW lock_timeout").fetchone() == ("0",)
        assert rows_of("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]

    def test_an_idle_worker_starts_what_is_sent_within_its_longest_look(
        self, layer: Any, ledger: Ledger
    ) -> None:
        waits = []
        with start(ledger, "ledger") as [worker]:
            until(lambda: "connection pooler" in worker.log)
            for _ in range(4):
                quiet_until = time.monotonic() + 1.5  # long enough to look as seldom as it ever does
                until(lambda quiet_until=quiet_until: time.monotonic() > quiet_until)  # type: ignore[misc]
                begun, id = time.monotonic(), str(Channel("ledger").send({}))
                until(lambda id=id: id in ledger.counts())  # type: ignore[misc]
                waits.append(time.monotonic() - begun)
            end(worker)
        print(f"from send to start: {', '.join(f'{wait:.2f}' for wait in waits)} s")
        assert max(waits) < 1.2  # it looks every second

    def test_atomic_consumers_end_with_their_transactions(
        self, layer: Any, ledger: Ledger, booked: None
    ) -> None:
        ids = Channel("book").send_many([{"using": "postgres", "do": "raise"}] * 40)
        with start(ledger, "book", "--drain") as [worker]:
            assert worker.wait() == 0
        assert _booked() == _booked_sends(layer) == {(str(id), how) for id in ids for how in WHOLE}

    def test_sends_join_transactions_and_immediately_does_not(self, layer: Any, elsewhere: Any) -> None:
        with transaction.atomic("postgres"):
            Channel("work").send({"n": 1}, lane="l", key="k")
            Channel("work").send({"n": 2}, immediately=True)
            Channel("work").send({"n": 3}, immediately=True, lane="m")
            claims = elsewhere(layer.claim, "w", {"work": 5}, 15.0).claims
            assert sorted(m.content["n"] for m in claims) == [2, 3]
            transaction.set_rollback(True, "postgres")
        assert elsewhere(layer.finish, claims) == [] and layer.stats() == {}

    def test_outcomes_of_email_are_written_and_leave_nothing_in_the_sessions(self, layer: Any) -> None:
        emails = [Email(recipients=[{"address": "ann@example.com", "status": "queued"}]) for _ in range(20)]
        Email.objects.using("postgres").bulk_create(emails)
        for email in emails:  # more than it takes until a statement is prepared
            assert store_outcomes([], [email], "postgres") == set()
            assert store_outcomes([Result(email, Status.SENT)], [], "postgres") == set()
        with _all_sessions() as sessions:
            for session in sessions:
                assert session.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)

    def test_a_pooler_that_restarts_costs_nothing(
        self, layer: Any, ledger: Ledger, pooler: PgBouncer
    ) -> None:
        ids = {str(id) for id in Channel("ledger").send_many([{}] * 600)}
        with start(ledger, "ledger") as [worker]:
            until(lambda: len(ledger.counts()) >= 100)
            pooler.restart()
            connections.close_all()
            until(lambda: is_empty(layer, "ledger"))
            end(worker)
        assert ledger.counts() == dict.fromkeys(ids, 1)


EARLY = """
import sys, django
django.setup()
from django.core.management import execute_from_command_line
from django.db import connections
connections["postgres"].ensure_connection()
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""
"""``manage.py`` of a project that uses its database while it starts, and so has a pool when workers are forked."""


class TestDjangosPool:
    @pytest.fixture(autouse=True)
    def pool(self, layer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
        """This process and those it starts: two connections for all threads, of which a worker has four."""
        connections.close_all()
        options = {"min_size": 1, "max_size": 2}
        monkeypatch.setenv(
            "MAILRAIL_TEST_POSTGRES_OPTIONS", json.dumps({"pool": options, "application_name": "worker"})
        )
        monkeypatch.setitem(connections.settings["postgres"], "OPTIONS", {"pool": options})
        yield options
        layer.stop_listening()
        close_pool()

    def test_consumers_take_turns_with_the_pool_s_connections(
        self, layer: Any, ledger: Ledger, booked: None
    ) -> None:
        ids = Channel("book").send_many([{"using": "postgres", "do": "raise"}] * 60)
        close_pool()
        with start(ledger, "book") as [worker]:
            most = 0
            while len(ledger.lines("ran")) < 120:
                most = max(most, _sessions())
            until(lambda: is_empty(layer, "book"))
            end(worker)
        assert _booked() == _booked_sends(layer) == {(str(id), how) for id in ids for how in WHOLE}
        assert not dead_on(layer, "book")
        # The pool's, and of the worker's own: one that claims, one that renews, one that listens, and for a moment
        # now and then one that looks at all channels.
        assert 3 <= most <= 2 + 4

    def test_claims_renewals_and_listening_need_nothing_of_the_pool(
        self, layer: Any, ledger: Ledger, booked: None
    ) -> None:
        """Consumers hold all of it, for longer than their lease."""
        gate = ledger.path.with_name("gate")
        ids = Channel("book").send_many([{"using": "postgres", "gate": str(gate)}] * 2)
        with start(ledger, "book", "ledger") as [worker]:
            until(lambda: len(ledger.lines("ran")) == 2)
            until(lambda: rows_of("SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN mailrail'"))
            held_until = time.monotonic() + 2.5
            until(lambda: time.monotonic() > held_until)
            begun, id = time.monotonic(), str(Channel("ledger").send({}))
            until(lambda: id in ledger.counts())
            print(f"from send to start: {time.monotonic() - begun:.3f} s")
            gate.touch()
            until(lambda: is_empty(layer, "book"))
            end(worker)
        assert _booked() == {(str(id), how) for id in ids for how in WHOLE}
        assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}

    def test_processes_share_no_pool(self, layer: Any, ledger: Ledger, booked: None) -> None:
        gate = ledger.path.with_name("gate")
        content = {"using": "postgres", "gate": str(gate)}
        ids = Channel("book").send_many([content] * 4)
        options = ("book", "--layer", "postgres", "--threads", "2", "--processes", "2")
        with workers(ledger, *options, command=(sys.executable, "-c", EARLY)) as [worker]:
            until(lambda: len({line.pid for line in ledger.lines("ran")}) == 2)
            children = children_of(worker.process.pid)
            sockets = [_sockets(pid) for pid in [worker.process.pid, *children]]
            assert len(children) == 2 and all(len(socket) >= 3 for socket in sockets[1:])
            assert sum(map(len, sockets)) == len(set.union(*sockets)), "shared"
            gate.touch()
            until(lambda: is_empty(layer, "book"))
            end(worker)
            assert "Warning" not in worker.log
        assert _booked() == {(str(id), how) for id in ids for how in WHOLE}

    def test_connections_that_the_server_has_ended_cost_no_attempt(
        self, layer: Any, ledger: Ledger, booked: None
    ) -> None:
        content = {"using": "postgres"}
        with start(ledger, "book") as [worker]:
            Channel("book").send_many([content] * 10)
            until(lambda: len(ledger.lines("ran")) == 10 and is_empty(layer, "book"))
            for more in (20, 30):
                _end_all_sessions()
                Channel("book").send_many([content] * 10)
                until(lambda more=more: len(ledger.lines("ran")) == more and is_empty(layer, "book"))  # type: ignore[misc]
            end(worker)
        assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}
        assert len(_booked()) == 60

    def test_broken_connections_are_replaced_without_a_pause_and_the_pool_is_emptied_once(
        self, layer: Any, pool: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        """psycopg_pool's own check sleeps for 1, 2 and 4 s: it is given four broken connections in a row."""
        wrapper: Any = type(connections["postgres"])
        monkeypatch.setattr(wrapper, "get_new_connection", wrapper.get_new_connection)  # put back afterwards
        replace_broken_connections(wrapper)
        replace_broken_connections(wrapper)  # once more changes nothing
        pool |= {"min_size": 4, "max_size": 4}
        others = [connections["postgres"].copy() for _ in range(4)]
        caplog.set_level("INFO", "mailrail.worker")
        for asking in (1, 4):  # one thread alone, and all at the same time
            pids = [_pid_of(other) for other in others]
            for other in others:
                other.close()
            elsewhere = unpooled(connections["postgres"])
            with elsewhere.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", [pids])
            elsewhere.close()
            caplog.clear()
            begun = time.monotonic()
            with ThreadPoolExecutor(asking) as threads:
                assert not {*threads.map(_pid_of, others[:asking])} & {*pids}
            assert time.monotonic() - begun < 0.9
            assert caplog.text.count("its pool is emptied") == 1
        for other in others:
            other.close()

    def test_sends_are_part_of_the_transaction_and_immediately_waits_for_no_pool(
        self, layer: Any, elsewhere: Any, pool: dict[str, int]
    ) -> None:
        with transaction.atomic("postgres"):
            Channel("work").send({"n": 1})
            elsewhere(_connected)  # all of it is taken
            Channel("work").send({"n": 2}, immediately=True)
            claims = elsewhere(layer.claim, "w", {"work": 5}, 15.0).claims
            assert [m.content["n"] for m in claims] == [2]
            transaction.set_rollback(True, "postgres")
        assert layer.finish(claims) == [] and layer.stats() == {}


def _sessions() -> int:
    """Those of the worker."""
    [(number,)] = rows_of("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'worker'")
    return int(number)


def _end_all_sessions() -> None:
    rows_of(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    close_pool()


def _pid_of(connection: Any) -> int:
    """The process of the server that a connection (Django's wrapper) leads to."""
    connection.inc_thread_sharing()
    connection.ensure_connection()
    return int(connection.connection.info.backend_pid)


def _sockets(pid: int) -> set[str]:
    """The TCP sockets a process has open, as the kernel numbers them (proc(5))."""
    tcp = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    found = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    return found & tcp


def _connected() -> Any:
    connections["postgres"].ensure_connection()
    return connections["postgres"]


@contextmanager
def _all_sessions() -> Iterator[list[Any]]:
    """A transaction in each of the pooler's sessions: the pooler has to give a session of its own to each."""
    others = [connections["postgres"].copy() for _ in range(4)]
    try:
        for other in others:
            other.connect()
            other.connection.autocommit = False
            other.connection.execute("SELECT 1")
        yield [other.connection for other in others]
    finally:
        for other in others:
            other.close()


def _booked() -> set[tuple[str, str]]:
    rows = rows_of("SELECT id, how FROM booked")
    assert len(rows) == len(set(rows))
    return {(str(id), how) for id, how in rows}


def _booked_sends(layer: Any) -> set[tuple[str, str]]:
    sent = [(m.content["id"], m.content["how"]) for m in waiting_on(layer, "booked", 10_000)]
    assert len(sent) == len(set(sent))
    return set(sent)
