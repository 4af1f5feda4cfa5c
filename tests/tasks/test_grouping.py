"""Writes of many threads and coroutines together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DataError, OperationalError
from psycopg.errors import LockNotAvailable

from mailrail.tasks import grouping
from mailrail.tasks.grouping import Company, GroupedWrites


@pytest.mark.parametrize(("error", "writes"), [(OperationalError("away"), 2), (DataError("one"), 5)])
def test_a_group_is_split_to_find_the_one_at_fault_and_not_in_an_outage(
    error: Exception, writes: int
) -> None:
    groups: list[list[int]] = []
    first_writes, all_wait = threading.Event(), threading.Event()

    def write(items: Sequence[int]) -> Sequence[int]:
        groups.append(list(items))
        if items == [0]:
            first_writes.set()
            assert all_wait.wait(10)
            return items
        raise error

    together: GroupedWrites[int, int] = GroupedWrites(write)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(together, 0)
        assert first_writes.wait(10)
        others = [threads.submit(together, n) for n in (1, 2, 3)]
        while len(together._waiting) < 3:
            assert not others[0].done()
        all_wait.set()
        assert first.result(10) == 0
        assert [type(other.exception(10)) for other in others] == [type(error)] * 3
    assert len(groups) == writes


def test_coroutines_get_an_answer_although_what_writes_for_them_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*args: Any) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    async def ask_twice() -> int:
        together: GroupedWrites[int, int] = GroupedWrites(lambda items: items)
        asyncio.get_running_loop().set_exception_handler(lambda *args: None)
        with monkeypatch.context() as patch:
            patch.setattr(grouping, "write_aside", fail)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(together.acall(1), 10)
        return await asyncio.wait_for(together.acall(2), 10)

    assert asyncio.run(ask_twice()) == 2


def test_ends_of_attempts_that_began_together_are_written_together_and_wait_for_no_long_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[int] = []

    def write(items: Sequence[int]) -> Sequence[int]:
        groups.append(len(items))
        return items

    together: GroupedWrites[int, int] = GroupedWrites(write)
    with monkeypatch.context() as patient, ThreadPoolExecutor(4) as threads:
        for name in ("COMPANY_LASTS_S", "MAX_WAIT_S"):  # on a busy machine, a thread may need long to begin
            patient.setattr(grouping, name, 60.0)
        company = Company(4)
        answers = [threads.submit(together, n, company) for n in range(4)]
        assert [answer.result(10) for answer in answers] == [0, 1, 2, 3]
    assert together(5, Company(2)) == 5  # the other one runs on
    assert groups == [4, 1]


def test_items_of_one_thread_are_written_together_and_a_locked_one_keeps_none_of_them_waiting() -> None:
    groups: list[list[int]] = []
    locked = OperationalError("canceling statement due to lock timeout")
    locked.__cause__ = LockNotAvailable()

    def write(items: Sequence[int]) -> Sequence[int]:
        groups.append(list(items))
        if 2 in items:
            raise locked
        return items

    together: GroupedWrites[int, int] = GroupedWrites(write)
    assert together.write_all([0, 1], [None]) == [0, 1]
    assert together.write_all([1, 2, 3], {Company(1), None}) == [1, locked, 3]
    assert groups == [[0, 1], [1, 2, 3], [1], [2], [3]]
