"""Workers that are killed, and whose clock steps, beside ticks of a fifth of a second: each one is enqueued once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from mailrail.layers import DurableLayer, get_layer
from mailrail.reconciliation import reconcilers
from mailrail.routing import Routing
from mailrail.schedule.enqueuing import database
from mailrail.schedule.models import ScheduleEntry, ScheduleTick
from mailrail.schedule.times import Every
from mailrail.tasks import TaskRecord

from ..clock import Clocks
from ..processes import Ledger, WorkerProcess, until, workers
from ..tasks.conftest import layer_settings
from .conftest import end, is_empty

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

PACE_S = 0.2
WORKERS = 4
ROUNDS = int(os.environ.get("MAILRAIL_TEST_ROUNDS", "3"))
TICKS_PER_ROUND = 10
KILLS = ROUNDS + WORKERS
THREADS = 2
CHANNELS = ("tasks.default", "ledger")


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def layer(
    request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DurableLayer]:
    """The layer of the workers that tests start, which have entries."""
    if request.param == "redis":
        monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", request.getfixturevalue("valkey").url)
    monkeypatch.setenv("MAILRAIL_TEST_LAYER", {"sqlite": "default"}.get(request.param, request.param))
    monkeypatch.setenv("MAILRAIL_TEST_TICKS", str(PACE_S))
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()
    connections["postgres"].close()


def ticks(name: str) -> list[datetime]:
    """The ticks of an entry that were decided, in order."""
    rows = ScheduleTick.objects.using(database()).filter(name=name, decision="enqueued").order_by("tick")
    return list(rows.values_list("tick", flat=True))


def check_whole(name: str) -> list[str]:
    """Every tick from the first to the last was enqueued once, or counted as missed. Returns the ids of the runs.

    None is missed, unless all workers of a busy machine have stood still for 100 ticks.
    """
    decided = ticks(name)
    due = list(Every(PACE_S).ticks(decided[0] - timedelta(seconds=PACE_S), decided[-1]))
    missed = ScheduleEntry.objects.using(database()).get(name=name).missed_count
    assert len({*decided}) == len(decided) == len(due) - missed and {*decided} <= {*due}
    runs = ScheduleTick.objects.using(database()).filter(name=name).values_list("run_id", flat=True)
    assert len({*runs}) == len(decided)
    return [str(id) for id in runs]


def suspend(worker: WorkerProcess) -> None:
    """Stop all processes of a worker for three ticks."""
    os.killpg(worker.process.pid, signal.SIGSTOP)
    moment = time.monotonic() + 3 * PACE_S
    until(lambda: time.monotonic() >= moment)
    os.killpg(worker.process.pid, signal.SIGCONT)


def drain(layer: DurableLayer, ledger: Ledger) -> None:
    """Run what is enqueued still: a worker that drains looks at no schedule.

    On Redis, a worker may be killed between the commit of a task and its message, which reconciliation sends.
    """
    Routing.of_layer()
    for reconciler in reconcilers(layer):
        reconciler.run(older_than=0.0)
    layer.advance_time(16)  # the leases of the dead lapse
    before = len(ticks("task"))
    with workers(ledger, *CHANNELS, "--drain", "--threads", "8") as [worker]:
        assert worker.wait() == 0, worker.log[-3000:]
    assert is_empty(layer) and len(ticks("task")) == before


def test_each_tick_is_enqueued_once_by_four_workers_that_are_suspended_and_killed_at_random(
    layer: DurableLayer, ledger: Ledger, seed: int
) -> None:
    chance = random.Random(seed)
    with ExitStack() as stack:

        def begin() -> WorkerProcess:
            [worker] = stack.enter_context(workers(ledger, *CHANNELS, "--threads", str(THREADS)))
            return worker

        running = [begin() for _ in range(WORKERS)]
        for _ in range(ROUNDS):
            suspend(running[0])
            wanted = len(ticks("task")) + TICKS_PER_ROUND
            until(lambda wanted=wanted: len(ticks("task")) >= wanted)  # type: ignore[misc]
            moment = time.monotonic() + chance.uniform(0, PACE_S)  # any one of a tick
            until(lambda moment=moment: time.monotonic() >= moment)  # type: ignore[misc]
            running.pop(chance.randrange(WORKERS)).kill_all()
            running.append(begin())
        for worker in running:
            worker.kill_all()
    drain(layer, ledger)
    tasks, messages, ran = check_whole("task"), check_whole("message"), ledger.counts()
    records = TaskRecord.objects.using(database())
    assert {str(id) for id in records.values_list("pk", flat=True)} == {*tasks}
    assert set(records.values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert {*tasks, *messages} <= set(ran)
    # On Redis, a worker may be killed between the message and its tick, which comes again then.
    assert len(set(ran) - {*tasks, *messages}) <= (0 if layer.joins_transactions else KILLS)
    repeats = sum(ran.values()) - len(ran)
    print(f"{len(tasks)} ticks, {KILLS} kills, {repeats} runs repeated")
    assert repeats <= KILLS * 2 * THREADS, "more runs were repeated than were killed"


@pytest.mark.parametrize("layer", ["postgres"], indirect=True)
def test_ticks_go_on_by_the_servers_clock_while_that_of_a_worker_steps_back_and_forward(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    clocks = Clocks(tmp_path / "clocks")
    clocks.set()
    with workers(ledger, *CHANNELS, command=clocks.command) as running:
        for wall in (-600.0, 0.0, 600.0):
            before = len(ticks("task"))
            until(lambda before=before: len(ticks("task")) >= before + 5)  # type: ignore[misc]
            clocks.set(wall=wall)
        until(lambda before=before: len(ticks("task")) >= before + 10)  # type: ignore[misc]
        end(*running)
    drain(layer, ledger)
    runs = {*check_whole("task"), *check_whole("message")}
    assert ledger.counts() == dict.fromkeys(runs, 1)
