"""Tasks for tests."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from mailrail import Discard, Later, Retry
from mailrail.layers import get_layer
from mailrail.tasks import ChannelContext, TaskRecord, cancel, task

ran: list[Any] = []
"""What ran, in this process."""


class Broken(Exception):
    """What failing tasks raise."""


class Hopeless(Exception):
    """What tasks raise that nobody need try again."""


@task
def add(a: int, b: int = 0) -> int:
    ran.append((a, b))
    return a + b


@task
async def add_async(a: int, b: int = 0) -> int:
    ran.append((a, b))
    return a + b


class Busy(Retry):
    """A project's own, which says nothing of a time."""

    def __init__(self) -> None:
        pass


def _do(what: str) -> Any:
    match what:
        case "raise":
            raise Broken("boom")
        case "hopeless":
            raise Hopeless("never")
        case "exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "retry":
            raise Retry("later", after=100)
        case "busy":
            raise Busy
        case "come again":
            raise Later("the partner is closed", after=100)
        case "discard":
            raise Discard("not needed")
        case "lambda":
            return lambda: True
        case "nan":
            return {"a": [float("nan")]}
        case "numbers as keys":
            return {1: 2}
        case "long":
            return "é" * (5 * 1024**2)
        case "odd text":
            return {"\0": "\ud800 \0"}
        case "long error":
            raise Broken("x" * 100_000)
        case "unprintable":
            raise Unprintable
    return what


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@task
def do(what: str) -> Any:
    return _do(what)


@task
async def do_async(what: str) -> Any:
    return _do(what)


@task(attempts=3, backoff=[10, 20], discard_on="tests.tasks.defined.Hopeless")
def try_thrice(what: str) -> Any:
    return _do(what)


@task(attempts=3, backoff=0, retry_on=[Broken])
def retry_broken(what: str) -> Any:
    return _do(what)


@task(takes_context=True, attempts=2, backoff=0)
def look(context: ChannelContext) -> dict[str, Any]:
    if context.attempt == 1:
        raise Broken("once more")
    result = context.task_result
    return {"attempt": context.attempt, "workers": len(result.worker_ids), "status": result.status}


@task(takes_context=True, attempts=2, backoff=0)
def count(context: ChannelContext, last: Any) -> list[Any]:
    """Go on where the last attempt has stopped, and say how far it is."""
    begin = context.metadata.setdefault("done", 0)
    for n in range(begin, 5):
        context.progress(n, 5, f"number {n}")
        context.metadata["done"] = n
        if n == 3 and context.attempt == 1:
            raise Broken("half way")
    context.save()
    seen = count.get_result(context.task_result.id)
    context.metadata["last"] = last
    return [begin, seen.progress, seen.metadata]


@task(takes_context=True)
async def count_async(context: ChannelContext) -> Any:
    await context.aprogress(1)
    result = await count_async.aget_result(context.task_result.id)
    return result.progress


@task(timeout=0.2, attempts=2, takes_context=True)
def hang(context: ChannelContext, gate: str) -> int:
    """Hang in the first attempt, as a thread that nobody can stop."""
    while context.attempt == 1 and not Path(gate).exists():
        time.sleep(0.01)
    return context.attempt


@task(timeout=0.2, attempts=2, takes_context=True)
async def hang_async(context: ChannelContext, gate: str) -> int:
    if context.attempt == 1:
        await asyncio.sleep(60)
    return context.attempt


@task(takes_context=True)
def report(context: ChannelContext, using: str) -> Any:
    """Say inside a transaction how far it is, and return what others see of it, and what they see after the commit."""
    with transaction.atomic(using):
        context.progress(1, 2)
        during = seen_by_others(using, context.task_result.id)
    return [during, seen_by_others(using, context.task_result.id)]


def seen_by_others(using: str, id: str) -> Any:
    """Return the progress that another connection finds, and is not kept from changing."""

    def look() -> Any:
        try:
            records = TaskRecord.objects.using(using)
            if connections[using].vendor == "sqlite":
                return records.get(pk=id).progress
            with transaction.atomic(using):
                return records.select_for_update(nowait=True).get(pk=id).progress
        finally:
            connections[using].close()

    with ThreadPoolExecutor(1) as other:
        return other.submit(look).result()


@task(attempts=2, backoff=0)
def leave_open(how: str, using: str) -> None:
    """End without the end of a transaction."""
    if how == "block":
        transaction.atomic(using).__enter__()
    else:
        transaction.set_autocommit(False, using)
        with connections[using].cursor() as cursor:
            cursor.execute("UPDATE mailrail_tasks_taskrecord SET lane = 'left' WHERE task = 'none'")
    if how == "committed":
        transaction.commit(using)
    if how == "raise":
        raise Broken("in the middle")


@task
def wait_for(gate: str) -> None:
    """Wait without a look at anything else."""
    _wait(gate)


@task
async def wait_in_sync_code(gate: str) -> None:
    """Block the thread on which the sync code of all coroutines runs."""
    await sync_to_async(_wait)(gate)


def _wait(gate: str) -> None:
    ran.append("waits")
    while not Path(gate).exists():
        time.sleep(0.01)


def lane_of(customer: int, number: int) -> str:
    return f"customer-{customer}"


@task(lane=lane_of)
def in_lane(customer: int, number: int) -> None:
    ran.append((customer, number))


@task(concurrency=(2, lane_of))
def limited(customer: int, number: int) -> None:
    ran.append((customer, number))


@task
def keep(customer: int, number: int) -> None:
    ran.append((customer, number))


def lists(customer: int, number: int) -> list[str]:
    return ["a"]


def long_name(customer: int, number: int) -> str:
    return f"{'x' * 250}{customer}"


@task(expires=60, queue_name="reports")
def soon() -> None:
    ran.append("soon")


@task(takes_context=True, attempts=2, backoff=0)
def note(context: ChannelContext, what: str = "", gate: str = "") -> None:
    """Leave lines in the ledger of a test, as tests.project.consumers does, and do as told in between."""
    _note(context, "began")
    if what == "raise" and context.attempt == 1:
        raise Broken("boom")
    if what == "die":
        os._exit(3)
    time.sleep(0.002)
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    _note(context, "ran")


@task(takes_context=True)
async def note_async(context: ChannelContext) -> None:
    _note(context, "began")
    await asyncio.sleep(0.002)
    _note(context, "ran")


def _note(context: ChannelContext, what: str) -> None:
    line = f"{what} {context.task_result.id} {context.attempt} 0 {os.getpid()}\n"
    with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
        ledger.write(line)


@task(results=False)
def send_alone(what: str, number: int = 0) -> Any:
    ran.append((what, number))
    return _do(what)


@task(results=False)
async def send_alone_async(what: str, number: int = 0) -> Any:
    ran.append((what, number))
    return _do(what)


@task(results=False, takes_context=True, attempts=2, backoff=0)
def look_alone(context: ChannelContext, what: str = "") -> None:
    ran.append((context.attempt, context.task_result.args, context.task_result.attempts))
    match what:
        case "progress":
            context.progress(1, 2)
        case "metadata":
            context.metadata["a"] = 1
        case "save":
            context.save()


@task(takes_context=True, attempts=2, backoff=0)
def cancel_itself(context: ChannelContext, what: str, looks: bool = True) -> Any:
    """Be cancelled in the middle, and do as told then."""
    cancel(context.task_result)
    if looks:
        ran.append((context.cancelled, context.lost, context.stopping))
    return _do(what)


@task(takes_context=True)
def watch(context: ChannelContext, what: str) -> None:
    """Run until the context says something; ``what``: which attribute of it."""
    while not getattr(context, what):
        time.sleep(0.01)
    if what == "stopping":
        raise Later(after=0)


@task(takes_context=True)
async def watch_async(context: ChannelContext, what: str) -> None:
    while not getattr(context, what):  # noqa: ASYNC110 - as tasks do
        await asyncio.sleep(0.01)
    if what == "stopping":
        raise Later(after=0)


def key_of(number: int, what: str = "") -> str | None:
    return f"number-{number}" if number else None


@task(key=key_of)
def once(number: int, what: str = "") -> Any:
    ran.append(number)
    return _do(what)


@task(key=key_of, while_running=True, attempts=2, backoff=60, takes_context=True)
def once_at_a_time(context: ChannelContext, number: int, what: str = "") -> Any:
    """Enqueue a twin while this one runs, unless told otherwise, and tell its id."""
    ran.append(number)
    if what == "cancelled":
        cancel(context.task_result)
    if what in ("twin", "cancelled"):
        return [context.task_result.id, once_at_a_time.enqueue(number).id]
    return _do(what)


@task(results=False, key=key_of)
def once_alone(number: int, what: str = "") -> None:
    ran.append(number)


@task(rate="2/10s")
def rated(number: int) -> None:
    ran.append(number)


@task(rate="2/10s")
async def rated_async(number: int) -> None:
    ran.append(number)


@task(atomic=True, attempts=2, backoff=0, takes_context=True)
def write_or_fail(context: ChannelContext, what: str, using: str) -> Any:
    """Write a row, and end as told."""
    _groups(using).create(name=what)
    if what == "hook":
        transaction.on_commit(lambda: 1 / 0, using=using)
    if what == "once" and context.attempt == 1:
        raise Broken
    if what == "lose":
        lose_claim()
    return _do(what)


def lose_claim() -> None:
    """Let another worker claim the message, as if this one had stood still for longer than its lease."""

    def claim() -> None:
        get_layer().advance_time(4000)
        assert get_layer().claim("another", {"tasks.default": 1}, 60.0).claims
        connections.close_all()

    thread = threading.Thread(target=claim)
    thread.start()
    thread.join()


def _groups(using: str) -> Any:
    from django.contrib.auth.models import Group

    return Group.objects.using(using)


@task(atomic=True, timeout=0.2, takes_context=True)
def write_and_hang(context: ChannelContext, gate: str, using: str) -> None:
    _groups(using).create(name="hung")
    while not Path(gate).exists():
        time.sleep(0.01)


def wrapping(function: Any) -> Any:
    """Wrap a function in a plain one, as many decorators do: around an async one, it returns a coroutine."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


@task
@wrapping
def wrapped(a: int) -> int:
    ran.append(a)
    return a


@task
@wrapping
async def wrapped_async(a: int) -> int:
    ran.append(a)
    return a


@task
def generator(a: int) -> Any:
    ran.append(a)
    yield a


@task
async def generator_async(a: int) -> Any:
    ran.append(a)
    yield a


def marking(function: Any) -> Any:
    """Mark a function that returns a coroutine, where Python can."""
    mark = getattr(inspect, "markcoroutinefunction", None)  # of Python 3.12
    return function if mark is None else mark(function)


@task
@marking
def marked_async(a: int) -> Any:
    return wrapped_async.func(a)


class Holder:
    """Have functions that are no functions of a module."""

    @staticmethod
    def static(a: int) -> None: ...

    def method(self, a: int) -> None: ...

    def __call__(self, a: int) -> None: ...


of_lambda = task(lambda a: a)
of_static_method = task(Holder.static)
not_held = task(add.func)
"""A task whose module holds another one by its path, which has the same function."""


def plain() -> None:
    """No task by this name."""


of_plain = task(plain)
