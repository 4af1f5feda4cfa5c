"""The soak for a few seconds, so that it does not rot, and its books: they must see what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from ..processes import ROOT
from .books import Books, Tail


@pytest.mark.timeout(200)
def test_a_short_soak_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.2", "--rate", "100"],
        cwd=ROOT, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed: " in done.stdout and "all is made up for after" in done.stdout


def line(id: str, what: str = "ran", lane: str = "-", n: int = 0, early: float = -1.0) -> str:
    return f"{what} {id} plain {lane} {n} 1 0 77 {early}"


def test_the_books_count_repeats() -> None:
    books, first, second = Books(), str(uuid4()), str(uuid4())
    assert books.read_ledger([line(first), line(second), line(first, "failed")]) == {first, second}
    assert books.repeats == 0 and books.failed == {first}
    assert books.read_ledger([line(first)]) == set()
    assert books.repeats == 1 and not books.violations


def test_the_books_see_a_lane_out_of_order_and_forgive_a_repeat() -> None:
    books, ids = Books(), [str(uuid4()) for _ in range(3)]
    books.read_ledger([line(ids[0], lane="a", n=1), line(ids[2], lane="a", n=3), line(ids[0], lane="a", n=1)])
    assert not books.violations
    books.read_ledger([line(ids[1], lane="a", n=2)])
    assert books.violations == [f"{ids[1]} ran as 2 of a, after 3"]


def test_the_books_see_what_ran_too_early() -> None:
    books = Books()
    books.read_ledger([line("x", early=0.4)])
    assert books.violations == ["x on plain ran 0.4 s too early"]


def test_the_books_see_a_second_finish_and_alarms() -> None:
    books = Books()
    finished = "2026-01-01 00:00:00,000 INFO finished plain x attempt=1 seconds=0.001"
    books.read_log("w", [finished])
    assert not books.violations
    books.read_log("w", [finished, "… CRITICAL soak-1:0 failed"])
    assert books.violations == ["x on plain was finished twice", "w said: … CRITICAL soak-1:0 failed"]


def test_a_line_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntw")
    tail = Tail(tmp_path / "log")
    assert tail.lines() == ["one"]
    with (tmp_path / "log").open("a") as log:
        log.write("o\n")
    assert tail.lines() == ["two"] and tail.lines() == []
