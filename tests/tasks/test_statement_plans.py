"""What the statements of attempts touch on PostgreSQL, whatever the planner knows of the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connections
from django.utils import timezone

from mailrail.tasks import TaskRecord, attempts, enqueue_many

from ..plans import buffers, forget_statistics, prepared_plan_of
from . import defined
from .conftest import layer_settings

WAITING, GROUP = 2_000, 8
ENDED = {"item_status": "SUCCESSFUL", "item_errors": "[]", "item_failures": 0, "item_metadata": "{}"}


@pytest.fixture
def cursor(request: pytest.FixtureRequest, settings: Any) -> Iterator[Any]:
    settings.CHANNEL_LAYERS = layer_settings("postgres", request)
    with connections["postgres"].cursor() as cursor:
        yield cursor


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("template", [attempts._BEGIN, attempts._END], ids=["begin", "end"])
@pytest.mark.parametrize("is_analyzed", [False, True], ids=["statistics of an empty table", "fresh"])
def test_attempts_read_their_own_records_however_many_wait(
    cursor: Any, template: str, is_analyzed: bool
) -> None:
    server: Any = connections["postgres"]
    if not is_analyzed and server.pg_version < 160000:
        pytest.skip("PostgreSQL 15 reads the table until it has been analyzed")
    forget_statistics(cursor, "mailrail_tasks_taskrecord")
    enqueue_many(defined.add, [((n,), {}) for n in range(WAITING)])
    if is_analyzed:
        cursor.execute("ANALYZE mailrail_tasks_taskrecord")
    ids = [id.hex for id in TaskRecord.objects.using("postgres").values_list("pk", flat=True)[:GROUP]]
    if template is attempts._END:
        starts = [attempts.Start(UUID(id), 0, 5, 1e9, "worker") for id in ids]
        assert all(attempts.begin_together(starts, "postgres"))
    begun = {"item_dispatch": 0, "item_token": 5, "item_fence": 2e9, "item_is_killable": False}
    items = [{"item_id": id, **begun, **ENDED} for id in ids]
    statement = attempts._statement(template, "postgresql", "id", is_bounded=True)
    values = {"items": json.dumps(items), "many": GROUP, "now": timezone.now(), "ids": ids}
    cursor.execute("BEGIN")
    nodes = prepared_plan_of(cursor, statement, values)
    cursor.execute("ROLLBACK")
    assert nodes[0]["Actual Rows"] == GROUP
    assert buffers(nodes) / GROUP < 40
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
