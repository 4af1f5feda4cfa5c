"""``isolate=True``: a message that kills its process, or hangs there, costs no other one anything."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from mailrail import Channel
from mailrail.layers import DurableLayer

from ..listed import dead_on
from ..processes import Ledger, children_of, until, workers
from .conftest import end, is_empty, on

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def send(channel: str = "apart", **content: object) -> str:
    return str(Channel(channel).send(content))


def test_what_kills_its_process_or_hangs_in_it_costs_its_neighbours_nothing(
    layer: DurableLayer, ledger: Ledger, gate: Path, tmp_path: Path
) -> None:
    neighbours = {send(do="wait", gate=str(gate)), send("apart-async", do="wait", gate=str(gate))}
    with workers(ledger, "apart", "apart-async", *on(layer, "--threads", "3")) as [worker]:
        until(lambda: len(ledger.lines("began")) == 2)
        kept = {line.pid for line in ledger.lines("began")}
        assert len(kept) == 2 and kept < {*children_of(worker.process.pid)}

        hanging = send(do="hang", limit=0.5)
        until(lambda: ledger.counts()[hanging])
        assert [(line.attempt, line.losses) for line in ledger.lines("ran")] == [(2, 0)]

        crashing = [send(do="crash"), send("apart-async", do="leave")]
        until(lambda: all(dead_on(layer, channel) for channel in ("apart", "apart-async")))
        assert "It was lost 3 times" in dead_on(layer, "apart")[0].error
        losses = [(line.attempt, line.losses) for line in ledger.lines("began") if line.id in crashing]
        assert sorted(losses) == [(1, 0), (1, 0), (1, 1), (1, 1), (1, 2), (1, 2)]

        cancelled = send(do="cancel")
        until(lambda: f"discarded apart {cancelled} attempt=1" in worker.log)
        assert "because='as somebody asked'" in worker.log

        gate.touch()
        until(lambda: is_empty(layer))
        assert {(li.attempt, li.losses) for li in ledger.lines("ran") if li.id in neighbours} == {(1, 0)}

        before = ledger.total()
        more = [send(do="run") for _ in range(4)]
        until(lambda: is_empty(layer))
        assert {li.pid for li in ledger.lines()[before:]} & kept, "their processes run what comes next"

        last, late = tmp_path / "last", send(do="wait", gate=str(tmp_path / "last"))
        until(lambda: ledger.counts("began")[late])
        worker.signal(signal.SIGTERM)
        last.touch()  # it has the time of a shutdown
        assert worker.wait() == 0
    assert ledger.counts() == dict.fromkeys([*neighbours, hanging, *more, late], 1)
    assert is_empty(layer) and "it runs longer than its limit of 0.5 seconds" in worker.log
    assert "ran longer than its limit of 0.5 seconds" in worker.log


@pytest.mark.parametrize("layer", ["default"], indirect=True)
def test_runworker_isolate_runs_all_but_batches_apart_and_replaces_a_spent_process(
    layer: DurableLayer, ledger: Ledger
) -> None:
    ids = [send("ledger") for _ in range(6)]
    batched = send("batch-ledger")
    arguments = ("--isolate", "--drain", "--threads", "1", "--max-messages", "2")
    with workers(ledger, "ledger", "batch-ledger", *on(layer, *arguments)) as [worker]:
        assert worker.wait() == 0
    assert (
        ledger.counts() == dict.fromkeys(ids, 1) and ledger.counts("of-1")[batched] == 1 and is_empty(layer)
    )
    pids = [line.pid for line in ledger.lines("ran") if line.id in ids]
    assert max(map(pids.count, pids)) <= 2
    assert "Not isolated, as their consumers take batches: batch-ledger." in worker.log


@pytest.mark.parametrize("layer", ["default"], indirect=True)
def test_processes_that_are_spawned_run_isolated_messages(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    script = tmp_path / "spawning.py"
    script.write_text(
        "import sys\n"
        "from mailrail.worker import child\n"
        "if __name__ == '__main__':\n"
        "    child.START_METHOD = 'spawn'\n"
        "    from django.core.management import execute_from_command_line\n"
        "    execute_from_command_line(sys.argv)\n"
    )
    hanging, other = send(do="hang", limit=0.5), send(do="run")
    command = (sys.executable, str(script))
    with workers(ledger, "apart", *on(layer, "--threads", "2"), command=command) as [worker]:
        until(lambda: is_empty(layer))
        end(worker)
    assert ledger.counts() == dict.fromkeys([hanging, other], 1)
    assert {line.attempt for line in ledger.lines("ran") if line.id == hanging} == {2}
    assert len({line.pid for line in ledger.lines()} | {os.getpid(), worker.process.pid}) >= 4
