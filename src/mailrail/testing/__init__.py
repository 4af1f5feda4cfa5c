"""For tests: run what was sent, look at what was sent, move time.

    def test_invite(self):
        form.save()
        assert [m.content for m in sent("send-invite")] == [{"id": 1}]
        drain()
        assert len(mail.outbox) == 1

All of it happens on the calling thread and in its transaction, so it works inside ``TestCase``; sends that wait for
a commit, which never comes there, count as sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django.db import connections

from ..channel import DeferredSend
from ..layers import DurableLayer, get_layer
from ..messages import Message
from ..routing import Plan, Routing
from ..worker.consume import Delivery, run_in_thread, run_on_loop
from ..worker.incoming import IncomingMessage, Outcome
from ..worker.report import report, report_lost
from ..worker.settle import settle_one

__all__ = ["Ran", "advance", "drain", "sent"]

LEASE = 3600.0


@dataclass(frozen=True)
class Ran:
    """A message that ``drain`` ran. ``outcome``: finished, discarded, retried, buried, released or expired."""

    message: IncomingMessage
    outcome: str
    error: str


def sent(channel: str, *, layer: str | None = None) -> list[Message]:
    """What was sent on a channel and has not run yet, in the order in which it is due."""
    found = get_layer(layer)
    deferred = [
        m for send in _deferred() if send.layer is found for m in send.messages if m.channel == channel
    ]
    return found.waiting(channel, limit=1_000_000) + deferred


def drain(
    *channels: str, layer: str | None = None, raise_errors: bool = True, limit: int = 10_000
) -> list[Ran]:
    """Run what is due on these channels (default: all routed), what that sends, and so on until nothing is due.

    Messages are settled as by a worker. With ``raise_errors`` a consumer that fails raises ``AssertionError`` with its
    traceback, once its message is settled; without, look at the outcomes. ``limit`` guards against consumers that
    send to themselves for ever.
    """
    found, routing = get_layer(layer), Routing.of_layer(layer)
    if unknown := [name for name in channels if name not in routing]:
        raise ValueError(f"No route for channel {unknown[0]!r}. Routed: {', '.join(sorted(routing.plans))}.")
    plans = {name: routing.plans[name] for name in channels or routing.plans}
    ran: list[Ran] = []
    while True:
        _send_deferred(found)
        claimed = found.claim("drain", dict.fromkeys(plans, 1), LEASE, total=1)
        ran += [_ran(IncomingMessage(m), Outcome("expired")) for m in claimed.expired]
        if not claimed.claims:
            return ran
        for claim in claimed.claims:
            ran += _run(found, plans[claim.channel], claim, raise_errors)
        if len(ran) > limit:
            raise AssertionError(
                f"drain() ran {len(ran)} messages and there is no end; does a consumer send to itself?"
            )


def advance(seconds: float, *, layer: str | None = None) -> None:
    """Let that much time pass for stored messages: delays, backoffs, expiries, leases, rates."""
    _send_deferred(get_layer(layer))
    get_layer(layer).shift(seconds)


def _run(layer: DurableLayer, plan: Plan, claim: Message, raise_errors: bool) -> Iterator[Ran]:
    found = None if claim.defect else plan.match(claim)
    if found is None:
        outcome = (
            Outcome("buried", claim.defect)
            if claim.defect
            else Outcome("released", "no route matches", 3600.0)
        )
        message = IncomingMessage(claim)
        message.decide(outcome)
    else:
        route, arguments = found
        message = IncomingMessage(claim, route)
        delivery = Delivery(route, [message], arguments)
        with _contained():
            if route.is_async:
                async_to_sync(run_on_loop)(delivery)
            else:
                run_in_thread(delivery, layer)
    assert message.outcome is not None
    yield _settle(layer, message, message.outcome)
    if raise_errors and message.outcome.kind in ("retried", "buried"):
        raise AssertionError(f"{message!r} was {message.outcome.kind}:\n{message.outcome.error}")


@contextmanager
def _contained() -> Iterator[None]:
    """A database error of a consumer ends its own transaction, with a worker; here, it must not end the test's.

    Where it has, everything goes back to how it was before the consumer.
    """
    in_test: list[Any] = [c for c in connections.all(initialized_only=True) if c.in_atomic_block]
    points = [(connection, connection.savepoint()) for connection in in_test]
    yield
    for connection, point in points:
        if connection.needs_rollback or not connection.is_usable():
            connection.needs_rollback = False  # as Django's own atomic() does before it goes back
            connection.savepoint_rollback(point)
        else:
            connection.savepoint_commit(point)


def _settle(layer: DurableLayer, message: IncomingMessage, outcome: Outcome) -> Ran:
    if not outcome.settled and settle_one(layer, message.claim, outcome):
        report_lost(message)
        return Ran(message, "lost", "")
    return _ran(message, outcome)


def _ran(message: IncomingMessage, outcome: Outcome) -> Ran:
    report(message, outcome)
    return Ran(message, outcome.kind, outcome.error)


def _deferred() -> list[DeferredSend]:
    """Sends that wait for a transaction of this thread to commit."""
    waiting = [
        hook[1] for connection in connections.all(initialized_only=True) for hook in connection.run_on_commit
    ]
    return [send for send in waiting if isinstance(send, DeferredSend)]


def _send_deferred(layer: DurableLayer) -> None:
    """In a ``TestCase`` the commit they wait for never comes: send them now, and do not wait any more."""
    for connection in connections.all(initialized_only=True):
        sends = [
            h[1] for h in connection.run_on_commit if isinstance(h[1], DeferredSend) and h[1].layer is layer
        ]
        connection.run_on_commit = [h for h in connection.run_on_commit if h[1] not in sends]
        for send in sends:
            send()
