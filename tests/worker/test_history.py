"""What a worker tells: the history of what it did, what went wrong, and what its slots run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test import override_settings

import mailrail
from mailrail.errors import Discard, LayerUnavailable
from mailrail.layers import DurableLayer, InMemoryChannelLayer
from mailrail.layers.history import ALL, HistoryRow
from mailrail.messages import Message
from mailrail.monitoring.counters import OTHERS, Counters, counting, note_mailer, note_trouble, trouble_of
from mailrail.monitoring.workers import workers
from mailrail.routing import Routing, route
from mailrail.tracebacks import describe
from mailrail.worker.heartbeat import Heartbeat
from mailrail.worker.history import flush
from mailrail.worker.leases import LeaseKeeper
from mailrail.worker.presence import _here
from mailrail.worker.worker import Worker

WORK = ("channel", "work")


def fail(message: Any) -> None:
    if message["n"] == 0:
        return
    if message["n"] == 1:
        raise Discard
    if message["n"] == 2:
        message.bury("No 17 of 42 is wrong")
    if message["n"] == 3 and message.attempt == 1:
        raise KeyError(message["n"])


def rows_of(layer: DurableLayer, series: tuple[str, str] = WORK) -> list[HistoryRow]:
    return layer.history(series, time.time() - 3 * 86400, time.time() + 60)


def drain(layer: DurableLayer, *routes: Any) -> None:
    Worker(layer, Routing(routes), worker_id="w", drain=True).run()


def test_a_worker_records_what_became_of_its_messages_when_it_stops(layer: DurableLayer) -> None:
    layer.enqueue([Message("work", {"n": n}) for n in range(4)])
    layer.enqueue([Message("work", {"n": 0}, expires=time.time() - 1)])
    layer.advance_time(7)
    drain(layer, route("work", fail, backoff=0))
    totals = [sum(counts) for counts in zip(*(row.counts for row in rows_of(layer)), strict=True)]
    assert totals == [5, 3, 1, 1, 1]  # sent, done, retried, buried, expired
    assert [row.counts for row in rows_of(layer, ALL)] == [row.counts for row in rows_of(layer)]
    waits = [sum(bucket) for bucket in zip(*(row.waits for row in rows_of(layer)), strict=True)]
    assert sum(waits[13:14]) == 4  # between 4.096 and 8.192 s: the first runs; the retry did not wait
    assert 7 <= max(row.longest_wait for row in rows_of(layer)) < 60
    assert sum(sum(row.runs) for row in rows_of(layer)) == 5  # what expired did not run
    assert {(t.where, t.what, t.count, t.buried) for t in layer.troubles()} == {
        ("work", "KeyError", 1, 0),
        ("work", "No # of # is wrong", 1, 1),
    }
    assert layer.workers(lost=True) == []


def test_a_message_counts_as_sent_in_the_minute_in_which_that_was(layer: DurableLayer) -> None:
    layer.enqueue([Message("work", {"n": 0})])
    layer.advance_time(600)
    drain(layer, route("work", fail))
    sent, done = rows_of(layer)
    assert (sent.sent, sent.done, done.sent, done.done) == (1, 0, 0, 1)
    assert sent.start is not None and done.start is not None and done.start - sent.start in (600, 660)


def test_a_scheduled_message_has_waited_since_it_was_due_and_not_since_it_was_sent(
    layer: DurableLayer,
) -> None:
    layer.enqueue([Message("work", {"n": 0}, delay=3600.0)])
    layer.advance_time(3600 + 10)
    drain(layer, route("work", fail))
    assert max(row.longest_wait for row in rows_of(layer)) == pytest.approx(10, abs=8)


def test_a_released_message_counts_once_and_only_when_it_has_ended(layer: DurableLayer) -> None:
    layer.enqueue([Message("work", {"n": 0})])
    released: list[int] = []

    def release_first(message: Any) -> None:
        if not released:
            released.append(1)
            message.release()

    drain(layer, route("work", release_first))
    assert [sum(counts) for counts in zip(*(row.counts for row in rows_of(layer)), strict=True)] == [
        1,
        1,
        0,
        0,
        0,
    ]


@pytest.fixture
def running(layer: DurableLayer) -> Iterator[tuple[DurableLayer, threading.Event]]:
    """A worker whose only slot runs a message until the event is set; its heartbeat is given by hand."""
    begun, done = threading.Event(), threading.Event()

    def hold(message: Any) -> None:
        begun.set()
        done.wait(30)

    with override_settings(MAILRAIL={"RELEASE": "4f2a91c"}):
        worker = Worker(layer, Routing([route("work", hold)]), worker_id="w", threads=1)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            layer.enqueue([Message("work", {"secret": "no one's business"})])
            assert begun.wait(30)
            worker._heartbeat.beat(layer)
            yield layer, done
        finally:
            done.set()
            worker.stop()
            thread.join(30)


def test_a_heartbeat_tells_the_release_the_memory_and_what_each_slot_runs(
    running: tuple[DurableLayer, threading.Event],
) -> None:
    layer, _ = running
    [worker] = workers(layer)
    assert (worker.id, worker.version, worker.release) == ("w", mailrail.__version__, "4f2a91c")
    assert worker.memory is not None and 10 * 1024**2 < worker.memory < 10 * 1024**3
    assert worker.started_at == pytest.approx(time.time(), abs=60) and worker.threads == 1
    [slot] = worker.slots
    assert slot.channel == "work" and slot.since == pytest.approx(time.time(), abs=60)
    [summary] = layer.list_messages(["work"], 10)
    assert slot.message_id == str(summary.id)
    assert "secret" not in str(layer.workers()[0].info) and "business" not in str(layer.workers()[0].info)
    assert not worker.is_silent and not worker.is_other_release


class TestWorkers:
    def test_who_is_silent_for_three_heartbeats_is_marked(self) -> None:
        layer = InMemoryChannelLayer()
        layer.heartbeat("w", {"pid": 7, "host": "web", "uptime": 100.0})
        [worker] = workers(layer)
        assert not worker.is_silent and worker.started_at == pytest.approx(time.time() - 100, abs=5)
        layer.advance_time(16)
        [worker] = workers(layer)
        assert worker.is_silent and worker.age == pytest.approx(16, abs=5)
        layer.advance_time(100)
        assert [w.is_silent for w in workers(layer)] == [True] and layer.workers() == []

    def test_who_runs_another_release_than_most_is_marked(self) -> None:
        layer = InMemoryChannelLayer()
        for name, release in (("a", "2"), ("b", "2"), ("c", "1")):
            layer.heartbeat(name, {"version": "1.0", "release": release})
        layer.heartbeat("killed", {"version": "1.0", "release": "1", "gone": True})
        assert [(w.id, w.is_other_release) for w in workers(layer)] == [
            ("a", False),
            ("b", False),
            ("c", True),
            ("killed", False),
        ]

    def test_of_two_that_differ_the_older_one_is_marked(self) -> None:
        layer = InMemoryChannelLayer()
        layer.heartbeat("new", {"release": "2", "uptime": 5.0})
        layer.heartbeat("old", {"release": "1", "uptime": 500.0})
        assert [(w.id, w.is_other_release) for w in workers(layer)] == [("new", False), ("old", True)]

    @pytest.mark.parametrize(
        "info",
        [
            {},
            {
                "pid": "x",
                "host": 7,
                "memory": [],
                "uptime": None,
                "slots": 5,
                "release": {},
                "threads": "many",
            },
            {"pid": True, "slots": [None, 7, {}, {"channel": 1, "id": [], "seconds": "x"}], "uptime": 1e400},
        ],
    )
    def test_whatever_a_heartbeat_holds_is_described(self, info: dict[str, Any]) -> None:
        layer = InMemoryChannelLayer()
        layer._store._workers["w"] = (str(info).replace("'", '"'), time.time())  # type: ignore[attr-defined]
        [worker] = workers(layer)
        assert (worker.id, worker.pid, worker.memory, worker.started_at) == ("w", None, None, None)


class TestCounters:
    def test_mailers_count_in_the_worker_that_runs_and_nowhere_else(self) -> None:
        counters = Counters()
        note_mailer("default", sent=1)
        with counting(counters):
            note_mailer("default", sent=3, failed=2, deferred=1, seconds=[0.01, 0.02], arrived=[120.0, 125.0])
            note_trouble("mailer", "default", "550 no", count=2, buried=2)
        note_trouble("mailer", "default", "550 no")
        rows, [trouble] = counters.take()
        [ended, sent] = [row for row in rows if row.series == ("mailer", "default")]
        assert (ended.done, ended.buried, ended.retried, sum(ended.runs)) == (3, 2, 1, 2)
        assert (sent.start, sent.sent) == (120.0, 2)
        assert (trouble.kind, trouble.where, trouble.what, trouble.count, trouble.buried) == (
            "mailer",
            "default",
            "550 no",
            2,
            2,
        )
        assert counters.take() == ([], [])

    def test_a_flood_of_different_troubles_is_counted_together_beyond_some(self) -> None:
        counters = Counters()
        for n in range(1000):
            counters.note_trouble("channel", "work", f"Error{n}", 1, 0)
        counters.note_trouble("channel", "other", "KeyError", 1, 0)
        _, troubles = counters.take()
        assert len(troubles) <= 23 and sum(trouble.count for trouble in troubles) == 1001
        assert any(trouble.what == OTHERS and trouble.count > 900 for trouble in troubles)
        assert any(trouble.where == "other" for trouble in troubles)

    def test_a_note_waits_for_no_number_of_threads_and_none_is_lost(self) -> None:
        counters, taken = Counters(), list[int]()

        def note() -> None:
            for _ in range(5000):
                counters.note([("work", 0, 0.1, 0.1, 60.0)])

        threads = [threading.Thread(target=note) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            taken += [row.done for row in counters.take()[0] if row.series == WORK]
        taken += [row.done for row in counters.take()[0] if row.series == WORK]
        assert sum(taken) == 20_000


class Failing(InMemoryChannelLayer):
    """A layer that cannot record what ``fails`` says: rows, or troubles."""

    def __init__(self, error: Exception, fails: str = "rows") -> None:
        super().__init__()
        self.error, self.fails = error, fails

    def record(self, rows: Any, troubles: Any = ()) -> None:
        if rows if self.fails == "rows" else troubles:
            raise self.error
        super().record(rows, troubles)


@pytest.mark.parametrize("may_have_run", [True, False])
def test_what_may_have_been_stored_is_not_stored_again(may_have_run: bool) -> None:
    counters, error = Counters(), LayerUnavailable("away")
    error.may_have_run = may_have_run
    counters.note([("work", 0, 0.0, None, None)])
    with pytest.raises(LayerUnavailable):
        flush(Failing(error), counters)
    counters.note([("work", 0, 0.0, None, None)])
    layer = InMemoryChannelLayer()
    flush(layer, counters)
    assert sum(row.done for row in rows_of(layer)) == (1 if may_have_run else 2)


@pytest.mark.parametrize(("fails", "rows", "troubles"), [("rows", 0, 1), ("troubles", 0, 0)])
@pytest.mark.parametrize("may_have_run", [True, False])
def test_rows_and_troubles_are_given_back_each_for_itself(
    fails: str, rows: int, troubles: int, may_have_run: bool
) -> None:
    counters, error = Counters(), LayerUnavailable("away")
    error.may_have_run = may_have_run
    counters.note([("work", 0, 0.0, None, None)])
    counters.note_trouble("channel", "work", "KeyError", 1, 0)
    with pytest.raises(LayerUnavailable):
        flush(Failing(error, fails), counters)
    layer = InMemoryChannelLayer()
    flush(layer, counters)
    found = sum(row.done for row in rows_of(layer)), sum(t.count for t in layer.troubles())
    given_back = (fails == "rows", fails == "troubles") if not may_have_run else (False, False)
    assert found == (rows + given_back[0], troubles + given_back[1])


def test_a_history_that_fails_keeps_no_neighbour_from_being_looked_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = Failing(LayerUnavailable("no table for it"))
    counters = Counters()
    counters.note([("work", 0, 0.0, None, None)])
    keeper = LeaseKeeper(layer, dict, Heartbeat("w", dict, list, counters))
    layer.heartbeat("neighbour", {"presence": f"{_here()}/x"})
    keeper._beat()
    assert "neighbour" in keeper._neighbours._infos and keeper._beaten_at > 0
    assert "the history cannot be recorded just now" in caplog.text


@pytest.mark.django_db(transaction=True, databases=["postgres"])
@pytest.mark.parametrize("what", ["a row", "the table"])
def test_whoever_locks_the_history_keeps_leases_waiting_for_a_moment_only(
    on_postgres: DurableLayer, what: str
) -> None:
    counters = Counters()
    counters.note([("work", 0, 0.0, None, 60.0)])
    flush(on_postgres, counters)
    counters.note([("work", 0, 0.0, None, 60.0)])
    other = connections["postgres"].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "DELETE FROM mailrail_history"
                if what == "a row"
                else "LOCK TABLE mailrail_history IN ACCESS EXCLUSIVE MODE"
            )
            with pytest.raises(OperationalError, match="lock timeout"):
                flush(on_postgres, counters)
            cursor.execute("ROLLBACK")
    finally:
        other.close()
    flush(on_postgres, counters)
    assert sum(row.done for row in on_postgres.history(WORK, 0, time.time() + 60)) == 2


def test_a_trouble_is_named_by_its_exception_or_by_its_reason_without_numbers() -> None:
    with pytest.raises(ValueError, match="row 7") as raised:
        raise ValueError("row 7")
    assert trouble_of(describe(raised.value)) == "ValueError"
    assert trouble_of("the limit of 30 s is over\nand more") == "the limit of # s is over"
    assert trouble_of("no customer <ada.7@example.com>") == "no customer <…>"
