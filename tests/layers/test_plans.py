"""What PostgreSQL's planner makes of the statements: no verb reads or sorts the backlog.

A plan is carried out, and the rows that it touches are counted: 20,000 messages are due in 50 channels, with 300,000
of a higher priority ahead of them that are due later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction

from mailrail.layers import DatabaseChannelLayer
from mailrail.layers.postgresql import claiming_sql, lanes_sql, operating_sql, settling_sql
from mailrail.messages import new_token

from .. import plans
from ..plans import rows

pytestmark = [pytest.mark.django_db(databases=["postgres"]), pytest.mark.usefixtures("backlog")]

LEASE = 15.0
ROOM = 8
MOST_ROWS = 50 * 6 * ROOM
"""As many as may be claimed, for each channel and priority."""
CHANNELS = [f"c{n}" for n in range(50)]
VALUES: dict[str, Any] = {
    "channels": CHANNELS,
    "rooms": [ROOM] * 50,
    "leases": [LEASE] * 50,
    "total": 16,
    "despite": False,
    "worker": "w",
    "token": new_token(),
    "besides": [UUID(int=1)],
    "ids": [UUID(int=1)],
    "tokens": [1],
    "known_channels": ["c1"],
    "known_priorities": [1],
    "floors": [100.0],
    "unanswered": [1],
    "delay": 0.0,
    "attempts": 0,
    "alone": False,
    "error": "",
    "error_class": "",
    "lanes": ["l"] * 50,
    "gone": [0] * 50,
    "channel": "c1",
    "limit": 100,
    "most": 100,
    "before_at": 1e12,
    "before_id": UUID(int=0),
    "id": UUID(int=1),
}


@pytest.fixture(scope="module")
def backlog(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO mailrail_message (id, channel, priority, due, sent_at, lane, lane_seq, held)
            SELECT gen_random_uuid(), 'c' || n %% 50, n %% 3, n, n, NULL::text, NULL::int, 0
            FROM generate_series(1, 20000) n
            UNION ALL
            SELECT gen_random_uuid(), 'c' || n %% 50, 50 + n %% 3, 1e11, n, NULL, NULL, 0
            FROM generate_series(1, 300000) n
            UNION ALL
            SELECT gen_random_uuid(), 'lanes', 0, n, n, 'l', n, (n > 1)::int FROM generate_series(1, 5000) n
            """,
            [],
        )
        cursor.execute("ANALYZE mailrail_message")
        yield
        cursor.execute("TRUNCATE mailrail_message")


STATEMENTS = {**vars(claiming_sql), **vars(settling_sql), **vars(lanes_sql), **vars(operating_sql)}
CLAIMS = ["CLAIM", "CLAIM_ON", "CLAIM_OF_MANY", "CLAIM_OF_MANY_ON"]
CLAIMING = [*CLAIMS, "NEXT_DUE", "ADOPT", "PARK", "ADVANCE_LANES", "DROP_EXPIRED"]
SETTLING = ["FINISH", "FINISH_IN_LANES", "RENEW", "GIVE_BACK", "BURY", "CANCEL"]


@pytest.mark.parametrize("name", [*CLAIMING, *SETTLING, "WAITING", "DEAD"])
def test_reads_what_it_needs(name: str) -> None:
    nodes = plan_of(STATEMENTS[name])
    touched = [n for n in nodes if n.get("Relation Name") == "mailrail_message" and "Scan" in n["Node Type"]]
    assert not [n for n in touched if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
    assert sum(map(rows, touched)) <= MOST_ROWS, touched
    sorts = [n for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort")]
    assert all(n["Actual Rows"] * n["Actual Loops"] <= MOST_ROWS for n in sorts), sorts


@pytest.mark.parametrize("name", [*CLAIMS, "FINISH", "FINISH_IN_LANES", "RENEW", "BURY"])
def test_compares_no_claim_of_a_batch_with_each_other(name: str) -> None:
    """200 are settled: as a join, for which the planner expects few, that would be 40,000 comparisons."""
    with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
        cursor.execute(
            "UPDATE mailrail_message SET token = 1 WHERE id IN (SELECT id FROM mailrail_message LIMIT 200) RETURNING id"
        )
        ids = [id for (id,) in cursor.fetchall()]
        nodes = plan_of(STATEMENTS[name], ids=ids, tokens=[1] * 200)
        transaction.set_rollback(True, "postgres")
    read = [rows(n) for n in nodes if n["Node Type"] == "CTE Scan" and n["CTE Name"] == "given"]
    assert read and sum(read) <= 3 * 200


@pytest.mark.parametrize("name", [*CLAIMING, *SETTLING, "WAITING", "DEAD", "STATS"])
def test_is_expected_to_cost_too_little_to_be_compiled(name: str) -> None:
    """Compiling takes longer than running; many servers begin at `jit_above_cost`, 100,000 if nobody has set it."""
    [top, *_] = plan_of(STATEMENTS[name])
    assert top["Total Cost"] < 100_000


def test_stats_count_no_more_than_they_say() -> None:
    nodes = plan_of(operating_sql.STATS)
    touched = [n for n in nodes if n.get("Relation Name") == "mailrail_message"]
    # 6 levels in 50 channels, up to 100 of each kind in each, and some for finding them
    assert sum(map(rows, touched)) <= 50 * 6 * 100 * 2 + 5000
    assert DatabaseChannelLayer(using="postgres").stats()["c1"].ready == 400


def test_counts_above_the_limit_are_estimated() -> None:
    stats = DatabaseChannelLayer(using="postgres").stats(100)["c1"]
    assert 200 < stats.ready < 800 and 3000 < stats.scheduled < 12000


def plan_of(statement: str, **values: Any) -> list[dict[str, Any]]:
    with connections["postgres"].cursor() as cursor:
        return plans.plan_of(cursor, statement, VALUES | values)
