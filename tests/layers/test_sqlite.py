"""What is particular to SQLite: its planner has to find the indexes, on every Django, by the way Django wrote them."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection

from mailrail.layers import DatabaseChannelLayer
from mailrail.layers.sqlite.statements import STATEMENTS
from mailrail.messages import Message

VALUES: dict[str, Any] = {
    "channels": '["a","b"]',
    "besides": "[]",
    "now": 1.0,
    "most": 10,
    "ids": "[]",
    "leases": "{}",
    "worker": "w",
    "token": 1,
    "claims": "[]",
    "lanes": '[["a","l"]]',
    "delay": 1.0,
    "attempts": 0,
    "lane": None,
    "places": None,
    "alone": False,
    "error": "",
    "error_class": "",
    "channel": "a",
}

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's planner is asked"),
]


def plan(statement: str) -> list[str]:
    """The steps of SQLite's query plan; the placeholders are filled in, as EXPLAIN knows their values' types then."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", VALUES)
        return [detail for *_, detail in cursor.fetchall()]


@pytest.fixture
def backlog() -> None:
    """Enough rows, and their statistics, for the planner to have a choice."""
    layer = DatabaseChannelLayer(using="default")
    layer.enqueue([Message(channel=f"c{n % 5}", content={}, priority=n % 3) for n in range(500)])
    layer.enqueue([Message(channel="a", content={}, lane=f"l{n % 7}", lifetime=1000.0) for n in range(100)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


OF_A_WORKER = [
    "claimable",
    "next_due",
    "lease",
    "drop_expired",
    "any_expired",
    "held",
    "finish",
    "renew",
    "reschedule",
    "bury",
    "cancel",
    "advance_lanes",
]


@pytest.mark.parametrize("name", OF_A_WORKER)
@pytest.mark.usefixtures("backlog")
def test_no_verb_of_the_worker_scans_the_table(name: str) -> None:
    steps = plan(STATEMENTS[name])
    assert any("SEARCH" in step for step in steps), steps
    assert not [step for step in steps if step.startswith(("SCAN mailrail_message", "SCAN m"))], steps


@pytest.mark.parametrize("name", ["claimable", "next_due"])
@pytest.mark.usefixtures("backlog")
def test_choosing_walks_the_index_of_what_may_be_claimed(name: str) -> None:
    steps = plan(STATEMENTS[name])
    searches = [step for step in steps if "mailrail_ready" in step]
    assert len(searches) >= 3, steps  # the first level, the next level, and what is due on each


def test_an_error_while_rows_are_read_is_one_of_djangos() -> None:
    """The worker waits for those to pass; any other would end it."""
    layer = DatabaseChannelLayer(using="default")
    layer.stats()
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO mailrail_pause (channel, since) VALUES (%s, 0)", [(f"c{n}",) for n in range(5000)]
        )
    calls = iter([0] * 5)
    connection.connection.set_progress_handler(lambda: next(calls, 1), 1000)
    try:
        with pytest.raises(OperationalError, match="interrupted"):
            layer.stats()
    finally:
        connection.connection.set_progress_handler(None, 0)


@pytest.mark.usefixtures("backlog")
def test_a_scan_would_be_seen() -> None:
    """Without the index's condition, the statement that claims is one that the tests above refuse."""
    without = STATEMENTS["claimable"].replace("held = 0", "NOT held")
    steps = plan(without)
    assert not [step for step in steps if "mailrail_ready" in step], steps
