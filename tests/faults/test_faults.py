"""Faults that are real: processes killed, stopped and told to end while messages are in flight.

Every round counts ids in a ledger that consumers append to: nothing lost, nothing run twice but what was in flight.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.db import connections, transaction

from mailrail import Channel
from mailrail.layers import DatabaseChannelLayer, DurableLayer
from mailrail.routing import Routing, route
from mailrail.worker import Worker
from mailrail.worker.supervisor import MAX_ISOLATED_RUNS

from ..listed import dead_on, waiting_on
from ..processes import ROOT, Ledger, children_of, environment, until, workers
from .conftest import more, recover

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def layer() -> DurableLayer:
    return DatabaseChannelLayer()


def is_empty(layer: DurableLayer, *channels: str) -> bool:
    stats = layer.stats()
    return all(
        c not in stats or stats[c].ready + stats[c].scheduled + stats[c].claimed == 0 for c in channels
    )


def test_kill_9_of_workers_in_mid_drain_loses_nothing(layer: DurableLayer, ledger: Ledger) -> None:
    """10 rounds: every id runs at least once, repeats are no more than were in flight at the kills."""
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed: {seed}")
    ids = {str(id) for id in Channel("slow").send_many([{"seconds": 0.005}] * 1500)}
    threads, in_flight = 4, 0
    for _ in range(10):
        before = len(ledger.lines("ran"))
        with workers(ledger, "slow", "--threads", str(threads)) as [worker]:
            recover(more(ledger), "kill -9 of all, and another start")
            enough = before + chance.randrange(10, 80)
            until(lambda enough=enough: len(ledger.lines("ran")) >= enough)  # type: ignore[misc]
            worker.kill_all()
        in_flight += layer.stats()["slow"].claimed
        layer.advance_time(16)  # the leases of the dead lapse
    with workers(ledger, "slow", "--drain", "--threads", str(threads)) as [worker]:
        assert worker.wait() == 0
    ran = ledger.counts()
    assert set(ran) == ids
    repeats = sum(ran.values()) - len(ids)
    assert repeats <= in_flight <= 10 * threads, (repeats, in_flight)
    assert is_empty(layer, "slow") and not dead_on(layer, "slow")
    print(f"repeats: {repeats}, in flight at the kills: {in_flight}")


def test_kill_9_of_those_who_have_the_places_of_a_tenant_gives_them_to_others(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    contents = [{"tenant": tenant, "gate": str(gate)} for tenant in "aaab"]
    ids = [str(id) for id in Channel("per-tenant").send_many(contents)]
    with workers(ledger, "per-tenant") as [first]:
        until(lambda: ledger.total() == 2)
        assert ids[3] in ledger.counts("began")
        first.kill_all()
    with workers(ledger, "per-tenant", number=2):
        until(
            lambda: ledger.total() == 4
        )  # of one of each tenant, once more, as soon as the lease of 1 s is over
        assert sum(ledger.counts("began")[id] for id in ids[:3]) == 2
        gate.touch()
        until(lambda: is_empty(layer, "per-tenant"))
    assert ledger.counts() == dict.fromkeys(ids, 1)
    events = [(line.what, line.pid) for line in ledger.lines()[4:] if line.id in ids[:3]]
    assert [what for what, _ in events] == ["ran", "began", "ran", "began", "ran"], (
        "two of a tenant ran at once"
    )


def test_kill_9_of_one_child_is_replaced_and_its_neighbours_burn_no_attempt(
    layer: DurableLayer, ledger: Ledger
) -> None:
    ids = {str(id) for id in Channel("behave").send_many([{"do": "kill"}] + [{"do": "work"}] * 60)}
    with workers(ledger, "behave") as [worker]:
        until(lambda: is_empty(layer, "behave"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    ran = ledger.counts()
    [dead] = dead_on(layer, "behave")
    assert set(ran) == ids - {str(dead.message.id)}
    assert dead.message.losses == 3 and "lost 3 times" in dead.error
    assert {line.attempt for line in ledger.lines("ran")} == {1}
    began = [line for line in ledger.lines("began") if line.id == str(dead.message.id)]
    assert [line.losses for line in began] == [0, 1, 2]
    assert len({line.pid for line in began}) == 3


def test_a_poison_message_among_100_dies_after_3_losses_and_the_100_are_done(
    layer: DurableLayer, ledger: Ledger
) -> None:
    contents = [{"do": "work"}] * 100
    contents.insert(random.Random(seed := random.randrange(10**6)).randrange(100), {"do": "die"})
    print(f"seed: {seed}")
    Channel("behave").send_many(contents)
    with workers(ledger, "behave") as [worker]:
        until(lambda: is_empty(layer, "behave"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    ran = ledger.counts()
    assert (
        len(ran) == 100 and sum(ran.values()) - 100 <= 7
    )  # 7 at most ran beside it, and were not settled yet
    assert {line.attempt for line in ledger.lines("ran")} == {1}
    [dead] = dead_on(layer, "behave")
    assert (dead.message.losses, dead.message.content) == (3, {"do": "die"})
    # what ran beside the poison was lost once, and ran again in a process of its own
    lost = [line for line in ledger.lines("ran") if line.losses]
    assert len({line.pid for line in lost}) == len(lost)
    assert {line.losses for line in lost} <= {1}


def test_a_consumer_that_ends_its_process_as_if_all_were_well_has_not_drained(
    layer: DurableLayer, ledger: Ledger
) -> None:
    Channel("behave").send({"do": "leave"}, priority=1)
    ids = set(map(str, Channel("ledger").send_many([{}] * 20)))
    with workers(ledger, "behave", "ledger", "--drain", "--threads", "1") as [worker]:
        assert worker.wait() == 0
    assert set(ledger.counts()) == ids


@pytest.mark.parametrize("do", ["raise", "exit", "recurse", "generator", "interrupt", "unprintable", "retry"])
def test_bad_consumers_are_retried_then_dead_and_nobody_else_suffers(
    layer: DurableLayer, ledger: Ledger, do: str
) -> None:
    Channel("behave").send_many([{"do": do}] + [{"do": "work"}] * 5)
    with workers(ledger, "behave") as [worker]:
        until(lambda: is_empty(layer, "behave"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    [dead] = dead_on(layer, "behave")
    assert (dead.message.attempt, dead.message.losses) == (3, 0)
    assert len(ledger.counts()) == 5


def test_a_worker_stopped_past_its_lease_settles_nothing_when_it_goes_on(
    layer: DurableLayer, ledger: Ledger
) -> None:
    gate = ledger.path.with_name("gate")
    id = str(Channel("held").send({"gate": str(gate)}))
    with workers(ledger, "held") as [first]:
        until(lambda: ledger.lines("began"))
        os.killpg(first.process.pid, signal.SIGSTOP)
        until(lambda: layer.poll(["held"]) == 0)  # its lease of 1 s lapses
        [claim] = layer.claim("other", {"held": 1}, 60.0).claims
        goes_on = more(ledger)
        gate.touch()
        os.killpg(first.process.pid, signal.SIGCONT)
        recover(goes_on, "a stop past the lease")
        until(lambda: f"lost held {id}" in first.log)
        assert (claim.attempt, claim.losses) == (1, 1)
        assert layer.stats()["held"].claimed == 1
        assert layer.finish([claim]) == []


def test_sigterm_drains_and_exits_0_and_nothing_runs_again(layer: DurableLayer, ledger: Ledger) -> None:
    ids = {str(id) for id in Channel("slow").send_many([{"seconds": 0.1}] * 200)}
    with workers(ledger, "slow", "--processes", "2") as [worker]:
        until(lambda: len(ledger.lines("ran")) >= 20)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        stats = layer.stats()["slow"]
        done = ledger.counts()
        assert stats.claimed == 0 and stats.ready == 200 - len(done)
        assert len(ledger.lines("began")) == len(ledger.lines("ran"))
        assert {m.attempt for m in waiting_on(layer, "slow", 1000)} == {0}
    with workers(ledger, "slow", "--drain", "--threads", "32") as [worker]:
        assert worker.wait() == 0
    assert ledger.counts() == dict.fromkeys(ids, 1)


def test_a_service_manager_that_signals_every_process_gets_a_drain_not_a_release(
    layer: DurableLayer, ledger: Ledger
) -> None:
    id = str(Channel("slow").send({"seconds": 1.0}))
    with workers(ledger, "slow") as [worker]:
        until(lambda: ledger.lines("began"))
        os.killpg(worker.process.pid, signal.SIGTERM)  # systemd's KillMode=control-group
        assert worker.wait() == 0
    assert ledger.counts() == {id: 1} and is_empty(layer, "slow")


def test_a_message_in_a_process_of_its_own_may_be_retried_there_again_and_again(
    layer: DurableLayer, ledger: Ledger
) -> None:
    ids = [str(id) for id in Channel("behave").send_many([{"do": "retry"}, {"do": "work"}])]
    layer.renew(layer.claim("dying", {"behave": 2}, 60.0).claims, 0.0)  # both have cost a process before
    with workers(ledger, "behave") as [worker]:
        until(lambda: is_empty(layer, "behave"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    [dead] = dead_on(layer, "behave")
    assert str(dead.message.id) == ids[0] and (dead.message.attempt, dead.message.losses) == (3, 1)
    began = [line.pid for line in ledger.lines("began") if line.id == ids[0]]
    assert len(set(began)) == 3 and ledger.counts() == {ids[1]: 1}


def test_a_dead_worker_is_noticed_although_a_process_it_forked_lives_on(
    layer: DurableLayer, ledger: Ledger
) -> None:
    """The grandchild holds the pipes the supervisor would see the end of."""
    Channel("behave").send({"do": "leave-a-process-and-die"})
    with workers(ledger, "behave") as [worker]:
        until(lambda: dead_on(layer, "behave"))
        id = str(Channel("behave").send({"do": "work"}))
        until(lambda: ledger.counts())
        worker.signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    assert ledger.counts() == {id: 1}


def test_a_second_sigterm_releases_at_once(layer: DurableLayer, ledger: Ledger) -> None:
    Channel("held").send({"gate": str(ledger.path.with_name("never"))})
    with workers(ledger, "held") as [worker]:
        until(lambda: ledger.lines("began"))
        worker.signal(signal.SIGTERM)
        until(lambda: any(w.info["stopping"] for w in layer.workers()) or layer.stats()["held"].ready, 12)
        worker.signal(signal.SIGTERM)
        assert worker.wait(8) == 0
    [message] = waiting_on(layer, "held")
    assert (message.attempt, message.losses) == (0, 0)


def test_workers_end_when_their_supervisor_is_killed(layer: DurableLayer, ledger: Ledger) -> None:
    with workers(ledger, "ledger", "--processes", "2") as [worker]:
        until(lambda: len(layer.workers()) == 2)
        children = children_of(worker.process.pid)
        assert len(children) >= 2
        worker.process.kill()
        worker.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert layer.workers() == []


def test_a_consumer_past_its_limit_costs_its_process_and_no_message(
    layer: DurableLayer, ledger: Ledger
) -> None:
    ids = [str(id) for id in Channel("limited").send_many([{"hang": True}] + [{}] * 20)]
    with workers(ledger, "limited") as [worker]:
        until(lambda: is_empty(layer, "limited"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert ledger.counts() == dict.fromkeys(ids, 1)
    [hung] = [line for line in ledger.lines("ran") if line.id == ids[0]]
    assert (hung.attempt, hung.losses) == (2, 0)
    assert "will be replaced" in worker.log


def test_an_async_consumer_past_its_limit_is_retried(layer: DurableLayer, ledger: Ledger) -> None:
    id = str(Channel("async-limited").send({"hang": True}))
    with workers(ledger, "async-limited") as [worker]:
        until(lambda: is_empty(layer, "async-limited"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert ledger.counts() == {id: 1}


def test_drain_goes_on_after_a_consumer_past_its_limit(layer: DurableLayer, ledger: Ledger) -> None:
    Channel("limited").send({"hang": True})
    ids = {str(id) for id in Channel("slow").send_many([{"seconds": 0.02}] * 60)}
    with workers(ledger, "limited", "slow", "--drain", "--threads", "2") as [worker]:
        assert worker.wait(20) == 0
        assert "will be replaced" in worker.log
    assert is_empty(layer, "limited", "slow") and ids <= set(ledger.counts())


def test_messages_that_wait_for_a_process_of_their_own_lose_nothing_when_their_worker_is_replaced(
    layer: DurableLayer, ledger: Ledger
) -> None:
    gate = ledger.path.with_name("gate")
    Channel("held").send_many([{"gate": str(gate)}] * (MAX_ISOLATED_RUNS + 2))
    layer.renew(layer.claim("dying", {"held": 100}, 60.0).claims, 0.0)
    with workers(ledger, "held", "limited") as [worker]:
        until(lambda: len(ledger.lines("began")) == MAX_ISOLATED_RUNS)
        Channel("limited").send({"hang": True})
        until(lambda: "will be replaced" in worker.log)
        until(lambda: "no process of its own was started" in worker.log, 5)
        gate.touch()
        until(lambda: is_empty(layer, "held"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    held = [line for line in ledger.lines("began") if line.losses]
    assert len(held) == MAX_ISOLATED_RUNS + 2 and {line.losses for line in held} == {1}


FAULTY = """
import errno, os, signal, socket, sys
from django.core.management import execute_from_command_line
fault = sys.argv.pop(1)
module, name = (socket, "socketpair") if fault == "pipe" else (os, "fork")
usual, calls = getattr(module, name), []
def faulty(*args):
    calls.append(args)
    if fault == "fork-signal" and len(calls) == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    if fault != "fork-signal" and len(calls) == 2:
        raise OSError(errno.EAGAIN, "no room for another")
    return usual(*args)
setattr(module, name, faulty)
execute_from_command_line(sys.argv)
"""


def test_sigterm_while_workers_are_started_starts_no_more_of_them(
    layer: DurableLayer, ledger: Ledger
) -> None:
    command = (sys.executable, "-c", FAULTY, "fork-signal")
    with workers(ledger, "ledger", "--processes", "3", command=command) as [worker]:
        assert worker.wait(10) == 0
        assert "killing it" not in worker.log


@pytest.mark.parametrize("what", ["fork", "pipe"])
def test_a_worker_that_cannot_be_started_just_now_is_started_later(
    layer: DurableLayer, ledger: Ledger, what: str
) -> None:
    command = (sys.executable, "-c", FAULTY, what)
    with workers(ledger, "ledger", command=command) as [worker]:
        until(layer.workers)
        [child] = children_of(worker.process.pid)
        os.kill(child, signal.SIGKILL)
        until(lambda: "cannot be started: BlockingIOError: [Errno 11] no room for another" in worker.log)
        id = str(Channel("ledger").send({"n": 1}))
        until(lambda: ledger.counts())
        worker.signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    assert ledger.counts() == {id: 1}


@pytest.mark.parametrize("stdout", [">&-", "| true"], ids=["closed", "nobody reads it"])
@pytest.mark.parametrize("verbosity", ["-v0", "-v1"])
def test_a_worker_without_a_standard_output_drains_and_ends(
    layer: DurableLayer, ledger: Ledger, stdout: str, verbosity: str
) -> None:
    Channel("ledger").send({"n": 1})
    program = f'{shlex.quote(sys.executable)} -m django "$@" {stdout}'
    with workers(ledger, verbosity, "--drain", "ledger", command=("sh", "-c", program, "sh")) as [worker]:
        worker.wait(10)
    assert len(ledger.counts()) == 1 and is_empty(layer, "ledger")


def test_under_nohup_a_worker_outlives_its_terminal(layer: DurableLayer, ledger: Ledger) -> None:
    program = f"trap '' HUP; exec {shlex.quote(sys.executable)} -m django \"$@\""
    with workers(ledger, "slow", command=("sh", "-c", program, "sh")) as [worker]:
        Channel("slow").send({"seconds": 0.5})
        until(lambda: ledger.lines("began"))
        os.killpg(worker.process.pid, signal.SIGHUP)
        until(lambda: ledger.lines("ran"))
        id = str(Channel("slow").send({"seconds": 0.0}))
        until(lambda: id in ledger.counts())
        worker.signal(signal.SIGTERM)
        assert worker.wait(10) == 0


def test_rolled_back_means_never_sent(layer: DurableLayer, ledger: Ledger) -> None:
    with workers(ledger, "ledger") as [worker]:
        until(layer.workers)
        with transaction.atomic():
            Channel("ledger").send({"n": 1})
            transaction.set_rollback(True)
        kept = str(Channel("ledger").send({"n": 2}))
        until(lambda: ledger.counts())
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert ledger.counts() == {kept: 1}


WRITER = """
import sys, django
django.setup()
from mailrail import Channel
for n in range(int(sys.argv[1])):
    key, lane = None if n % 3 else f"{sys.argv[2]}-{n}", "l" if n % 7 == 0 else None
    print(Channel("ledger").send({"n": n}, key=key, lane=lane))
"""


def test_four_processes_write_while_a_worker_runs_and_none_finds_the_database_locked(
    layer: DurableLayer, ledger: Ledger
) -> None:
    with workers(ledger, "ledger") as [worker]:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, "400", str(number)],
                env=environment(ledger.path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number in range(4)
        ]  # fmt: skip
        ends = [writer.communicate(timeout=100) for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * 4, ends
        ids = [id for out, _ in ends for id in out.split()]
        until(lambda: is_empty(layer, "ledger"))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert "locked" not in worker.log
    assert ledger.counts() == dict.fromkeys(ids, 1) and len(ids) == 1600


def test_a_writer_that_holds_the_lock_for_long_is_waited_for(layer: DurableLayer) -> None:
    """The connection's own timeout is shorter than the transaction; ours is not."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute("DELETE FROM mailrail_bucket")
            entered.set()
            leave.wait(20)
        connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(20)
    with connections["default"].cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
    threading.Timer(1.0, leave.set).start()
    Channel("ledger").send({"n": 1})
    Channel("ledger").send_many([{"n": 2}, {"n": 3}])
    thread.join()
    connections["default"].close()
    assert layer.stats()["ledger"].ready == 3


def test_a_claim_whose_process_vanished_mid_batch_repeats_only_what_was_not_settled(
    layer: DurableLayer,
) -> None:
    """Early outcomes of a batch survive the end of its worker."""
    Channel("work").send_many([{"n": n} for n in range(10)])
    settled, gate = threading.Event(), threading.Event()

    def consume(messages: list[object]) -> None:
        for message in messages[:4]:
            message.finish()  # type: ignore[attr-defined]
        settled.set()
        gate.wait(20)

    # One at a time: this worker has no room to claim it again itself.
    worker = Worker(layer, Routing([route("work", consume, batch=10, lease=60, concurrency=1)]))
    thread = threading.Thread(target=worker.run)
    thread.start()
    settled.wait(20)
    until(lambda: layer.stats()["work"].claimed == 6)

    def taken_over() -> object:
        layer.advance_time(61)  # again: the worker may have renewed in between
        return layer.claim("other", {"work": 10}, 60.0).claims

    try:
        assert len(until(taken_over)) == 6
    finally:
        gate.set()
        worker.stop(5)
        thread.join(20)
