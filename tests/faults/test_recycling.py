"""Worker processes that are used up: replaced in good time, and what they run loses nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mailrail import Channel
from mailrail.layers import DurableLayer

from ..processes import ROOT, Ledger, environment, until, workers
from .conftest import end, is_empty, on

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def per_process(ledger: Ledger) -> Counter[int]:
    """Messages that each process has begun; of a batch, all."""
    return Counter(line.pid for line in ledger.lines() if line.what == "ran" or line.what.startswith("of-"))


def at_rest(ledger: Ledger) -> int:
    """Megabytes that a process takes before it has done anything. This one has done a lot."""
    code = "import django; django.setup(); from mailrail.worker.recycling import resident; print(resident() // 1024**2)"
    told = subprocess.check_output([sys.executable, "-c", code], env=environment(ledger.path), cwd=ROOT)
    return int(told)


def check_nothing_lost(ledger: Ledger, ids: set[str]) -> None:
    lines = [line for line in ledger.lines() if line.what == "ran" or line.what.startswith("of-")]
    assert Counter(line.id for line in lines) == dict.fromkeys(ids, 1)
    assert {(line.attempt, line.losses) for line in lines} == {(1, 0)}


@pytest.mark.parametrize("channel", ["ledger", "async-ledger", "batch-ledger"])
def test_no_process_takes_on_more_messages_than_it_may(
    layer: DurableLayer, ledger: Ledger, channel: str
) -> None:
    ids = {str(id) for id in Channel(channel).send_many([{}] * 300)}
    options = ("--processes", "2", "--threads", "4", "--max-messages", "25")
    with workers(ledger, channel, *on(layer, *options)) as [worker]:
        until(lambda: is_empty(layer))
        end(worker)
    check_nothing_lost(ledger, ids)
    begun = per_process(ledger)
    assert max(begun.values()) <= 25
    # a tenth fewer at most, but for the two that ran last
    assert all(n >= 23 for n in sorted(begun.values())[2:])
    assert worker.log.count("was recycled after") >= len(begun) - 2


def test_one_message_for_each_process_and_none_waits_for_the_next_process(
    layer: DurableLayer, ledger: Ledger
) -> None:
    """Twelve early deaths in a row would be held up for more than a minute."""
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 12)}
    with workers(ledger, "ledger", *on(layer, "--max-messages", "1", "--drain")) as [worker]:
        until(lambda: ledger.lines("ran"))
        begun_at = time.monotonic()
        assert worker.wait(40) == 0
        print(f"{(time.monotonic() - begun_at) / 11:.3f} s for each process")
    check_nothing_lost(ledger, ids)
    assert set(per_process(ledger).values()) == {1}
    assert "ended (" not in worker.log and "killing it" not in worker.log


def test_what_a_process_at_its_limit_still_runs_is_waited_for(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    held = str(Channel("held").send({"gate": str(gate)}, priority=1))
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 5)}
    with workers(ledger, "held", "ledger", *on(layer, "--threads", "2", "--max-messages", "3")) as [worker]:
        until(lambda: "will be replaced when what it runs is done" in worker.log)
        until(lambda: len(ledger.lines("ran")) == 2)
        assert layer.stats()["ledger"].ready == 3 and layer.stats()["held"].claimed == 1
        gate.touch()
        until(lambda: is_empty(layer))
        end(worker)
    check_nothing_lost(ledger, {held, *ids})
    assert sorted(per_process(ledger).values()) == [3, 3]


def test_messages_that_need_a_process_of_their_own_get_it(layer: DurableLayer, ledger: Ledger) -> None:
    ids = [str(id) for id in Channel("behave").send_many([{"do": "work"}] * 6)]
    layer.renew(layer.claim("dying", {"behave": 3}, 60.0).claims, 0.0)
    with workers(ledger, "behave", *on(layer, "--max-messages", "2", "--drain")) as [worker]:
        assert worker.wait() == 0
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert sorted(line.losses for line in ledger.lines("ran")) == [0, 0, 0, 1, 1, 1]
    assert max(per_process(ledger).values()) <= 2


def test_a_consumer_that_leaks_stays_under_a_bound(layer: DurableLayer, ledger: Ledger) -> None:
    """20 MB a message, ten messages a second, a look every second; all of them would take 1.2 GB."""
    ids = {str(id) for id in Channel("leak").send_many([{"megabytes": 20, "seconds": 0.1}] * 60)}
    limit = at_rest(ledger) + 200
    options = on(layer, "--threads", "1", "--max-memory", f"{limit}M", "--drain")
    with workers(ledger, "leak", *options) as [worker]:
        assert worker.wait() == 0
    check_nothing_lost(ledger, ids)
    most = max(int(line.what.removeprefix("with-")) for line in ledger.lines() if "with-" in line.what)
    print(f"limit {limit} MB, most {most} MB, {len(per_process(ledger))} processes")
    assert most <= limit + 300
    assert len(per_process(ledger)) >= 3


def test_a_running_consumer_that_takes_too_much_is_seen_and_not_killed(
    layer: DurableLayer, ledger: Ledger, gate: Path
) -> None:
    limit = at_rest(ledger) + 100
    leaking = str(Channel("leak").send({"megabytes": 300, "gate": str(gate)}))
    options = on(layer, "--threads", "2", "--max-memory", f"{limit}M")
    with workers(ledger, "leak", "ledger", *options) as [worker]:
        until(lambda: "of memory; its limit is" in worker.log)
        other = str(Channel("ledger").send({}))
        gate.touch()
        until(lambda: is_empty(layer))
        end(worker)
    check_nothing_lost(ledger, {leaking, other})
    assert len(per_process(ledger)) == 2
