"""What PostgreSQL's planner makes of the statements: no verb reads or sorts the backlog.

A plan is carried out, and the rows and buffers that it touches are counted: 20,000 messages are due in 50 channels,
with 300,000 of a higher priority ahead of them that are due later, and beside 200,000 dead ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction

from mailrail.layers import DatabaseChannelLayer
from mailrail.layers.postgresql.statements import STATEMENTS
from mailrail.messages import new_token
from mailrail.prepared_statements import execute_prepared

from .. import plans
from ..plans import rows

pytestmark = [pytest.mark.django_db(databases=["postgres"]), pytest.mark.usefixtures("statistics")]

LEASE = 15.0
ROOM = 8
MOST_ROWS = 50 * 6 * ROOM
"""As many as may be claimed, for each channel and priority."""
TABLES = ("mailrail_message", "mailrail_dead")
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
    "min_dues": [100.0],
    "unconfirmed": [1],
    "delay": 0.0,
    "attempts": 0,
    "alone": False,
    "error": "",
    "error_class": "",
    "lanes": ["l"] * 50,
    "gone": [0] * 50,
    "lane": None,
    "places": None,
    "channel": "c1",
    "limit": 100,
    "most": 100,
    "table": "mailrail_message",
    "before_at": 1e12,
    "before_id": UUID(int=0),
    "id": UUID(int=1),
}


@pytest.fixture(scope="module")
def backlog(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        for table in TABLES:  # nobody makes others
            cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        plans.forget_statistics(cursor, *TABLES)
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
        cursor.execute(
            """
            INSERT INTO mailrail_dead (id, channel, sent_at, buried_at, error, error_class)
            SELECT gen_random_uuid(), 'c' || n %% 50, n, n, 'ValueError', 'ValueError' FROM generate_series(1, 200000) n
            """,
            [],
        )
        cursor.execute(
            """
            INSERT INTO mailrail_message (id, channel, due, sent_at, lane, places, lane_seq, held, token)
            SELECT gen_random_uuid(), 'full', 1e11 + n, n, 'full', 2, NULL::int, 1, NULL::int
            FROM generate_series(1, 100000) n
            UNION ALL
            SELECT gen_random_uuid(), 'full', 1e11, n, 'full', 2, 0, 0, 1 FROM generate_series(1, 2) n
            UNION ALL
            SELECT gen_random_uuid(), 'full', 2e5 + n, n, 'other' || n, 2, 0, 0, NULL FROM generate_series(1, 100) n
            UNION ALL
            SELECT gen_random_uuid(), 'full', 2e5 + n, n, 'fresh', 2, NULL, 0, NULL FROM generate_series(1, 3000) n
            """,
            [],
        )
        yield
        cursor.execute(f"TRUNCATE {', '.join(TABLES)}")
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


@pytest.fixture(scope="module", params=["stale", "absent", "fresh"])
def statistics(backlog: None, django_db_blocker: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the planner knows of the tables: that they were empty, nothing, or how they are."""
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        for table in TABLES:
            if request.param == "absent":
                cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
                cursor.execute(
                    "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = %s::regclass", [table]
                )
            elif request.param == "fresh":
                cursor.execute(f"ANALYZE {table}")
        yield


CLAIMS = ["claim", "claim_from_floor", "claim_of_many", "claim_of_many_from_floor"]
CLAIMING = [
    *CLAIMS,
    "next_due",
    "recover_claims",
    "park",
    "places",
    "parked_lanes",
    "advance_lanes",
    "drop_expired",
]
SETTLING = ["finish", "finish_in_lanes", "renew", "reschedule", "bury", "cancel"]


@pytest.mark.parametrize("name", [*CLAIMING, *SETTLING, "get", "get_dead"])
def test_reads_what_it_needs(name: str) -> None:
    nodes = plan_of(STATEMENTS[name])
    touched = [n for n in nodes if n.get("Relation Name") == "mailrail_message" and "Scan" in n["Node Type"]]
    assert not [n for n in touched if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
    assert sum(map(rows, touched)) <= MOST_ROWS, touched
    sorts = [n for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort")]
    assert all(n["Actual Rows"] * n["Actual Loops"] <= MOST_ROWS for n in sorts), sorts


@pytest.mark.parametrize("name", [*CLAIMS, "finish", "finish_in_lanes", "renew", "bury"])
def test_compares_no_claim_of_a_batch_with_each_other(name: str) -> None:
    """200 are settled and leased: as a join, for which the planner expects few, that would be 40,000 comparisons."""
    with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
        cursor.execute(
            "UPDATE mailrail_message SET token = 1 WHERE id IN (SELECT id FROM mailrail_message LIMIT 200) RETURNING id"
        )
        ids = [id for (id,) in cursor.fetchall()]
        nodes = plan_of(STATEMENTS[name], ids=ids, tokens=[1] * 200, total=200, rooms=[200] * 50)
        transaction.set_rollback(True, "postgres")
    for table in ("given", "chosen", "held"):
        read = [rows(n) for n in nodes if n["Node Type"] == "CTE Scan" and n["CTE Name"] == table]
        assert sum(read) <= 3 * 200, table


@pytest.mark.parametrize("name", [*CLAIMING, *SETTLING, "get", "get_dead", "stats"])
def test_is_expected_to_cost_too_little_to_be_compiled(name: str) -> None:
    """Compiling takes longer than running; many servers begin at `jit_above_cost`, 100,000 if nobody has set it."""
    [top, *_] = plan_of(STATEMENTS[name])
    assert top["Total Cost"] < 100_000


def test_stats_count_no_more_than_they_say() -> None:
    nodes = plan_of(STATEMENTS["stats"])
    touched = [n for n in nodes if n.get("Relation Name") == "mailrail_message"]
    # 6 levels in 50 channels, up to 100 of each kind in each, and some for finding them
    assert sum(map(rows, touched)) <= 50 * 6 * 100 * 2 + 5000
    assert DatabaseChannelLayer(using="postgres").stats()["c1"].ready == 400


def test_an_estimate_of_all_channels_reads_no_message() -> None:
    nodes = plan_of(STATEMENTS["estimates"], table="mailrail_message", channels=CHANNELS)
    assert not [n for n in nodes if n.get("Relation Name") in TABLES]
    assert plans.buffers(nodes) <= 500, "the catalogue, and what the planner knows"


@pytest.mark.parametrize("statistics", ["fresh"], indirect=True)
def test_counts_above_the_limit_are_estimated() -> None:
    stats = DatabaseChannelLayer(using="postgres").stats(100)["c1"]
    assert 200 < stats.ready < 800 and 3000 < stats.scheduled < 12000


@pytest.mark.parametrize(
    ("name", "changed", "most"),
    [
        ("claim", {"despite": True}, 200),
        ("claim_of_many", {"despite": True}, 200),
        ("next_due", {}, 20),
        ("places", {"channels": ["full"], "lanes": ["full"]}, 10),
        ("places", {"channels": ["full"], "lanes": ["fresh"]}, 3 * 1000 + 20),
        ("parked_lanes", {"channel": "", "lane": ""}, 10),
        ("finish_in_lanes", {}, 10),
        ("reschedule", {}, 10),
    ],
)
def test_100000_that_wait_in_a_full_lane_are_read_by_nobody(
    name: str, changed: dict[str, Any], most: int
) -> None:
    """Neither by claims of others of the channel, nor when a place is given away; 1,000 are looked at at once."""
    nodes = plan_of(STATEMENTS[name], **{"channels": ["full"], "rooms": [ROOM], "leases": [LEASE], **changed})
    touched = [n for n in nodes if n.get("Relation Name") == "mailrail_message" and "Scan" in n["Node Type"]]
    assert not [n for n in touched if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
    assert sum(map(rows, touched)) <= most, touched
    assert plans.buffers(nodes) <= 25 * most


BATCH = 200
BUFFERS = {"claim": 30, "claim_from_floor": 30, "claim_of_many": 30, "claim_of_many_from_floor": 30}
BUFFERS |= {"finish": 8, "finish_in_lanes": 8, "renew": 30, "reschedule": 20, "bury": 25}
"""The most of them, of 8 KiB each, for each message of a batch."""


@pytest.mark.parametrize("name", BUFFERS)
def test_touches_few_buffers_for_each_message(name: str) -> None:
    """Prepared or not, and whatever the planner knows of the tables."""
    channels, priorities = CHANNELS[:2], [0, 1, 2]
    with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
        cursor.execute(
            "UPDATE mailrail_message SET token = 1, due = 1e10 WHERE id = ANY (ARRAY (SELECT id FROM mailrail_message "
            "WHERE channel = 'c1' AND priority = 0 AND due < 1e10 ORDER BY due LIMIT 100)) RETURNING id"
        )
        ids = [id for (id,) in cursor.fetchall()]
        values = VALUES | {"ids": ids, "besides": ids, "tokens": [1] * len(ids), "total": BATCH}
        values |= {"channels": channels, "rooms": [BATCH] * 2, "leases": [LEASE] * 2, "min_dues": [0.0] * 6}
        values |= {"known_channels": channels * 3, "known_priorities": sorted(priorities * 2)}
        for plan in (plans.prepared_plan_of, plans.plan_of):
            cursor.execute("SAVEPOINT before")
            nodes = plan(cursor, STATEMENTS[name], values)
            cursor.execute("ROLLBACK TO before")
            assert plans.buffers(nodes) <= BUFFERS[name] * (BATCH if name in CLAIMS else len(ids)), nodes
            if name in CLAIMS:
                leased = next(n for n in nodes if n.get("Subplan Name") == "CTE leased")
                assert leased["Actual Rows"] == BATCH


@pytest.mark.parametrize(("name", "most"), [("stats", 1.5), ("dead_counts", 1.5), ("next_due", 10)])
def test_counting_touches_few_buffers_for_each_message_counted(name: str, most: float) -> None:
    """Up to 100 are counted of each channel and priority, and of the dead of each channel; what is due next is one."""
    counted = {"stats": 50 * 6 * 100, "dead_counts": 50 * 100, "next_due": 50 * 6}[name]
    with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
        for plan in (plans.prepared_plan_of, plans.plan_of):
            assert plans.buffers(plan(cursor, STATEMENTS[name], VALUES)) <= most * counted


def plan_of(statement: str, **values: Any) -> list[dict[str, Any]]:
    with connections["postgres"].cursor() as cursor:
        return plans.plan_of(cursor, statement, VALUES | values)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_of_one_channel_is_planned_once(name: str) -> None:
    """To plan it takes longer than to carry it out."""
    values = {
        name: f"{{{','.join(map(str, value))}}}" for name, value in VALUES.items() if isinstance(value, list)
    }
    values |= {
        "channels": "{c1}",
        "rooms": "{8}",
        "leases": "{15}",
        "besides": "{}",
        "ids": "{}",
        "tokens": "{}",
    }
    for _ in range(10):
        execute_prepared(connections["postgres"], STATEMENTS[name], VALUES | values, plans_last=60)
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%leased%' "
            "ORDER BY prepare_time DESC LIMIT 1"
        )
        assert cursor.fetchone() == (5, 5)
