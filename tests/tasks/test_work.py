"""The long work of tasks that people on call see: tasks that tell their progress or take long, and open batches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from mailrail import testing
from mailrail.monitoring import Count
from mailrail.monitoring.tally import BUDGET_S, Tally
from mailrail.tasks import TaskRecord, batch, work
from mailrail.tasks.models import FAILED, READY, RUNNING, SUCCESSFUL

from . import batched
from .test_batches import using

pytestmark = pytest.mark.usefixtures("on_layer")


@pytest.fixture(autouse=True)
def _counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is counted in another test, and all in this one, however slow its machine is."""
    monkeypatch.setattr("mailrail.monitoring.tally.BUDGET_S", 60.0)
    work._members._values.clear()
    yield
    work._members._values.clear()


def running(seconds: float, progress: Any = None, **columns: Any) -> TaskRecord:
    since = timezone.now() - timedelta(seconds=seconds)
    values = {"status": RUNNING, "task": "shop.tasks.sync", "last_attempted_at": since, "progress": progress}
    return TaskRecord.objects.using(using()).create(**{**values, **columns})


def test_running_tasks_are_shown_that_tell_their_progress_or_take_long() -> None:
    long = running(60)
    running(1)
    told = running(1, {"done": 3, "total": 10, "text": "page\n3"})
    running(60, status=SUCCESSFUL)
    running(60, status=READY)
    first, second = work.long_tasks()
    assert (first.title, first.text) == ("shop.tasks.sync", "page\\n3")
    assert (first.done, first.total) == (Count(3), Count(10))
    assert (first.pk, second.pk) == (str(told.pk), str(long.pk)), "the newest first"
    assert (second.title, second.done, second.total) == ("shop.tasks.sync", Count(0), None)
    assert second.since == pytest.approx(timezone.now().timestamp() - 60, abs=5)
    assert first.model == "mailrail_tasks.taskrecord"


@pytest.mark.parametrize(
    ("progress", "done", "total"),
    [
        ({"done": 0.25, "total": 1.0}, 25, 100),
        ({"done": 7, "total": None}, 7, None),
        ({"done": 7.0, "total": 8.0}, 7, 8),
        ({"done": 7, "total": 0}, 7, None),
        ({"done": "much"}, 0, None),
        ("other hands wrote this", 0, None),
    ],
    ids=str,
)
def test_progress_is_told_in_whole_numbers(progress: Any, done: int, total: int | None) -> None:
    running(60, progress)
    [facts] = work.long_tasks()
    assert (facts.done, facts.total) == (Count(done), None if total is None else Count(total))


def test_open_batches_are_shown_with_what_their_members_came_to() -> None:
    with batch(about="the spring sale") as made:
        for what in "abcd":
            batched.member.enqueue(what)
    with batch() as other:
        batched.member.enqueue("e")
    members = list(TaskRecord.objects.using(using()).filter(batch_id=made.id).order_by("pk"))
    for member, status in zip(members, (SUCCESSFUL, SUCCESSFUL, FAILED), strict=False):
        TaskRecord.objects.using(using()).filter(pk=member.pk).update(status=status)
    newest, facts = work.open_batches()
    assert newest.pk == str(other.id)
    assert (facts.pk, facts.title) == (str(made.id), f"the spring sale {made.id}")
    assert (facts.done, facts.failed, facts.total) == (Count(2), Count(1), Count(4))


def test_a_batch_that_has_ended_is_shown_no_more() -> None:
    with batch():
        batched.member.enqueue("a")
    assert len(list(work.open_batches())) == 1
    testing.drain(raise_errors=False)
    assert list(work.open_batches()) == []


def test_at_most_fifty_of_each_are_shown() -> None:
    for _ in range(work.MAX_SHOWN + 2):
        running(60)
        with batch():
            batched.member.enqueue("a")
    assert len(list(work.long_tasks())) == len(list(work.open_batches())) == work.MAX_SHOWN


def test_counting_again_waits_for_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, counted = [1000.0], list[str]()

    def count(key: str) -> int:
        counted.append(key)
        now[0] += BUDGET_S * 0.4
        return len(counted)

    monkeypatch.setattr("mailrail.monitoring.tally.BUDGET_S", BUDGET_S)
    monkeypatch.setattr("mailrail.monitoring.tally.time.monotonic", lambda: now[0])
    tally = Tally(count)
    assert tally.values(["a", "b", "c", "d"]) == {"a": 1, "b": 2, "c": 3}, (
        "until the time of one call is over"
    )
    assert tally.values(["a", "b", "c", "d"]) == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert tally.values(["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}, "known ones wait"
    now[0] += 60.0
    assert tally.values(["b", "c", "a"]) == {"a": 5, "b": 6, "c": 7}, (
        "those first that were counted longest ago"
    )
    assert tally.values(["a"]) == {"a": 5} and tally.values([]) == {}
    assert tally.values(["a"]) == {"a": 8}, "it had been forgotten"
