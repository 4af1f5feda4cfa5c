"""Tasks for tests of batches."""

from __future__ import annotations

from typing import Any

from mailrail import Retry
from mailrail.tasks import Batch, ChannelContext, task

from .defined import Broken, ran


@task
def member(what: str = "") -> str:
    ran.append(f"member {what}")
    if what == "raise":
        raise Broken("boom")
    return what


@task
async def member_async(what: str = "") -> str:
    ran.append(f"member {what}")
    return what


broken: set[str] = set()
"""What the tasks below find broken, until a test mends it."""


@task(attempts=2, backoff=0)
def mendable(what: str) -> str:
    ran.append(f"member {what}")
    if what in broken:
        raise Retry("not yet", after=0)
    return what


@task
def then(*words: str) -> None:
    ran.append(" ".join(["then", *words]))


@task
def on_failure() -> None:
    ran.append("on_failure")


@task
def on_finish() -> None:
    ran.append("on_finish")


@task(takes_context=True)
def collect(context: ChannelContext) -> list[Any]:
    """Return what the tasks of the batch have returned that this one follows."""
    assert context.batch is not None
    return [result.return_value for result in context.batch.results()]


@task(takes_context=True)
def grow(context: ChannelContext, depth: int) -> None:
    """Add two tasks to the batch, of which each adds two."""
    ran.append(f"grow {depth}")
    assert context.batch is not None
    if depth:
        with context.batch.add():
            for _ in range(2):
                grow.enqueue(depth - 1)


@task(takes_context=True, atomic=True)
def grow_all_or_nothing(context: ChannelContext, depth: int) -> None:
    assert context.batch is not None
    if depth:
        with context.batch.add():
            for _ in range(2):
                grow_all_or_nothing.enqueue(depth - 1)


@task(takes_context=True)
def add_and_fail(context: ChannelContext) -> None:
    assert context.batch is not None
    with context.batch.add():
        member.enqueue("never")
        raise Broken("in the middle")


@task(expires=60)
def short_lived() -> None:
    ran.append("short-lived")


@task(results=False)
def without_record() -> None:
    """Be a message alone."""


@task(key="once")
def keyed() -> None:
    """Be enqueued once."""


def names(batch: Batch) -> list[Any]:
    return [result.args for result in batch.results()]
