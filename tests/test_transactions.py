"""Transactions on PostgreSQL: sends follow those of their callers, atomic consumers end with theirs, nobody waits.

What holds for every layer is in ``test_channel``; here are the things that take a second connection to see.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import DataError, IntegrityError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path

from mailrail import Channel
from mailrail.layers import DurableLayer
from mailrail.messages import Message, Statement

from .listed import dead_on, waiting_on
from .processes import Ledger, WorkerProcess, until, workers

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])

WHOLE = {"outer": 1, "kept": 1}
"""What one message of the consumer "book" leaves behind."""


@pytest.fixture
def layer(on_postgres: Any) -> Any:
    return on_postgres


@contextmanager
def rolled_back(using: str = "postgres") -> Iterator[None]:
    with transaction.atomic(using):
        yield
        transaction.set_rollback(True, using)


def claim(layer: DurableLayer, n: int = 10, channel: str = "work", **more: Any) -> list[Message]:
    return layer.claim("w", {channel: n}, 15.0, **more).claims


def contents(messages: list[Message]) -> list[Any]:
    return [message.content for message in messages]


class TestSendsInAtomic:
    """On the layer's own database they are part of it."""

    @pytest.mark.parametrize(
        "send",
        [
            pytest.param(lambda: Channel("work").send({}), id="send"),
            pytest.param(lambda: Channel("work").send_many([{}, {}]), id="send_many"),
            pytest.param(lambda: Channel("work").send({}, key="k"), id="with a key"),
            pytest.param(lambda: Channel("work").send({}, lane="l"), id="in a lane"),
        ],
    )
    def test_nobody_sees_them_before_the_commit(
        self, layer: Any, elsewhere: Any, send: Callable[[], Any]
    ) -> None:
        with transaction.atomic("postgres"), transaction.atomic("postgres"):
            send()
            assert elsewhere(layer.stats) == {} and elsewhere(claim, layer) == []
        assert elsewhere(layer.poll, ["work"]) == 0
        assert elsewhere(claim, layer)

    def test_a_rollback_of_the_outermost_block_takes_those_of_inner_ones_with_it(self, layer: Any) -> None:
        with rolled_back():
            with transaction.atomic("postgres"):
                Channel("work").send({"n": 1})
            Channel("work").send_many([{"n": 2}], lane="l")
            Channel("work").send({"n": 3}, key="k")
        assert layer.stats() == {}

    def test_a_savepoint_rolled_back_takes_only_its_own_with_it(self, layer: Any, elsewhere: Any) -> None:
        with transaction.atomic("postgres"):
            Channel("work").send({"n": 1}, lane="l")
            with rolled_back():
                Channel("work").send({"n": 2}, lane="l")
                with transaction.atomic("postgres"):
                    Channel("work").send({"n": 3}, lane="l")
            Channel("work").send({"n": 4}, lane="l")
        [first] = elsewhere(claim, layer)
        [second] = elsewhere(claim, layer, finished=[first])
        assert contents([first, second]) == [{"n": 1}, {"n": 4}]
        assert elsewhere(claim, layer, finished=[second]) == []

    def test_a_key_sent_in_a_savepoint_that_is_undone_is_free_again(self, layer: Any) -> None:
        with transaction.atomic("postgres"):
            with rolled_back():
                undone = Channel("work").send({"n": 1}, key="k")
            id = Channel("work").send({"n": 2}, key="k")
        assert id != undone and contents(claim(layer)) == [{"n": 2}]

    def test_an_error_of_the_database_in_a_savepoint_leaves_the_others(self, layer: Any) -> None:
        with transaction.atomic("postgres"):
            Channel("work").send({"n": 1})
            with suppress(DataError), transaction.atomic("postgres"):
                Channel("work").send({"n": 2})
                connections["postgres"].cursor().execute("SELECT 1 / 0")
        assert contents(claim(layer)) == [{"n": 1}]

    def test_a_transaction_begun_by_hand_is_joined_too(self, layer: Any, elsewhere: Any) -> None:
        transaction.set_autocommit(False, "postgres")
        try:
            Channel("work").send({"n": 1})
            Channel("work").send({"n": 2}, immediately=True)
            assert contents(elsewhere(claim, layer)) == [{"n": 2}]
            transaction.rollback("postgres")
            Channel("work").send({"n": 3})
            transaction.commit("postgres")
        finally:
            transaction.set_autocommit(True, "postgres")
        assert contents(elsewhere(claim, layer)) == [{"n": 3}]


def a_group(name: str) -> Statement:
    return "INSERT INTO auth_group (name) VALUES (%(group)s)", {"group": name}


def groups() -> list[str]:
    return list(Group.objects.using("postgres").values_list("name", flat=True))


@pytest.fixture(params=["by the client", "by the server"])
def bound(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Who puts values into statements: with the server, each is a query of its own."""
    connection = connections["postgres"]

    def begin_anew() -> None:
        connection.close()
        vars(connection.features).pop("uses_server_side_binding", None)  # which it remembers

    by_server = request.param == "by the server"
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"server_side_binding": by_server})
    begin_anew()
    yield request.param
    begin_anew()


def test_keys_and_lanes_do_not_mind_who_binds_values(layer: Any, bound: str, elsewhere: Any) -> None:
    first = Channel("work").send({"n": 1}, key="k", lane="l", expires=60)
    assert Channel("work").send({"n": 2}, key="k", delay=5) == first
    second = Channel("work").send({"n": 3}, key="k2", at=datetime.now(UTC))
    Channel("work").send_many([{"n": 4}, {"n": 5}], lane="l", priority=1)
    one, two = elsewhere(claim, layer)
    assert {one.id, two.id} == {first, second}
    assert elsewhere(layer.bury, one, "why") == elsewhere(layer.finish, [two]) == []
    assert elsewhere(layer.requeue, "work", [one.id]) == [one.id]
    [four] = elsewhere(claim, layer)
    [five] = elsewhere(claim, layer, finished=[four])
    assert (four.content, five.content) == ({"n": 4}, {"n": 5})


class TestSendsWithTheirRecord:
    """Both, or none."""

    def test_they_are_stored_together(self, layer: Any, bound: str, elsewhere: Any) -> None:
        with CaptureQueriesContext(connections["postgres"]) as captured:
            Channel("work").send_with_record(a_group("50 % \u00e9';--"), {"n": "50 % \u00e9';--"}, priority=7)
        assert len(captured) == (1 if bound == "by the client" else 4)  # with its BEGIN and COMMIT
        assert groups() == ["50 % \u00e9';--"]
        [message] = elsewhere(claim, layer)
        assert (message.content, message.priority) == ({"n": "50 % \u00e9';--"}, 7)

    def test_both_wait_for_the_commit_and_go_with_a_rollback(
        self, layer: Any, bound: str, elsewhere: Any
    ) -> None:
        with rolled_back():
            Channel("work").send_with_record(a_group("a"), {"n": 1})
        with transaction.atomic("postgres"):
            Channel("work").send_with_record(a_group("b"), {"n": 2})
            assert elsewhere(groups) == [] and elsewhere(claim, layer) == []
        assert groups() == ["b"] and contents(elsewhere(claim, layer)) == [{"n": 2}]

    @pytest.mark.parametrize("end", [";", " -- the last word", " -- ;\n;"])
    def test_the_end_of_a_statement_swallows_no_message(self, layer: Any, bound: str, end: str) -> None:
        statement, values = a_group("a")
        Channel("work").send_with_record((statement + end, values), {"n": 1})
        assert (groups(), contents(claim(layer))) == (["a"], [{"n": 1}])

    def test_values_may_have_names_of_our_own(self, layer: Any, bound: str) -> None:
        statement = "INSERT INTO auth_group (id, name) VALUES (%(id)s, %(content)s)"
        Channel("work").send_with_record((statement, {"id": 7, "content": "a"}), {"n": 1})
        assert (groups(), contents(claim(layer))) == (["a"], [{"n": 1}])

    def test_a_record_that_is_refused_leaves_no_message(self, layer: Any, bound: str) -> None:
        Group.objects.using("postgres").create(name="taken")
        with pytest.raises(IntegrityError):
            Channel("work").send_with_record(a_group("taken"), {"n": 1})
        with transaction.atomic("postgres"):
            with pytest.raises(IntegrityError), transaction.atomic("postgres"):
                Channel("work").send_with_record(a_group("taken"), {"n": 2})
            Channel("work").send_with_record(a_group("free"), {"n": 3})
        assert contents(claim(layer)) == [{"n": 3}]

    def test_a_refusal_spoils_the_transaction_it_happened_in(self, layer: Any, bound: str) -> None:
        Group.objects.using("postgres").create(name="taken")
        with transaction.atomic("postgres"):
            Channel("work").send({"n": 1})
            with pytest.raises(IntegrityError):
                Channel("work").send_with_record(a_group("taken"), {"n": 2})
            with pytest.raises(transaction.TransactionManagementError):
                Channel("work").send({"n": 3})
        assert claim(layer) == []

    def test_a_message_that_is_refused_leaves_no_record(self, layer: Any, bound: str) -> None:
        with connections["postgres"].cursor() as cursor:
            cursor.execute("ALTER TABLE mailrail_message ADD CONSTRAINT calm CHECK (priority < 7)")
        try:
            with pytest.raises(IntegrityError):
                Channel("work").send_with_record(a_group("a"), {}, priority=7)
        finally:
            with connections["postgres"].cursor() as cursor:
                cursor.execute("ALTER TABLE mailrail_message DROP CONSTRAINT calm")
        assert groups() == []


class TestAnotherDatabase:
    def test_a_send_waits_for_the_commit_it_names(self, layer: Any, elsewhere: Any) -> None:
        with transaction.atomic("default"):
            with transaction.atomic("default"):
                id = Channel("work").send({"n": 1}, using="default")
            assert elsewhere(layer.stats) == layer.stats() == {}
        assert [m.id for m in claim(layer)] == [id]

    def test_its_rollback_drops_it_and_so_does_that_of_a_savepoint(self, layer: Any) -> None:
        with rolled_back("default"):
            Channel("work").send_many([{"n": 1}], using="default")
        with transaction.atomic("default"):
            with rolled_back("default"):
                Channel("work").send({"n": 2}, using="default")
            Channel("work").send({"n": 3}, using="default")
        assert contents(claim(layer)) == [{"n": 3}]

    def test_each_transaction_takes_only_what_named_it(self, layer: Any) -> None:
        with transaction.atomic("other"), rolled_back("default"):
            Channel("work").send({"n": 1}, using="default")
            Channel("work").send({"n": 2}, using="other")
        assert contents(claim(layer)) == [{"n": 2}]

    def test_a_commit_inside_a_transaction_of_the_layer_s_sends_into_that_one(
        self, layer: Any, elsewhere: Any
    ) -> None:
        with transaction.atomic("postgres"):
            with transaction.atomic("default"):
                Channel("work").send({"n": 1}, using="default")
            assert elsewhere(layer.stats) == {}
        assert contents(claim(layer)) == [{"n": 1}]


class TestNobodyWaits:
    """Locks that users hold, and workers."""

    @pytest.fixture(autouse=True)
    def impatient(self) -> Iterator[None]:
        """Whoever waits for a lock of somebody else fails at once."""
        with connections["postgres"].cursor() as cursor:
            cursor.execute("ALTER DATABASE mailrail SET lock_timeout = '1s'")
            connections["postgres"].close()
            yield
            connections["postgres"].cursor().execute("ALTER DATABASE mailrail RESET lock_timeout")

    def test_workers_pass_over_a_waiting_key_that_the_sender_of_its_duplicate_has_locked(
        self, layer: Any, elsewhere: Any
    ) -> None:
        waiting = Channel("work").send({"n": 1}, key="k")
        other = Channel("work").send({"n": 2})
        elsewhere(layer.heartbeat, "w", {})
        with transaction.atomic("postgres"):
            assert Channel("work").send({"n": 3}, key="k") == waiting
            [got] = elsewhere(claim, layer)
            assert got.id == other
            assert elsewhere(layer.renew, [got], 15.0) == elsewhere(layer.finish, [got]) == []
            assert elsewhere(layer.poll, ["work"]) == 0
            assert elsewhere(layer.stats)["work"].ready == 1
        assert [m.id for m in elsewhere(claim, layer)] == [waiting]

    def test_workers_pass_over_a_locked_key_in_a_lane_and_what_has_expired(
        self, layer: Any, elsewhere: Any
    ) -> None:
        head = Channel("work").send({"n": 1}, key="k", lane="l")
        Channel("work").send({"n": 2}, lane="l")
        Channel("work").send({"n": 3}, key="gone", expires=1)
        Channel("work").send({"n": 4}, key="gone in a lane", lane="m", expires=1)
        layer.advance_time(2)
        with transaction.atomic("postgres"):
            Channel("work").send({}, key="k", lane="l")
            Channel("work").send({}, key="gone", expires=1)
            Channel("work").send({}, key="gone in a lane", lane="m", expires=1)
            claimed = elsewhere(layer.claim, "w", {"work": 10}, 15.0)
            assert claimed.claims == claimed.expired == []
        assert head in {m.id for m in elsewhere(claim, layer)}

    def test_a_locked_key_is_let_go_in_its_lane_and_runs_after_the_commit(
        self, layer: Any, elsewhere: Any
    ) -> None:
        Channel("work").send({"n": 1}, lane="l")
        [head] = elsewhere(claim, layer)
        waiting = Channel("work").send({"n": 2}, key="k", lane="l")
        assert elsewhere(claim, layer) == []  # parks it
        with transaction.atomic("postgres"):
            assert Channel("work").send({"n": 3}, key="k", lane="l") == waiting
            assert (
                elsewhere(Channel("work").send, {"n": 4}, key="k") == waiting
            )  # nor does another sender wait
            assert elsewhere(layer.finish, [head]) == []
            assert elsewhere(claim, layer) == []
        assert [m.id for m in elsewhere(claim, layer)] == [waiting]

    def test_a_sender_never_waits_for_one_that_runs(self, layer: Any, elsewhere: Any) -> None:
        Channel("work").send({"n": 1}, key="k", lane="l")
        [running] = elsewhere(claim, layer)
        with transaction.atomic("postgres"):
            Channel("work").send({"n": 2}, key="k", lane="l")
            assert elsewhere(layer.finish, [running]) == []
        assert contents(elsewhere(claim, layer)) == [{"n": 2}]


# -- consumers whose writes, sends and end are one -------------------------------------------------------------------


class Booked:
    """The table that the consumer "book" writes to."""

    def rows(self) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        with connections["postgres"].cursor() as cursor:
            cursor.execute("SELECT id, how FROM booked")
            for id, how in cursor.fetchall():
                counts.setdefault(str(id), Counter())[how] += 1
        return counts

    def sends(self, layer: Any) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        for message in waiting_on(layer, "booked", 100_000):
            counts.setdefault(message.content["id"], Counter())[message.content["how"]] += 1
        return counts


@pytest.fixture
def booked(layer: Any) -> Iterator[Booked]:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("CREATE TABLE booked (id uuid NOT NULL, how text NOT NULL)")
        yield Booked()
        connections["postgres"].cursor().execute("DROP TABLE booked")


@contextmanager
def start(ledger: Ledger, *arguments: str, threads: int = 4) -> Iterator[WorkerProcess]:
    with workers(ledger, *arguments, "--layer", "postgres", "--threads", str(threads)) as [worker]:
        yield worker


def end(worker: WorkerProcess) -> None:
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log[-3000:]


def book(n: int = 1, **content: Any) -> list[str]:
    return [str(id) for id in Channel("book").send_many([{"using": "postgres", **content}] * n)]


def test_rows_that_users_lock_hold_up_no_worker(layer: Any, ledger: Ledger, elsewhere: Any) -> None:
    """A consumer that asks for a locked row waits for it; its worker goes on with the others."""
    row = Group.objects.using("postgres").create(name="editors")
    with start(ledger, "lock", "ledger", threads=2) as worker:
        with transaction.atomic("postgres"):
            Group.objects.using("postgres").select_for_update().get(pk=row.pk)
            waits = str(elsewhere(lambda: Channel("lock").send({"using": "postgres", "pk": row.pk})))
            until(lambda: ledger.lines("began"))
            elsewhere(lambda: Channel("ledger").send_many([{}] * 20))
            until(lambda: len(ledger.counts()) == 20)
            assert waits not in ledger.counts()
        until(lambda: waits in ledger.counts())
        end(worker)


class TestAtomicConsumers:
    def test_writes_sends_and_end_commit_together(self, layer: Any, ledger: Ledger, booked: Booked) -> None:
        gate = ledger.path.with_name("gate")
        [id] = book(gate=str(gate))
        with start(ledger, "book") as worker:
            until(lambda: ledger.counts())
            assert booked.rows() == booked.sends(layer) == {}  # all done but the commit
            assert layer.stats()["book"].claimed == 1
            gate.touch()
            until(booked.rows)
            # whoever sees one of them sees all
            assert booked.rows() == booked.sends(layer) == {id: WHOLE}
            assert "book" not in layer.stats()
            end(worker)

    def test_raising_undoes_all_of_it_and_the_next_attempt_does_it_once(
        self, layer: Any, ledger: Ledger, booked: Booked
    ) -> None:
        ids = book(10, do="raise")
        with start(ledger, "book", "--drain") as worker:
            assert worker.wait() == 0
        assert set(ledger.counts().values()) == {2}
        assert {line.attempt for line in ledger.lines("ran")} == {1, 2}
        assert booked.rows() == booked.sends(layer) == dict.fromkeys(ids, WHOLE)
        assert not dead_on(layer, "book")

    def test_a_lost_claim_undoes_all_of_it(self, layer: Any, ledger: Ledger, booked: Booked) -> None:
        gate = ledger.path.with_name("gate")
        [id] = book(gate=str(gate))
        with start(ledger, "book") as worker:
            until(lambda: ledger.counts())
            os.killpg(worker.process.pid, signal.SIGSTOP)
            until(lambda: layer.poll(["book"]) == 0)  # its lease of 1 s lapses
            [taken] = claim(layer, channel="book")
            gate.touch()
            os.killpg(worker.process.pid, signal.SIGCONT)
            until(lambda: f"lost book {id}" in worker.log)
            end(worker)
        assert booked.rows() == booked.sends(layer) == {}
        assert layer.release([taken]) == []
        with start(ledger, "book", "--drain") as worker:
            assert worker.wait() == 0
        assert booked.rows() == booked.sends(layer) == {id: WHOLE}

    def test_kill_9_again_and_again_leaves_nothing_half_done(
        self, layer: Any, ledger: Ledger, booked: Booked
    ) -> None:
        chance = random.Random(seed := random.randrange(10**6))
        print(f"seed: {seed}")
        ids = book(400)
        for _ in range(5):
            before = len(ledger.lines("ran"))
            with start(ledger, "book") as worker:
                enough = before + chance.randrange(5, 70)
                until(lambda enough=enough: len(ledger.lines("ran")) >= enough)  # type: ignore[misc]
                worker.kill_all()
            until(lambda: _is_alone("mailrail"), what="the end of its sessions")
            rows = booked.rows()
            assert rows == booked.sends(layer) and all(how == WHOLE for how in rows.values())
            stats = layer.stats()["book"]
            assert len(rows) + stats.ready + stats.claimed == len(ids)
            layer.advance_time(2)
        with start(ledger, "book", "--drain") as worker:
            assert worker.wait() == 0
        assert booked.rows() == booked.sends(layer) == dict.fromkeys(ids, WHOLE)
        assert not dead_on(layer, "book")
        print(f"{len(ledger.lines('ran')) - len(ids)} runs were undone")

    def test_a_server_that_restarts_in_the_middle_leaves_nothing_half_done(
        self, layer: Any, ledger: Ledger, booked: Booked, postgres_server: Any
    ) -> None:
        ids = book(200)
        with start(ledger, "book") as worker:
            until(lambda: len(ledger.lines("ran")) >= 60)
            postgres_server.stop(signal.SIGQUIT)
            postgres_server.start()
            connections.close_all()
            until(lambda: len(booked.rows()) == len(ids))
            end(worker)
        assert booked.rows() == booked.sends(layer) == dict.fromkeys(ids, WHOLE)


def _is_alone(database: str) -> bool:
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = %s AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            [database],
        )
        return bool(cursor.fetchone() == (0,))


# -- ATOMIC_REQUESTS -------------------------------------------------------------------------------------------------

seen_by_others: list[Any] = []
look: Callable[[], Any] = lambda: None  # noqa: E731


def succeeds(request: HttpRequest) -> HttpResponse:
    Channel("work").send({"from": request.path})
    seen_by_others.append(look())
    return HttpResponse("sent")


def fails(request: HttpRequest) -> HttpResponse:
    succeeds(request)
    raise RuntimeError("after the send")


@transaction.non_atomic_requests(using="postgres")
def opts_out(request: HttpRequest) -> HttpResponse:
    fails(request)
    raise AssertionError


urlpatterns = [path("succeeds", succeeds), path("fails", fails), path("opts-out", opts_out)]


class TestAtomicRequests:
    @pytest.fixture
    def client(self, layer: Any, settings: Any, elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> Client:
        settings.ROOT_URLCONF = __name__
        monkeypatch.setitem(connections.settings["postgres"], "ATOMIC_REQUESTS", True)
        monkeypatch.setattr(f"{__name__}.look", lambda: elsewhere(layer.stats))
        seen_by_others.clear()
        return Client(raise_request_exception=False)

    def test_a_view_that_succeeds_sends_once_and_at_its_commit(self, client: Client, layer: Any) -> None:
        assert client.get("/succeeds").status_code == 200
        assert seen_by_others == [{}]
        assert contents(claim(layer)) == [{"from": "/succeeds"}]

    def test_a_view_that_raises_after_a_send_has_sent_nothing(self, client: Client, layer: Any) -> None:
        assert client.get("/fails").status_code == 500
        assert seen_by_others == [{}] and layer.stats() == {}

    def test_a_view_that_opts_out_sends_at_once(self, client: Client, layer: Any) -> None:
        assert client.get("/opts-out").status_code == 500
        assert seen_by_others[0]["work"].ready == 1
        assert contents(claim(layer)) == [{"from": "/opts-out"}]
