"""What soaks consume. Each run leaves a line in the ledger; a message says itself what is to become of it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from mailrail import Channel
from mailrail.routing import consumer
from mailrail.worker import IncomingMessage

ATTEMPTS = 3


def note(message: IncomingMessage, what: str = "ran") -> None:
    """what, id, channel, lane, number in the lane, attempt, losses, process, seconds too early."""
    early = message.sent_at.timestamp() + message.get("delay", 0.0) - time.time()
    facts = (what, message.id, message.channel, message.lane or "-", message.get("n", 0), message.attempt)
    line = " ".join(map(str, (*facts, message.losses, os.getpid(), f"{early:.3f}")))
    with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
        ledger.write(f"{line}\n")  # O_APPEND: one step, also between processes


def fail_as_told(message: IncomingMessage) -> None:
    if message.attempt <= message.get("failures", 0):
        note(message, "failed")
        raise RuntimeError("as told")


@consumer("plain", attempts=ATTEMPTS, backoff=[0.05])
def plain(message: IncomingMessage) -> None:
    fail_as_told(message)
    if message.get("slow"):
        time.sleep(random.uniform(0.0, 0.3))
    note(message)


@consumer("laned", attempts=ATTEMPTS, backoff=[0.05])
def laned(message: IncomingMessage) -> None:
    fail_as_told(message)
    note(message)


@consumer("batched", batch=20, attempts=ATTEMPTS, backoff=[0.05])
def batched(messages: list[IncomingMessage]) -> None:
    for message in messages:
        note(message)


@consumer("waiting", attempts=ATTEMPTS, backoff=[0.05], concurrency=20)
async def waiting(message: IncomingMessage) -> None:
    await asyncio.sleep(random.uniform(0.0, 0.5))
    note(message)


@consumer("once", atomic=True, attempts=10, backoff=[0.05])
def once(message: IncomingMessage) -> None:
    """Its row, what it sends, and the end of its message commit together: a row for each message, and never two."""
    from .records import record, record_done

    record_done(message.id)
    time.sleep(message.get("seconds", 0.0))
    record([Channel("plain").send({})], "plain")
    note(message, "tried")  # it may be undone yet, so this is no proof
