"""The seed's consumer, unchanged but for the mailer's name: nothing of it knows of a pool."""

from __future__ import annotations

from mailrail.routing import consumer
from mailrail.worker import IncomingMessage

from .models import invite


@consumer("send-invite")
def send_invite(message: IncomingMessage) -> None:
    invite(message["id"], "pooled")
