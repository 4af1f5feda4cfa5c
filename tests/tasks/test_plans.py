"""What PostgreSQL's planner makes of the admin's pages of tasks, and of retention: nothing reads or sorts the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mailrail.keyset_admin import MAX_SORTED_ROWS, SCAN_WINDOW_ROWS
from mailrail.tasks import retention, work

from ..plans import plan_of, rows
from .conftest import layer_settings

pytestmark = [
    pytest.mark.django_db(databases=["default", "postgres"]),
    pytest.mark.usefixtures("table", "tasks_on_postgres"),
]

COUNT = 200_000
PAGE = 500
"""Rows that a page reads which an index finds: 50, one more, and some for finding them."""
LIST = "/admin/mailrail_tasks/taskrecord/"
FILL = """
INSERT INTO mailrail_tasks_taskrecord
    (id, status, task, queue, args, errors, worker_ids, failures, enqueued_at, finished_at, kept_until)
SELECT lpad(to_hex(n), 32, '0')::uuid,
    CASE WHEN n %% 1000 = 0 THEN 'RUNNING' WHEN n %% 100 = 1 THEN 'FAILED' WHEN n > {count} - 1000 THEN 'READY'
        ELSE 'SUCCESSFUL' END,
    CASE WHEN n = 77 THEN 'shop.tasks.rare' ELSE 'shop.tasks.sync' END,
    CASE WHEN n %% 5000 = 7 THEN 'rare' ELSE 'default' END, '[' || n || ']',
    CASE WHEN n %% 100 = 1 THEN '[{{"class": "ValueError", "traceback": "ValueError: boom"}}]' ELSE '[]' END,
    '["worker-1"]', 0, now() - make_interval(secs => {count} - n), now(), now() + interval '1 day' * (n %% 30)
FROM generate_series(1, {count}) AS n
"""


def id_of(number: int) -> UUID:
    return UUID(int=number)


INDEXED: dict[str, dict[str, str]] = {
    "newest": {},
    "further": {"behind": str(id_of(COUNT // 2))},
    "far": {"behind": str(id_of(50))},
    "by status": {"status": "FAILED"},
    "by status, further": {"status": "SUCCESSFUL", "behind": str(id_of(1000))},
    "by id": {"q": str(id_of(77))},
}
WINDOWED: dict[str, dict[str, str]] = {
    "by queue": {"queue": "rare"},
    "by task": {"task": "shop.tasks.rare"},
    "by queue and status": {"queue": "rare", "status": "RUNNING"},
    "by path": {"q": "RARE", "behind": str(id_of(COUNT // 2))},
}


@pytest.fixture(scope="module")
def table(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        cursor.execute(FILL.format(count=COUNT), [])
        cursor.execute("VACUUM ANALYZE mailrail_tasks_taskrecord")
        yield
        cursor.execute("TRUNCATE mailrail_tasks_taskrecord")


@pytest.fixture
def tasks_on_postgres(settings: Any, request: pytest.FixtureRequest) -> None:
    settings.CHANNEL_LAYERS = layer_settings("postgres", request)


def nodes_of(act: Callable[[], Any]) -> list[dict[str, Any]]:
    """The plans of all that was asked of the table, and no statement counts."""
    with CaptureQueriesContext(connections["postgres"]) as captured:
        act()
    statements = [query["sql"] for query in captured if "mailrail_tasks_taskrecord" in query["sql"]]
    statements = [sql for sql in statements if sql.startswith("SELECT")]
    assert statements and not [sql for sql in statements if "COUNT(" in sql]
    with connections["postgres"].cursor() as cursor:
        return [node for sql in statements for node in plan_of(cursor, sql)]


def check(nodes: list[dict[str, Any]], most: int) -> None:
    touched = [n for n in nodes if n.get("Relation Name") and "Scan" in n["Node Type"]]
    assert touched and not [n for n in touched if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
    assert sum(map(rows, touched)) <= most, touched
    sorts = [n for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort")]
    assert all(n["Actual Rows"] * n["Actual Loops"] <= MAX_SORTED_ROWS + 1 for n in sorts), sorts


@pytest.mark.parametrize("query", INDEXED.values(), ids=INDEXED)
def test_a_page_reads_what_it_shows(admin_client: Client, query: dict[str, str]) -> None:
    def get() -> None:
        shown = admin_client.get(LIST, query).context["cl"]
        assert shown.result_list and not shown.is_windowed

    check(nodes_of(get), PAGE)


@pytest.mark.parametrize("query", WINDOWED.values(), ids=WINDOWED)
def test_what_no_index_finds_is_looked_for_in_a_window(admin_client: Client, query: dict[str, str]) -> None:
    def get() -> None:
        assert admin_client.get(LIST, query).context["cl"].is_windowed

    check(nodes_of(get), 2 * SCAN_WINDOW_ROWS + PAGE)


def test_the_page_of_a_task_reads_that_one(admin_client: Client) -> None:
    check(nodes_of(lambda: admin_client.get(f"{LIST}{id_of(77)}/change/")), 10)


def test_what_was_kept_long_enough_is_found_by_its_time() -> None:
    pages = iter([True])
    check(nodes_of(lambda: retention.prune("postgres", go_on=lambda: next(pages, False))), PAGE + 10)


def test_long_work_is_found_among_those_that_run_and_the_open_batches() -> None:
    """200 run, one of which tells its progress."""
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "UPDATE mailrail_tasks_taskrecord SET progress = '{}' WHERE status = 'RUNNING' AND id = %s",
            [id_of(1000)],
        )
    check(nodes_of(lambda: list(work.long_tasks())), COUNT // 1000 + 1)
