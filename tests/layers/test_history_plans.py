"""What reading the history touches: what it returns, however much other series have, and however old that is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, transaction

from mailrail.layers.history import HOUR, MINUTE
from mailrail.layers.postgresql.statements import STATEMENTS as POSTGRESQL
from mailrail.layers.sqlite.statements import STATEMENTS as SQLITE

from .. import plans
from ..plans import rows

DAY = 24 * HOUR
NOW = int(time.time()) // HOUR * HOUR
CHANNELS, MINUTES, HOURS = 30, 2 * 24 * 60, 288
SPANS = {"hour": (HOUR, MINUTE), "day": (DAY, MINUTE), "week": (7 * DAY, HOUR)}
FILL = f"""
    INSERT INTO mailrail_history (kind, name, span, start, sent, done)
    SELECT 'channel', 'c' || c, 60, {NOW} - m * 60, 1, 1
    FROM generate_series(1, {CHANNELS}) c, generate_series(0, {MINUTES} - 1) m
    UNION ALL
    SELECT 'channel', 'c' || c, 3600, {NOW} - 172800 - h * 3600, 1, 1
    FROM generate_series(1, {CHANNELS}) c, generate_series(1, {HOURS}) h
"""


@pytest.fixture(scope="module", params=["stale", "fresh"])
def history(request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Two days of minutes and twelve of hours of 30 channels; the planner knows of none of them, or of all."""
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        cursor.execute("ALTER TABLE mailrail_history SET (autovacuum_enabled = false)")
        plans.forget_statistics(cursor, "mailrail_history")
        cursor.execute(FILL)
        if request.param == "fresh":
            cursor.execute("ANALYZE mailrail_history")
        yield
        cursor.execute("TRUNCATE mailrail_history")
        cursor.execute("ALTER TABLE mailrail_history RESET (autovacuum_enabled)")


def touched(name: str, values: dict[str, Any]) -> tuple[float, int]:
    """Return the rows and the pages that a statement has read, and undo what it did."""
    with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
        nodes = plans.plan_of(cursor, POSTGRESQL[name], values)
        transaction.set_rollback(True, "postgres")
    scans = [
        node for node in nodes if node.get("Relation Name") == "mailrail_history" or "Index Name" in node
    ]
    assert not [node["Node Type"] for node in scans if node["Node Type"] == "Seq Scan"]
    return max(map(rows, scans), default=0), plans.buffers(nodes)


@pytest.mark.usefixtures("history")
@pytest.mark.django_db(databases=["postgres"])
class TestPostgresql:
    @pytest.mark.parametrize("span", SPANS)
    def test_a_series_costs_its_own_rows_alone(self, span: str) -> None:
        length, step = SPANS[span]
        values = {"kind": "channel", "name": "c7", "since": NOW - length, "until": NOW + MINUTE, "step": step}
        read, pages = touched("history", values)
        own = min(length // MINUTE, MINUTES) + (max(0, length - 2 * DAY) // HOUR)
        assert own <= read <= own + 2
        assert pages <= 60 + own / 4  # rows of a series lie apart, as those of the others come between

    def test_rates_of_all_series_cost_the_last_minutes_alone(self) -> None:
        read, pages = touched("recent", {"since": NOW - MINUTE})
        assert read <= 2 * CHANNELS and pages <= 20 + 2 * 2 * CHANNELS

    @pytest.mark.parametrize(
        ("name", "seconds"), [("merge_minutes", 2 * DAY + HOUR), ("forget_history", 15 * DAY)]
    )
    def test_a_worker_who_finds_nothing_to_merge_or_to_forget_reads_nothing(
        self, name: str, seconds: float
    ) -> None:
        read, pages = touched(name, {"seconds": float(seconds)})
        assert read == 0 and pages <= 12

    def test_merging_reads_what_it_merges(self) -> None:
        read, _ = touched("merge_minutes", {"seconds": 2 * DAY - 2 * HOUR - 1.0})
        assert 0 < read <= 3 * 60 * CHANNELS


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "values", "index"),
    [
        (
            "history",
            {"kind": "channel", "name": "c7", "since": 0, "until": 10, "step": 60},
            "kind=? AND name=? AND start>? AND start<?",
        ),
        ("recent", {"since": 0, "now": 10}, "span=? AND start>? AND start<?"),
        ("old_history", {"until": 10, "forgotten": 5.0}, "span=? AND start<?"),
        ("merge_minutes", {"until": 10}, "span=? AND start<?"),
        ("forget_minutes", {"until": 10}, "span=? AND start<?"),
    ],
)
def test_sqlite_finds_the_rows_by_an_index(name: str, values: dict[str, Any], index: str) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {SQLITE[name]}", values)
        plan = [detail for *_, detail in cursor.fetchall()]
    found = [detail for detail in plan if "mailrail_history" in detail or "kept" in detail]
    assert found and all(detail.startswith("SEARCH") for detail in found if "mailrail_history" in detail)
    assert any(index in detail for detail in found)
