"""History and heartbeats, as ``mailrail.layers.base`` declares them, held against every layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from mailrail.layers import DatabaseChannelLayer, DurableLayer, RedisChannelLayer
from mailrail.layers.history import (
    ALL,
    BUCKETS,
    HOUR,
    MINUTE,
    MOST_TROUBLES,
    MOST_TROUBLES_OF_ONE,
    HistoryRow,
    TroubleRow,
    percentile,
)

WORK, MAIL = ("channel", "work"), ("mailer", "default")
DAY = 86400.0


def times(**counts: int) -> tuple[int, ...]:
    """Return a histogram: ``b3=2`` counts two in bucket 3."""
    return tuple(counts.get(f"b{n}", 0) for n in range(BUCKETS))


def minute(ago: float = 0.0) -> float:
    return (time.time() - ago) // MINUTE * MINUTE


def totals(
    layer: DurableLayer, series: Any = WORK, ago: float = 30 * DAY, step: int = HOUR
) -> tuple[int, ...]:
    rows = layer.history(series, time.time() - ago, time.time() + HOUR, step)
    return tuple(sum(row.counts[n] for row in rows) for n in range(5))


class TestSeries:
    def test_what_was_recorded_is_read_back_by_minutes(self, layer: DurableLayer) -> None:
        start = minute(600)
        row = HistoryRow(WORK, start, MINUTE, 5, 4, 3, 2, 1, 0.75, times(b0=3, b23=1), times(b5=4))
        layer.record([row])
        assert layer.history(WORK, start, start + 1) == [row]
        assert layer.history(WORK, start + MINUTE, start + HOUR) == []
        assert layer.history(WORK, start - HOUR, start) == []
        assert layer.history(MAIL, start, start + HOUR) == []

    def test_counts_are_added_and_the_longest_wait_stays_the_longest(self, layer: DurableLayer) -> None:
        start = minute(600)
        first = HistoryRow(WORK, start + 10, done=1, longest_wait=2.0, waits=times(b1=1), runs=times(b2=2))
        layer.record([first, HistoryRow(ALL, start, done=1)])
        layer.record([HistoryRow(WORK, start + 59, done=2, sent=1, longest_wait=1.0, waits=times(b1=3))])
        [row] = layer.history(WORK, start, start + MINUTE)
        assert (row.start, row.sent, row.done, row.longest_wait) == (start, 1, 3, 2.0)
        assert (row.waits, row.runs) == (times(b1=4), times(b2=2))
        assert [row.done for row in layer.history(ALL, start, start + MINUTE)] == [1]

    def test_a_row_without_a_start_counts_in_the_present_minute_of_the_storage(
        self, layer: DurableLayer
    ) -> None:
        before = minute()
        layer.record([HistoryRow(WORK, done=1), HistoryRow(WORK, minute(), sent=1)])
        rows = layer.history(WORK, before, time.time() + MINUTE)
        assert {row.start for row in rows} <= {before, minute()}
        assert (sum(row.done for row in rows), sum(row.sent for row in rows)) == (1, 1)

    def test_the_storage_sums_up_into_steps(self, layer: DurableLayer) -> None:
        hour = (time.time() - 3 * HOUR) // HOUR * HOUR
        rows = [HistoryRow(WORK, hour + n * MINUTE, done=n, longest_wait=float(n)) for n in range(120)]
        layer.record(rows)
        in_hours = layer.history(WORK, hour + 30, hour + 2 * HOUR, HOUR)
        assert [(r.start, r.span, r.done, r.longest_wait) for r in in_hours] == [
            (hour, HOUR, sum(range(60)), 59.0),
            (hour + HOUR, HOUR, sum(range(60, 120)), 119.0),
        ]
        in_quarters = layer.history(WORK, hour, hour + HOUR, 900)
        assert [row.done for row in in_quarters] == [sum(range(n, n + 15)) for n in range(0, 60, 15)]

    @pytest.mark.parametrize("step", [0, 59, 90, -60])
    def test_a_step_that_is_no_whole_minutes_is_refused(self, layer: DurableLayer, step: int) -> None:
        with pytest.raises(ValueError, match="whole minutes"):
            layer.history(WORK, 0, 60, step)

    def test_recent_sums_up_the_last_minutes_of_all_series(self, layer: DurableLayer) -> None:
        now = minute()
        layer.record(
            [HistoryRow(WORK, now - MINUTE, done=1), HistoryRow(WORK, now, done=2, waits=times(b4=1))]
        )
        layer.record([HistoryRow(MAIL, now, buried=1), HistoryRow(("channel", "old"), now - 600, done=9)])
        recent = layer.recent(now - MINUTE)
        assert recent.keys() == {WORK, MAIL}
        assert (recent[WORK].done, recent[WORK].waits, recent[MAIL].buried) == (3, times(), 1)
        assert layer.recent(now)[WORK].done == 2

    def test_what_was_counted_before_a_clock_was_set_back_is_not_recent(self, layer: DurableLayer) -> None:
        now = minute()
        layer.record([HistoryRow(WORK, now, done=2), HistoryRow(WORK, now + HOUR, done=100)])
        assert layer.recent(now - MINUTE)[WORK].done == 2


class TestTime:
    def test_minutes_become_hours_after_two_days_and_no_count_changes(self, layer: DurableLayer) -> None:
        hour = (time.time() - 2 * HOUR) // HOUR * HOUR
        layer.record([HistoryRow(WORK, hour + n * MINUTE, done=1, runs=times(b2=1)) for n in range(60)])
        layer.advance_time(2 * DAY - 4 * HOUR)
        layer.prune_history()
        assert len(layer.history(WORK, hour - 3 * DAY, time.time())) == 60
        layer.advance_time(6 * HOUR)
        layer.prune_history()
        layer.prune_history()
        [merged] = layer.history(WORK, hour - 3 * DAY, time.time())
        assert (merged.start, merged.done, merged.runs) == (hour - 2 * DAY - 2 * HOUR, 60, times(b2=60))

    @override_settings(MAILRAIL={"HISTORY": 3600.0})
    def test_a_history_of_an_hour_keeps_no_minutes_of_the_hours_before(self, layer: DurableLayer) -> None:
        layer.record([HistoryRow(WORK, minute(2.5 * HOUR), done=1), HistoryRow(WORK, minute(60), done=2)])
        layer.prune_history()
        assert totals(layer, step=MINUTE)[1] == 2

    def test_late_minutes_are_added_to_hours_that_exist(self, layer: DurableLayer) -> None:
        start = minute(3 * DAY)
        for _ in range(2):
            layer.record([HistoryRow(WORK, start, sent=1)])
            layer.prune_history()
        [row] = layer.history(WORK, start - HOUR, start + HOUR, HOUR)
        assert row.sent == 2

    @override_settings(MAILRAIL={"HISTORY": 7 * DAY})
    def test_what_is_older_than_the_setting_is_gone(self, layer: DurableLayer) -> None:
        layer.record([HistoryRow(WORK, done=1)], [TroubleRow("channel", "work", "ValueError")])
        layer.advance_time(6 * DAY)
        layer.prune_history()
        assert totals(layer) == (0, 1, 0, 0, 0) and len(layer.troubles()) == 1
        layer.advance_time(DAY + 2 * HOUR)
        layer.prune_history()
        assert totals(layer) == (0, 0, 0, 0, 0) and layer.troubles() == []

    def test_workers_who_record_and_prune_at_once_lose_and_double_nothing(self, layer: DurableLayer) -> None:
        rows = [HistoryRow(WORK, minute(2 * DAY + n * HOUR), done=1) for n in range(8)] + [
            HistoryRow(ALL, done=1)
        ]

        def work() -> None:
            for n in range(10):
                layer.record(rows if n % 2 else rows[::-1], [TroubleRow("channel", "work", f"E{n % 3}")])
                layer.prune_history()

        in_threads(4, work)
        assert totals(layer)[1] == 8 * 40 and totals(layer, ALL)[1] == 40
        assert sum(trouble.count for trouble in layer.troubles()) == 40


class TestTroubles:
    def test_troubles_are_grouped_and_the_last_comes_first(self, layer: DurableLayer) -> None:
        began = time.time()
        layer.record([], [TroubleRow("channel", "work", "ValueError", 2, 1)])
        layer.record([], [TroubleRow("mailer", "default", "550 no such user", 1, 1)])
        layer.advance_time(60)
        layer.record([], [TroubleRow("channel", "work", "ValueError", 3)])
        first, second = layer.troubles()
        assert (first.kind, first.where, first.what, first.count, first.buried) == (
            "channel",
            "work",
            "ValueError",
            5,
            1,
        )
        assert first.last_at == pytest.approx(
            began, abs=10
        ) and first.last_at - first.first_at == pytest.approx(60, abs=10)
        assert (second.kind, second.where, second.what) == ("mailer", "default", "550 no such user")
        assert layer.troubles(limit=1) == [first] and layer.troubles(since=began - 30) == [first]

    def test_of_a_flood_of_different_errors_the_last_stay_and_hide_no_other(
        self, layer: DurableLayer
    ) -> None:
        layer.record([], [TroubleRow("channel", "quiet", "KeyError")])
        for part in range(0, 300, 50):
            layer.record([], [TroubleRow("channel", "work", f"Error{n}") for n in range(part, part + 50)])
        troubles = layer.troubles(limit=MOST_TROUBLES)
        assert sum(trouble.where == "work" for trouble in troubles) == MOST_TROUBLES_OF_ONE
        assert {t.what for t in troubles if t.where == "work"} <= {f"Error{n}" for n in range(250, 300)}
        assert any(trouble.where == "quiet" for trouble in troubles)

    def test_a_flood_of_names_is_bounded_too(self, layer: DurableLayer) -> None:
        names = [f"c{n}" for n in range(MOST_TROUBLES + 200)]
        layer.record([], [TroubleRow("channel", name, "KeyError") for name in names])
        assert len(layer.troubles(limit=len(names))) == MOST_TROUBLES

    def test_any_text_is_kept_as_far_as_it_can_be(self, layer: DurableLayer) -> None:
        layer.record([], [TroubleRow("mailer", "é", "\0 half \ud800 漢" + "x" * 1000)])
        [trouble] = layer.troubles()
        assert (
            trouble.where == "é"
            and trouble.what.startswith("\\0 half \\ud800 漢xxx")
            and len(trouble.what) == 300
        )


class TestHeartbeats:
    def test_a_silent_worker_and_one_that_is_gone_are_listed_only_if_asked_for(
        self, layer: DurableLayer
    ) -> None:
        layer.heartbeat("gone", {"pid": 1, "gone": True})
        layer.heartbeat("silent", {"pid": 2})
        layer.advance_time(61)
        layer.heartbeat("here", {"pid": 3})
        assert [worker.id for worker in layer.workers()] == ["here"]
        assert [(w.id, w.is_gone) for w in layer.workers(lost=True)] == [
            ("gone", True),
            ("here", False),
            ("silent", False),
        ]
        layer.advance_time(600)
        assert layer.workers(lost=True) == []


class TestNamespaces:
    @pytest.mark.django_db(transaction=True)
    def test_projects_that_share_a_database_see_their_own_history(self) -> None:
        plain = DatabaseChannelLayer()
        with override_settings(MAILRAIL={"NAMESPACE": "shop"}):
            shop = DatabaseChannelLayer()
        shared_by(plain, shop)

    def test_projects_that_share_a_redis_see_their_own_history(self, valkey: Any) -> None:
        plain = RedisChannelLayer([valkey.url])
        with override_settings(MAILRAIL={"NAMESPACE": "shop"}):
            shop = RedisChannelLayer([valkey.url])
        shared_by(plain, shop)


def shared_by(plain: DurableLayer, shop: DurableLayer) -> None:
    plain.record([HistoryRow(ALL, done=1), HistoryRow(WORK, done=1)], [TroubleRow("channel", "work", "A")])
    shop.record([HistoryRow(ALL, done=2), HistoryRow(WORK, done=2)], [TroubleRow("channel", "work", "B")])
    for layer, done, what in ((plain, 1, "A"), (shop, 2, "B")):
        assert totals(layer, ALL)[1] == totals(layer)[1] == done
        assert {series: row.done for series, row in layer.recent(time.time() - 120).items()} == {
            ALL: done,
            WORK: done,
        }
        assert [(trouble.where, trouble.what) for trouble in layer.troubles()] == [("work", what)]


def test_percentiles_are_interpolated_between_the_bounds_of_a_bucket() -> None:
    assert percentile(times(), 0.5) is None
    assert percentile(times(b0=10), 0.5) == 0.0005
    assert percentile(times(b1=1, b11=1), 0.5) == 0.002
    assert percentile(times(b11=2), 0.5) == pytest.approx(1.536)  # between 1.024 and 2.048 s
    assert percentile(times(b3=95, b10=5), 0.95) == 0.008
    assert percentile(times(b23=1), 1.0) == pytest.approx(8388.608)


def in_threads(number: int, action: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
