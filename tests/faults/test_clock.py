"""A host whose clock jumps, and a machine that sleeps: workers go by the database's clock and their own stopwatch."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mailrail import Channel
from mailrail.layers import DurableLayer

from ..clock import Clocks
from ..processes import Ledger, until, workers
from .conftest import end, is_empty, more, on, recover

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.parametrize("layer", ["postgres"], indirect=True, ids=["postgresql"]),
]

HOUR = 3600.0


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    clocks = Clocks(tmp_path / "clocks")
    clocks.set()
    return clocks


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_jump_of_the_workers_clock_by_an_hour_changes_nothing(
    layer: DurableLayer, ledger: Ledger, gate: Path, clocks: Clocks, jump: float
) -> None:
    held = str(Channel("narrow").send({"gate": str(gate)}))
    ids = {str(id) for id in Channel("slow").send_many([{"seconds": 0.03}] * 1000)}
    options = on(layer, "--processes", "2", "--threads", "4")
    channels = ("narrow", "slow", "ledger", "relay", "clock")
    with workers(ledger, *channels, *options, number=2, command=clocks.command) as pair:
        until(lambda: held in ledger.counts("began") and len(ledger.counts()) >= 170)
        clocks.set(wall=jump)
        recover(more(ledger), "a jump of the clock")
        seen = str(Channel("clock").send({}))
        later = str(Channel("ledger").send({}, delay=3.0))
        relayed = str(Channel("relay").send({"to": "ledger", "layer": layer.using, "delay": 3.0}))
        sent_at = time.monotonic()
        until(lambda: later in ledger.counts() or time.monotonic() - sent_at > 20)
        assert 2.9 <= time.monotonic() - sent_at <= 20
        until(lambda: len(ledger.counts()) == len(ids) + 4)  # clock, later, relay and what it sent
        assert 2.9 <= time.monotonic() - sent_at <= 20
        assert len(layer.workers()) == 4 and max(w.age for w in layer.workers()) < 20
        assert ledger.counts("began")[held] == 1, "its lease was not kept"
        gate.touch()
        until(lambda: is_empty(layer))
        end(*pair)
    [wrong] = [line for line in ledger.lines() if line.what.startswith("at-")]
    assert abs(float(wrong.what.removeprefix("at-")) - time.time() - jump) < 60, "the clock has not jumped"
    ran = ledger.counts()
    assert ids | {held, seen, later, relayed} < set(ran) and set(ran.values()) == {1}
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a machine slept")
def test_a_machine_that_slept_past_its_leases_renews_before_it_claims(
    layer: DurableLayer, ledger: Ledger, gate: Path, clocks: Clocks
) -> None:
    """The database's clock went on; the monotonic one of the worker did not (clock_gettime(2))."""
    first = str(Channel("held").send({"gate": str(gate)}))
    with ExitStack() as stack:
        options = on(layer, "--threads", "4")
        [worker] = stack.enter_context(workers(ledger, "held", *options, command=clocks.command))
        until(lambda: ledger.lines("began"))
        os.killpg(worker.process.pid, signal.SIGSTOP)
        layer.advance_time(30)
        clocks.set(wall=30, slept=30)
        second = str(Channel("held").send({"gate": str(gate)}))
        goes_on = more(ledger)
        os.killpg(worker.process.pid, signal.SIGCONT)
        recover(goes_on, "a sleep of the machine")
        gate.touch()
        until(lambda: is_empty(layer))
        end(worker)
    assert ledger.counts("began") == ledger.counts() == {first: 1, second: 1}
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}
