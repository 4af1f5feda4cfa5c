"""Let a consumer commit what it writes together with the end of its message, or with what it keeps of a step."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import transaction

from ..errors import Later, LostClaim
from ..layers import DurableLayer
from ..transient import OUTAGES
from .incoming import IncomingMessage
from .outcomes import Outcome, OutcomeKind

if TYPE_CHECKING:
    from .consume import ConsumerRun

RELEASED_FOR_S = 1.0
"""Seconds until a message is due again whose transaction, or whose consumer, was kept from beginning."""

current_run: ContextVar[ConsumerRun | None] = ContextVar("mailrail.consumer_run", default=None)
"""The run of the consumer on this thread, or in this coroutine."""


class RollBack(Exception):
    """The message was not finished, so what its consumer wrote is undone."""


@contextmanager
def finishing(message: IncomingMessage, layer: DurableLayer) -> Iterator[None]:
    """Commit the block together with the end of its consumer's message: both, or none.

    A sync consumer may use it for some of its messages only, if its route does not say ``atomic``. At the time limit,
    the transaction is undone. Raises ``LostClaim`` if another worker has claimed the message, and ``Later`` if there
    can be no transaction just now.
    """
    run = current_run.get()
    assert run is not None and run.message is message

    def committed() -> None:
        message.outcome = Outcome(OutcomeKind.FINISHED, settled=True)

    with abortable_transaction(layer):
        transaction.on_commit(committed, using=layer.using)  # before the block's own hooks: those may raise
        yield
        if layer.finish([message.claim]):
            raise LostClaim(f"{message!r} was claimed by another worker meanwhile; what it wrote is undone.")
    committed()  # also where a TestCase's transaction around this one never commits


@contextmanager
def abortable_transaction(layer: DurableLayer) -> Iterator[None]:
    """Run the block in a transaction of the layer's database, which the time limit of its consumer aborts.

    Raises ``Later`` if there can be no transaction just now.
    """
    run = current_run.get()
    with ExitStack() as stack:
        try:
            stack.enter_context(layer.atomic())
        except OUTAGES as error:
            raise Later(f"its transaction cannot be begun: {error}", after=RELEASED_FOR_S) from error
        if run is not None:
            stack.enter_context(run.abortable(layer))
        yield


def run_atomic(run: ConsumerRun, layer: DurableLayer) -> None:
    """Commit what the consumer of a run writes and sends together with the end of its message: all, or nothing.

    Waiting for the transaction is no part of the run: no time of its limit, and no attempt if there can be none.
    """
    [message] = run.messages
    with suppress(RollBack), finishing(message, layer):
        await_stray(run, run.begin())
        if message.outcome is not None and message.outcome.kind != OutcomeKind.FINISHED:
            raise RollBack


def await_stray(run: ConsumerRun, result: Any) -> None:
    """Await what a sync consumer has returned: a wrapper around an async one returns a coroutine, which has not run."""
    if inspect.iscoroutine(result):
        asyncio.run(result)
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"{run.route.name} returned a generator: its body has not run.")
