"""List and run the messages that a test has sent, on the calling thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from asgiref.sync import async_to_sync
from django.db import connections

from ..layers import DurableLayer, get_layer
from ..layers.deferred_sends import DeferredSend
from ..messages import Message
from ..routes import Plan
from ..routing import Routing
from ..selection import Selection, expand
from ..worker.consume import ConsumerRun, precheck, run_in_thread, run_on_loop
from ..worker.incoming import IncomingMessage, advanced_by
from ..worker.outcomes import EFFECTS, Outcome, OutcomeKind
from ..worker.settle import log_lost, log_outcome

LEASE_S = 3600.0
MAX_LISTED = 1_000_000
"""Messages of a channel that ``sent`` returns at most."""
ADVANCED_BY: WeakKeyDictionary[DurableLayer, float] = WeakKeyDictionary()
"""Seconds by which ``advance`` has moved the stored times of a layer."""


@dataclass(frozen=True)
class Ran:
    """Hold a message that ``drain`` ran. ``outcome``: finished, discarded, retried, buried, released or expired."""

    message: IncomingMessage
    outcome: str
    error: str


def sent(channel: str, *, layer: str | None = None) -> list[Message]:
    """Return the messages of a channel that have not run yet, the one due soonest first.

    The name of a pattern means all its channels, one after the other.
    """
    durable_layer = get_layer(layer)
    sends = [send for connection in _connections() for send in _deferred_on(connection, durable_layer)]
    deferred = [message for send in sends for message in send.messages]
    outbox = durable_layer.outbox
    known = [
        *durable_layer.list_channels(),
        *(outbox.stats() if outbox else ()),
        *(m.channel for m in deferred),
    ]
    messages: list[Message] = []
    for name in expand(channel, layer, known):
        in_outbox = outbox.waiting(name, MAX_LISTED) if outbox else []
        listed = durable_layer.list_messages([name], MAX_LISTED)
        stored = durable_layer.get(name, [summary.id for summary in listed])
        messages += [message for message in stored if message.token is None] + in_outbox
        messages += [m for m in deferred if m.channel == name]
    return messages


def drain(
    *channels: str, layer: str | None = None, raise_errors: bool = True, limit: int = 10_000
) -> list[Ran]:
    """Run due messages of these channels (default: all routed), and those they send, until nothing is due.

    Messages are settled as by a worker. With ``raise_errors``, a failing consumer raises ``AssertionError`` with its
    traceback after its message is settled; without it, check the outcomes. A ``KeyboardInterrupt`` is always raised.
    ``limit`` guards against consumers that send to themselves for ever.
    """
    durable_layer, routing = get_layer(layer), Routing.of_layer(layer)
    if unknown := [name for name in channels if name not in routing and not routing.pattern_of(name)]:
        raise ValueError(routing.no_route_for(unknown[0]))
    plans, ran = _plans(durable_layer, routing, channels), list[Ran]()
    while True:
        send_deferred(durable_layer)
        claimed = durable_layer.claim("drain", dict.fromkeys(plans, 1), LEASE_S, total=1)
        ran += [_ran(IncomingMessage(m), Outcome(OutcomeKind.EXPIRED)) for m in claimed.expired]
        if not claimed.claims:
            before, plans = plans, _plans(durable_layer, routing, channels)
            if plans.keys() <= before.keys():
                return ran
        for claim in claimed.claims:
            ran += _run(durable_layer, plans[claim.channel], claim, raise_errors)
        if len(ran) > limit:
            raise AssertionError(
                f"drain() ran {len(ran)} messages and there is no end; does a consumer send to itself?"
            )


def _plans(layer: DurableLayer, routing: Routing, names: tuple[str, ...]) -> dict[str, Plan]:
    """Return the plans of the channels of these names, those of patterns that the layer knows among them."""
    selection = Selection(names or None)
    known = layer.list_channels() if selection.patterns(routing) else ()
    return {channel: routing.plan_for(channel) for channel in selection.channels(routing, known)}


class _DrainedRun(ConsumerRun):
    """A run on the thread of a test, where somebody who interrupts means the test."""

    interrupt: BaseException | None = None

    def fail(self, error: BaseException, *, timed_out: bool = False) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.interrupt = error
        super().fail(error, timed_out=timed_out)


def _run(layer: DurableLayer, plan: Plan, claim: Message, raise_errors: bool) -> Iterator[Ran]:
    decision, interrupt = precheck(claim, plan, LEASE_S), None
    if isinstance(decision, Outcome):
        message = IncomingMessage(claim)
        message.decide(decision)
    else:
        route, arguments = decision
        message = IncomingMessage(claim, route)
        run = _DrainedRun(route, [message], arguments)
        with _rolled_back_on_error(), _time_advanced(layer):
            if route.is_async:
                async_to_sync(run_on_loop)(run)
            else:
                run_in_thread(run, layer)
        interrupt = run.interrupt
    assert message.outcome is not None
    yield _settle(layer, message, message.outcome)
    if interrupt is not None:
        raise interrupt
    if raise_errors and message.outcome.kind in ("retried", "buried"):
        raise AssertionError(f"{message!r} was {message.outcome.kind}:\n{message.outcome.error}")


@contextmanager
def _time_advanced(layer: DurableLayer) -> Iterator[None]:
    """Tell the consumer's run how far ``advance`` has moved times, so that a retried message counts as the same one."""
    token = advanced_by.set(ADVANCED_BY.get(layer, 0.0))
    try:
        yield
    finally:
        advanced_by.reset(token)


@contextmanager
def _rolled_back_on_error() -> Iterator[None]:
    """Keep a database error of a consumer from breaking the test's transaction, as it would not with a worker.

    If it has, roll back to the savepoint before the consumer.
    """
    in_test = [connection for connection in _connections() if connection.in_atomic_block]
    points = [(connection, connection.savepoint()) for connection in in_test]
    yield
    for connection, point in points:
        if connection.needs_rollback or not connection.is_usable():
            connection.needs_rollback = False  # as Django's own atomic() does before it goes back
            connection.savepoint_rollback(point)
        else:
            connection.savepoint_commit(point)


def _settle(layer: DurableLayer, message: IncomingMessage, outcome: Outcome) -> Ran:
    if not outcome.settled and EFFECTS[outcome.kind].settle(layer, [message.claim], outcome):
        log_lost(message)
        return Ran(message, "lost", "")
    return _ran(message, outcome)


def _ran(message: IncomingMessage, outcome: Outcome) -> Ran:
    log_outcome(message, outcome)
    return Ran(message, outcome.kind.value, outcome.error)


def _connections() -> Sequence[Any]:
    return connections.all(initialized_only=True)


def _deferred_on(connection: Any, layer: DurableLayer) -> list[DeferredSend]:
    """Return the sends to a layer that wait for a transaction of this connection to commit."""
    hooks = [hook[1] for hook in connection.run_on_commit]
    return [hook for hook in hooks if isinstance(hook, DeferredSend) and hook.layer is layer]


def send_deferred(layer: DurableLayer) -> None:
    """Send the deferred messages now: in a ``TestCase`` the commit that they wait for never comes."""
    for connection in _connections():
        sends = _deferred_on(connection, layer)
        connection.run_on_commit = [hook for hook in connection.run_on_commit if hook[1] not in sends]
        for send in sends:
            send()
    if layer.outbox:
        layer.outbox.relay()
