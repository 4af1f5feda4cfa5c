"""Worker processes as people see and command them: how many, how busy, dead, paused. On both databases."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from mailrail import Channel
from mailrail.layers import DurableLayer

from ..processes import Ledger, children_of, until, workers
from .conftest import end, is_empty, on, recover

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def channels(*arguments: str) -> str:
    call_command("channels", *arguments, stdout=(out := StringIO()))
    return out.getvalue()


def test_a_dead_process_is_replaced_and_its_messages_are_run(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    ids = {str(id) for id in Channel("held").send_many([{"gate": str(gate)}] * 4)}
    with workers(ledger, "held", *on(layer, "--processes", "2", "--threads", "2")) as [worker]:
        until(lambda: len(ledger.lines("began")) == 4)
        before = children_of(worker.process.pid)
        assert {line.pid for line in ledger.lines("began")} == set(before)
        os.kill(before[0], signal.SIGKILL)
        recover(lambda: len({w.info["pid"] for w in layer.workers()} - {before[0]}) >= 2, "a dead process")
        recover(lambda: len(ledger.lines("began")) == 6, "the messages of a dead process")
        gate.touch()
        until(lambda: is_empty(layer))
        end(worker)
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert sorted(line.losses for line in ledger.lines("ran")) == [0, 0, 1, 1]
    assert "ended (-9); starting another in 0.1 s" in worker.log


def test_what_a_dead_process_had_claimed_waits_for_no_lease(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    ids = {str(id) for id in Channel("long-lease").send_many([{"gate": str(gate)}] * 4)}
    with workers(ledger, "long-lease", *on(layer, "--processes", "2", "--threads", "2")) as [worker]:
        until(lambda: len(ledger.lines("began")) == 4)
        [victim, _] = children_of(worker.process.pid)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(ledger.lines("began")) == 6, 60, "the messages of a dead process")
        gate.touch()
        until(lambda: is_empty(layer), 60)
        end(worker)
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert sorted(line.losses for line in ledger.lines("ran")) == [0, 0, 1, 1]


def test_what_workers_had_claimed_that_were_killed_with_their_supervisor_waits_for_no_lease(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    ids = {str(id) for id in Channel("long-lease").send_many([{"gate": str(gate)}] * 2)}
    with workers(ledger, "long-lease", *on(layer, "--threads", "2", "--isolate")) as [first]:
        until(lambda: len(ledger.lines("began")) == 2 and len(layer.workers()) == 3)
        with workers(ledger, "long-lease", *on(layer, "--threads", "2")) as [second]:
            until(lambda: len(layer.workers()) == 4)
            first.kill_all()
            recover(lambda: len(ledger.lines("began")) == 4, "a supervisor that is dead, and its process")
            until(lambda: len(layer.workers()) == 1, 40, "the end of those of its isolated runs")
            gate.touch()
            until(lambda: is_empty(layer))
            end(second)
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert [line.losses for line in ledger.lines("ran")] == [1, 1]


def test_concurrency_is_per_process_and_processes_are_as_many_as_asked_for(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    ids = {str(id) for id in Channel("narrow").send_many([{"gate": str(gate)}] * 9)}
    with workers(ledger, "narrow", *on(layer, "--processes", "3", "--threads", "4")) as [worker]:
        began = until(lambda: len(lines := ledger.lines("began")) == 6 and lines)
        assert len(children_of(worker.process.pid)) == 3
        assert (
            sorted([line.pid for line in began].count(pid) for pid in {line.pid for line in began}) == [2] * 3
        )
        assert (layer.stats()["narrow"].claimed, layer.stats()["narrow"].ready) == (6, 3)
        gate.touch()
        until(lambda: is_empty(layer))
        end(worker)
    assert ledger.counts() == dict.fromkeys(ids, 1)


def test_each_process_is_listed_with_what_it_does_and_a_killed_one_for_a_minute_at_most(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    options = on(layer, "--processes", "2", "--threads", "2", "--worker-id", "mail-1")
    with workers(ledger, "held", "ledger", *options) as [worker]:
        until(lambda: len(layer.workers()) == 2)
        Channel("held").send({"gate": str(gate)})
        listed = until(lambda: any(w.info["running"] for w in layer.workers()) and listing())
        assert [w["id"] for w in listed] == ["mail-1:0", "mail-1:1"]
        assert {w["host"] for w in listed} == {socket.gethostname()}
        assert {w["pid"] for w in listed} == set(children_of(worker.process.pid))
        assert [w["channels"] for w in listed] == [["held", "ledger"]] * 2
        [busy] = [w for w in listed if w["running"]]
        assert busy["running"] == 1 and busy["pid"] == ledger.lines("began")[0].pid
        [head, *rows] = channels("workers").splitlines()
        assert head.split() == ["worker", "host", "pid", "seen", "running", "channels"]
        assert [(row.split()[0], row.split()[2]) for row in rows] == [
            (w["id"], str(w["pid"])) for w in listed
        ]
        assert all(row.endswith("held, ledger") for row in rows)
        worker.kill_all()
    layer.advance_time(50)
    assert len(layer.workers()) == 2  # nobody has noticed yet
    layer.advance_time(10)
    assert channels("workers") == "No workers are running.\n"


def listing() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(channels("workers", "--json"))
    return found


def test_pause_and_resume_are_seen_within_a_second_by_busy_workers(
    layer: DurableLayer, ledger: Ledger
) -> None:
    """What is claimed goes on. Nothing begins from a second after the pause on; everything goes on after it."""
    ids = {str(id) for id in Channel("slow").send_many([{"seconds": 0.02}] * 400)}
    options = on(layer, "--processes", "2", "--threads", "2")
    with workers(ledger, "slow", *options, number=2) as pair:
        until(lambda: len(ledger.lines("ran")) >= 40)
        channels("pause", "slow")
        paused_at = time.monotonic()
        until(lambda: layer.stats()["slow"].claimed == 0)
        print(f"paused after {time.monotonic() - paused_at:.2f} s")
        assert time.monotonic() - paused_at < 1.0
        begun = len(ledger.lines("began"))
        assert begun < len(ids)
        with pytest.raises(AssertionError, match="did not happen"):
            until(lambda: len(ledger.lines("began")) > begun, timeout=1.5)
        channels("resume", "slow")
        resumed_at = time.monotonic()
        recover(lambda: len(ledger.lines("began")) > begun, "a pause, which is over,")
        assert time.monotonic() - resumed_at < 1.0
        until(lambda: is_empty(layer))
        end(*pair)
    assert ledger.counts() == dict.fromkeys(ids, 1)
