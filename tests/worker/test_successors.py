"""Successors of the first process at SIGHUP, as small processes that only report that they are ready."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from pathlib import Path

from mailrail.worker.reload import Invocation, Successors

from ..processes import until

PROGRAM = """
import os, sys, time
link, generation = os.environ["MAILRAIL_RELOAD"].split(":")
while not os.path.exists(f"{sys.argv[1]}/{generation}"):
    time.sleep(0.01)
os.write(int(link), b"1.0\\n")
time.sleep(60)
"""


def test_a_successor_that_dies_while_another_starts_is_replaced_by_that_one_alone(tmp_path: Path) -> None:
    def step() -> bool:
        ready, *_ = select.select(successors.links, [], [], 0.02)
        successors.step(ready)
        return True

    def stepped(condition: Callable[[], object]) -> Callable[[], object]:
        return lambda: step() and condition()

    program = [sys.executable, "-S", "-E", "-c", PROGRAM, str(tmp_path)]
    successors = Successors(Invocation(program, {}, str(tmp_path)), lambda: None, drain=False)
    try:
        (tmp_path / "1").touch()
        successors.reload()
        until(stepped(lambda: successors._current))
        [first] = successors._all
        successors.reload()
        until(stepped(lambda: successors._starting))
        first.process.kill()
        until(stepped(lambda: first not in successors._all))
        assert successors._current is None and successors._start_at == float("inf")
        (tmp_path / "2").touch()
        until(stepped(lambda: successors._current))
        assert successors._generation == 2

        [second] = successors._all
        second.process.kill()
        until(stepped(lambda: successors._generation == 3), what="its replacement")
    finally:
        successors.stop(at_once=True)
        for each in successors._all:
            each.process.kill()
        until(stepped(lambda: not successors._all))
