"""Consumers for tests of the worker: each leaves a line in the ledger, so that what ran can be counted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.core.signals import setting_changed
from django.db import connections, transaction
from django.dispatch import receiver

from mailrail import Channel, Discard, InvalidSettings, Retry, routing
from mailrail.layers import get_layer
from mailrail.messages import Message
from mailrail.routing import consumer
from mailrail.worker import IncomingMessage, kill_run
from mailrail.worker.recycling import resident


def note(message: IncomingMessage, what: str = "ran") -> None:
    """Append a line to the ledger; O_APPEND makes that one atomic step, also between processes."""
    line = f"{what} {message.id} {message.attempt} {message.losses} {os.getpid()}\n"
    with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
        ledger.write(line)


@consumer("noop")
def noop(message: IncomingMessage) -> None:
    """Does nothing; for speed."""


@consumer("ledger")
def ledger(message: IncomingMessage) -> None:
    note(message)


@consumer("slow")
def slow(message: IncomingMessage) -> None:
    note(message, "began")
    time.sleep(message.get("seconds", 0.05))
    note(message)


@consumer("leak")
def leak(message: IncomingMessage) -> None:
    """Keep so many megabytes for good; say how many the process has."""
    _leaked.append(b"x" * message["megabytes"] * 1024**2)
    note(message, f"with-{resident() // 1024**2}")
    gate = Path(message["gate"]) if "gate" in message else None
    time.sleep(message.get("seconds", 0.0))
    while gate is not None and not gate.exists():
        time.sleep(0.01)
    note(message)


_leaked: list[bytes] = []


@consumer("async-ledger", concurrency=50)
async def async_ledger(message: IncomingMessage) -> None:
    await asyncio.sleep(0.001)
    note(message)


@consumer("batch-ledger", batch=10)
def batch_ledger(messages: list[IncomingMessage]) -> None:
    for message in messages:
        note(message, f"of-{len(messages)}")
        if message.get("bury"):
            message.bury("as told")
        if message.get("retry"):
            message.retry(after=0)
        if message.get("finish"):
            message.finish()
    if any(message.get("raise") for message in messages):
        raise RuntimeError("the batch failed")


@consumer("behave", attempts=3, backoff=[0.01], lease=1.0)
def behave(message: IncomingMessage) -> Any:
    """Do what the message says, good or bad."""
    note(message, "began")
    match message["do"]:
        case "raise":
            raise RuntimeError("boom")
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(3)
        case "leave":
            os._exit(0)
        case "leave-a-process-and-die":
            if os.fork() == 0:
                time.sleep(30)
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "recurse":
            behave_again: Any = lambda f: f(f)  # noqa: E731
            behave_again(behave_again)
        case "nonsense":
            return {"what": object()}
        case "generator":
            return (x for x in "abc")
        case "coroutine":
            return async_ledger(message)
        case "retry":
            raise Retry(after=0.01)
        case "discard":
            raise Discard("not needed")
        case "interrupt":
            raise KeyboardInterrupt
        case "unprintable":
            raise Unprintable
    note(message)
    return None


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _do_apart(message: IncomingMessage) -> None:
    note(message, "began")
    match message["do"]:
        case "crash":
            signal.raise_signal(signal.SIGSEGV)
        case "leave":
            os._exit(0 if message.attempt == 1 and not message.losses else 3)
        case "cancel":
            assert kill_run(message.id, "as somebody asked") and not kill_run(uuid4(), "another one")
            threading.Event().wait(20)
        case "hang" if message.attempt == 1:
            sum(range(10**15))  # in C, so that no other thread of the process runs
    gate = Path(message["gate"]) if "gate" in message else None
    while gate is not None and not gate.exists():
        time.sleep(0.01)
    note(message)


_apart: dict[str, Any] = {"isolate": True, "attempts": 2, "backoff": 0, "lease": 2.0}


@consumer("apart", timeout=lambda message: message.get("limit"), **_apart)
def apart(message: IncomingMessage) -> None:
    """Do what the message says, in a process of its own."""
    _do_apart(message)


@consumer("apart-async", **_apart)
async def apart_async(message: IncomingMessage) -> None:
    """Do it on an event loop there."""
    _do_apart(message)


@consumer("limited", timeout=0.3, attempts=2, backoff=0, lease=2.0)
def limited(message: IncomingMessage) -> None:
    note(message, "began")
    if message.get("hang") and message.attempt == 1:
        threading.Event().wait(20)
    note(message)


@consumer("async-limited", timeout=0.2, attempts=2, backoff=0)
async def async_limited(message: IncomingMessage) -> None:
    note(message, "began")
    if message.get("hang") and message.attempt == 1:
        await asyncio.sleep(20)
    note(message)


@consumer("held", lease=1.0)
def held(message: IncomingMessage) -> None:
    """Run until a file appears."""
    note(message, "began")
    gate = Path(message["gate"])
    while not gate.exists():
        time.sleep(0.01)
    note(message)


@consumer("long-lease", lease=3600.0)
def long_lease(message: IncomingMessage) -> None:
    """Like "held", under a lease that nobody waits for."""
    held(message)


@consumer("narrow", concurrency=2)
def narrow(message: IncomingMessage) -> None:
    """Like "held", two at a time in each process, and with a lease that a busy machine can keep."""
    held(message)


def _tenant_of(message: Message) -> str:
    return str(message["tenant"])


@consumer("per-tenant", lease=1.0, concurrency=(1, _tenant_of))
def per_tenant(message: IncomingMessage) -> None:
    """Like "held", one at a time over all workers for each tenant."""
    held(message)


@consumer("clock")
def clock(message: IncomingMessage) -> None:
    """Say what time it is in this process."""
    note(message, f"at-{time.time():.0f}")
    note(message)


@consumer("relay")
def relay(message: IncomingMessage) -> None:
    """Send something from this process."""
    from mailrail import Channel

    Channel(message["to"], message["layer"]).send({}, delay=message["delay"])
    note(message)


@consumer("atomic", atomic=True, attempts=2, backoff=0)
def atomic(message: IncomingMessage) -> None:
    from django.contrib.auth.models import Group

    Group.objects.create(name=message["name"])
    Channel("ledger").send({"from": message["name"]})
    note(message)
    if message.get("raise") and message.attempt == 1:
        raise RuntimeError("boom")


class Undo(Exception):
    """Rolls a savepoint back."""


@consumer("book", atomic=True, attempts=3, backoff=0, lease=1.0)
def book(message: IncomingMessage) -> None:
    """Write a row and send a message, here and in savepoints, one of which is undone; then do as told."""
    using = message["using"]
    note(message, "began")
    _book(message, "outer")
    with transaction.atomic(using):
        _book(message, "kept")
    with suppress(Undo), transaction.atomic(using):
        _book(message, "undone")
        raise Undo
    note(message)
    if message.get("do") == "raise" and message.attempt == 1:
        raise RuntimeError("boom")
    while (gate := message.get("gate")) and message.attempt == 1 and not Path(gate).exists():
        time.sleep(0.01)


def _book(message: IncomingMessage, how: str) -> None:
    using = message["using"]
    with connections[using].cursor() as cursor:
        cursor.execute("INSERT INTO booked (id, how) VALUES (%s, %s)", [str(message.id), how])
    Channel("booked", layer=using).send({"id": str(message.id), "how": how})


@consumer("lock")
def lock(message: IncomingMessage) -> None:
    """Ask for a row that somebody has locked."""
    from django.contrib.auth.models import Group

    note(message, "began")
    with transaction.atomic(message["using"]):
        Group.objects.using(message["using"]).select_for_update().get(pk=message["pk"])
    note(message)


@consumer("rated", rate="20/s")
def rated(message: IncomingMessage) -> None:
    note(message)


@consumer("paid", kind=r"^(?P<kind>paid|free)$")
def paid(message: IncomingMessage, kind: str) -> None:
    note(message, kind)


def in_lanes(message: IncomingMessage) -> None:
    note(message, "began")
    if message.attempt <= message["failures"]:
        raise RuntimeError("boom")
    note(message)


_of_this_module = [route for route in routing._registered if route.function.__module__ == __name__]


@receiver(setting_changed, dispatch_uid=__name__)
def _step_aside(**kwargs: Any) -> None:
    """Where the default layer of a test has a list of routes, those of this module do not count."""
    others = [route for route in routing._registered if route not in _of_this_module]
    is_listed = False
    with suppress(InvalidSettings):
        is_listed = get_layer("default").routing is not None
    routing._registered[:] = others if is_listed else [*_of_this_module, *others]


_step_aside()
