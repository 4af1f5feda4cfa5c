"""The pipe between a worker and its supervisor, to which several claim loops write."""

from __future__ import annotations

import multiprocessing
import threading

from mailrail.messages import Message
from mailrail.worker.isolated import IsolatedRuns


def test_long_messages_of_several_loops_arrive_whole() -> None:
    """A message over 16 kB is written in two steps (multiprocessing.connection)."""
    ours, theirs = multiprocessing.Pipe()
    link = IsolatedRuns(ours)
    each = 50

    def ask(size: int) -> None:
        for _ in range(each):
            link.start(Message("work", {"text": "x" * size}), lambda outcome: None)

    loops = [threading.Thread(target=ask, args=(size,)) for size in (30_000, 40_000, 50_000)]
    for loop in loops:
        loop.start()
    arrived = [len(theirs.recv().content["text"]) for _ in range(each * len(loops))]
    for loop in loops:
        loop.join(20)
    assert sorted(arrived) == sorted([30_000, 40_000, 50_000] * each)
    ours.close()
    theirs.close()
