"""Statements that PostgreSQL plans once: what is seen of it on the server."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from mailrail.prepared_statements import execute_prepared

pytestmark = pytest.mark.django_db(databases=["postgres"])

STATEMENT = "SELECT n FROM planned WHERE n = %(wanted)s"


@pytest.fixture
def table() -> Any:
    """Of one row. This transaction's own, so autovacuum never looks at it."""
    with connections["postgres"].cursor() as cursor:
        cursor.execute("CREATE TABLE planned (n int PRIMARY KEY)")
        cursor.execute("INSERT INTO planned VALUES (1)")
        cursor.execute("ANALYZE planned")
        yield cursor


def scans(cursor: Any) -> tuple[int, int]:
    """Of this transaction: of the whole table, and by its index."""
    cursor.execute("SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'planned'")
    return tuple(cursor.fetchone())


def execute(**more: Any) -> Any:
    return execute_prepared(connections["postgres"], STATEMENT, {"wanted": 1}, **more)


def test_it_is_planned_once(table: Any) -> None:
    assert [execute() for _ in range(20)] == [[(1,)]] * 20
    table.execute("SELECT generic_plans FROM pg_prepared_statements WHERE statement LIKE '%planned%'")
    [(planned_once,)] = table.fetchall()
    assert planned_once >= 5


@pytest.mark.parametrize("plans_last", [60.0, 0.0])
def test_a_plan_for_a_small_table_does_not_outlive_its_time(table: Any, plans_last: float) -> None:
    for _ in range(20):
        execute(plans_last=60.0)
    table.execute("INSERT INTO planned SELECT generate_series(2, 50000)")
    before = scans(table)
    assert execute(plans_last=plans_last) == [(1,)]
    whole, by_index = (after - earlier for after, earlier in zip(scans(table), before, strict=True))
    assert (whole, by_index > 0) == ((0, True) if plans_last == 0 else (1, False))


def test_others_are_prepared_as_the_project_says(table: Any) -> None:
    driver = connections["postgres"].connection
    usual = driver.prepare_threshold
    execute()
    assert driver.prepare_threshold == usual
    with pytest.raises(DatabaseError, match="division by zero"), transaction.atomic("postgres"):
        execute_prepared(connections["postgres"], "SELECT 1 / %(n)s::int", {"n": 0})
    assert driver.prepare_threshold == usual


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mailrail.prepared_statements.is_pooled", lambda connection: True),
        ("django.db.backends.postgresql.psycopg_any.is_psycopg3", False),
    ],
    ids=["behind a pooler", "by psycopg 2"],
)
def test_where_it_cannot_be_it_is_executed_as_usual(
    table: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr(name, value)
    statement = "SELECT n AS by_the_usual_way FROM planned WHERE n = %(wanted)s"
    for _ in range(20):
        assert execute_prepared(connections["postgres"], statement, {"wanted": 1}) == [(1,)]
    table.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%by_the_usual_way%'")
    assert table.fetchall() == [(0,)]


def test_a_broken_transaction_takes_none(table: Any) -> None:
    with transaction.atomic("postgres"):
        transaction.set_rollback(True, "postgres")
        with pytest.raises(transaction.TransactionManagementError):
            execute()
