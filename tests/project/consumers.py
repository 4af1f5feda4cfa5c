"""Consumers for tests of the worker: each leaves a line in the ledger, so that what ran can be counted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mailrail import Discard, Retry
from mailrail.routing import consumer
from mailrail.worker import IncomingMessage


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


@consumer("atomic", atomic=True, attempts=2, backoff=0)
def atomic(message: IncomingMessage) -> None:
    from django.contrib.auth.models import Group

    from mailrail import Channel

    Group.objects.create(name=message["name"])
    Channel("ledger").send({"from": message["name"]})
    note(message)
    if message.get("raise") and message.attempt == 1:
        raise RuntimeError("boom")


@consumer("rated", rate="20/s")
def rated(message: IncomingMessage) -> None:
    note(message)


@consumer("paid", kind=r"^(?P<kind>paid|free)$")
def paid(message: IncomingMessage, kind: str) -> None:
    note(message, kind)
