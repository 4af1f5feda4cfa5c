"""What tasks do with transactions, and what is written about tasks meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from mailrail import testing
from mailrail.layers import DurableLayer, get_layer
from mailrail.routing import Routing
from mailrail.tasks import TaskRecord
from mailrail.worker import Worker

from ..processes import until
from . import defined
from .conftest import layer_settings

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture(params=["sqlite", "postgres"])
def layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    """A layer outside any transaction."""
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()
    connections["postgres"].close()


def test_progress_inside_a_transaction_is_seen_at_once_or_with_the_commit_and_locks_nothing(
    layer: DurableLayer,
) -> None:
    result = defined.report.enqueue(layer.using)
    testing.drain()
    result.refresh()
    progress = {"done": 1, "total": 2, "text": ""}
    assert result.return_value == [progress if layer.using == "postgres" else None, progress]


@pytest.mark.parametrize(
    ("how", "status"),
    [("block", "FAILED"), ("pending", "FAILED"), ("committed", "SUCCESSFUL"), ("raise", "FAILED")],
)
def test_a_transaction_that_a_task_leaves_open_is_rolled_back_before_its_end_is_written(
    layer: DurableLayer, how: str, status: str
) -> None:
    result, other = defined.leave_open.enqueue(how, layer.using), defined.add.enqueue(1, 2)
    testing.drain(raise_errors=False)
    connections[layer.using].close()  # what was not committed is gone
    result.refresh()
    other.refresh()
    assert (result.status, other.status) == (status, "SUCCESSFUL")
    assert result.attempts == (1 if how == "committed" else 2)
    if how in ("block", "pending"):
        assert f"rolled back, on: '{layer.using}'" in result.errors[-1].traceback


def test_a_transaction_is_seen_that_is_the_first_thing_a_workers_thread_does_with_a_database(
    layer: DurableLayer,
) -> None:
    defined.leave_open.using(results=False, attempts=1).enqueue("block", layer.using)
    thread = threading.Thread(target=Worker(layer, Routing.of_layer(), drain=True).run)
    thread.start()
    thread.join(30)
    [dead] = layer.list_messages(["tasks.default"], 2, "dead")
    assert f"rolled back, on: '{layer.using}'" in dead.error


def test_a_coroutine_that_blocks_the_thread_of_sync_code_keeps_no_other_from_ending(
    layer: DurableLayer, tmp_path: Path
) -> None:
    defined.ran.clear()
    gate = tmp_path / "gate"
    blocking = defined.wait_in_sync_code.enqueue(str(gate))
    worker = Worker(layer, Routing.of_layer(), drain=True)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: defined.ran)
        others = [defined.add_async.enqueue(n) for n in range(3)]
        records = TaskRecord.objects.using(layer.using)
        until(lambda: records.filter(status="SUCCESSFUL").count() == 3, timeout=20)
        assert records.get(pk=blocking.id).status == "RUNNING" and len(others) == 3
    finally:
        gate.touch()
        thread.join(20)
    assert records.get(pk=blocking.id).status == "SUCCESSFUL"
