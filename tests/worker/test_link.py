"""The pipe between a worker and its supervisor, to which several claim loops write."""

from __future__ import annotations

import multiprocessing
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from mailrail import Channel
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import supervisor
from mailrail.worker.child import Job
from mailrail.worker.development import DevelopmentWorker
from mailrail.worker.isolated import Assignments, IsolatedRuns, Kill, Progress, Request, RunEnd
from mailrail.worker.supervisor import Supervisor


def test_long_messages_of_several_loops_arrive_whole() -> None:
    """A message over 16 kB is written in two steps (multiprocessing.connection)."""
    ours, theirs = multiprocessing.Pipe()
    link = IsolatedRuns(ours)
    number = 50

    def ask(size: int) -> None:
        for _ in range(number):
            link.start(Message("work", {"text": "x" * size}), lambda answer, detail: None)

    loops = [threading.Thread(target=ask, args=(size,)) for size in (30_000, 40_000, 50_000)]
    for loop in loops:
        loop.start()
    arrived = [len(theirs.recv().claim.content["text"]) for _ in range(number * len(loops))]
    for loop in loops:
        loop.join(20)
    assert sorted(arrived) == sorted([30_000, 40_000, 50_000] * number)
    ours.close()
    theirs.close()


def test_a_worker_asks_for_the_end_of_a_run_that_it_waits_for_and_of_no_other() -> None:
    ours, theirs = multiprocessing.Pipe()
    link, ends = IsolatedRuns(ours), SimpleQueue[Any]()
    claim, other = Message("work", {}), Message("work", {})
    link.start(claim, lambda *end: ends.put(end), is_kept=True)
    assert theirs.recv().claim.id == claim.id
    assert not link.kill(other.id, "why") and link.kill(claim.id, "why")
    assert theirs.recv() == Kill(claim.id, "why")
    link.listen(lambda: ends.put("over"))
    theirs.send(((claim.id, claim.token), RunEnd.KILLED, "why"))
    assert ends.get(timeout=20) == (RunEnd.KILLED, "why")
    assert not link.kill(claim.id, "why")
    theirs.close()
    assert ends.get(timeout=20) == "over"
    link.start(claim, lambda *end: ends.put(end))
    assert ends.get(timeout=20) == (RunEnd.NOT_STARTED, None)
    ours.close()


def test_a_process_of_isolated_runs_ends_after_the_run_during_which_it_is_told_to() -> None:
    ours, theirs = multiprocessing.Pipe()

    class Stopping:
        """A worker that is told to stop while it runs, and notes with which grace."""

        def __init__(self) -> None:
            self.graces: list[float | None] = []

        def run(self) -> None:
            assignments.stop(3.0)

        def stop(self, timeout: float | None = None) -> None:
            self.graces.append(timeout)

    first, second = Message("work", {}), Message("work", {})
    assignments, worker = Assignments(ours, first), Stopping()
    assert assignments.next() is first
    assignments.listen()
    theirs.send(second)
    assert theirs.recv() == (Progress.TAKEN, None)
    assignments.run(first, worker)
    assert theirs.recv() == (Progress.ENDED, None) and worker.graces == [3.0]
    assert assignments.next() is None  # whoever has sent the second one gives it to another process
    late = Stopping()
    late.run = lambda: None  # type: ignore[method-assign]
    assignments.run(second, late)
    assert late.graces == [3.0]
    theirs.close()


def test_a_worker_in_a_thread_says_that_it_isolates_nothing(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.InMemoryChannelLayer"}}
    seen, lines = SimpleQueue[Any](), list[str]()
    routing = Routing([route("apart", seen.put, isolate=True), route("work", seen.put)])
    monkeypatch.setattr(Routing, "of_layer", lambda alias=None: routing)
    with DevelopmentWorker(lines.append):
        Channel("apart").send({})
        assert seen.get(timeout=20).channel == "apart"
    text = (
        "isolate=True has no effect on apart: the in-memory layer has no other process. Use the database layer (leave "
        "CHANNEL_LAYERS out) to try it."
    )
    assert lines == [text]


def test_what_a_worker_asks_for_before_it_stops_can_be_started_first() -> None:
    ours, theirs = multiprocessing.Pipe()
    above, worker = Supervisor(Job()), supervisor._Child("w:0", None, ours, 0.0)
    claim = Message("work", {})
    theirs.send(Request(claim, is_kept=False))
    theirs.send(None)
    above._read(worker)
    assert [run.claim for run in above._asked] == [claim]  # now it is started, unless too many run
    above._read(worker)
    assert not above._asked and theirs.recv() == ((claim.id, claim.token), RunEnd.NOT_STARTED, None)
