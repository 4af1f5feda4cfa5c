"""Move the stored times of messages, email and tasks."""

from __future__ import annotations

from ..layers import get_layer
from .enqueued import advance_tasks
from .mail import CHANNEL as MAIL
from .mail import advance_mail
from .messages import ADVANCED_BY, send_deferred, sent


def advance(seconds: float, *, layer: str | None = None) -> None:
    """Let ``seconds`` pass for stored messages (delays, backoffs, expiries, leases, rates), queued email and tasks."""
    durable_layer = get_layer(layer)
    send_deferred(durable_layer)
    if sent(MAIL, layer=layer):  # elsewhere, the test may have no database
        advance_mail(seconds)
    advance_tasks(seconds, durable_layer)
    durable_layer.advance_time(seconds)
    ADVANCED_BY[durable_layer] = ADVANCED_BY.get(durable_layer, 0.0) + seconds
