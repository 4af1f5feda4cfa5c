"""Every Django email, queued, durable and exact.

    from mailrail import mail

    email = mail.queue(message, send_at=timedelta(hours=1), key=f"receipt-{order.pk}")
    mail.cancel(email)

The names below are imported at first use: Django imports this package, as an app, before there can be models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import CannotQueue, EmailTooLarge, KeyConflict
    from .mailers.circuit import pause, resume
    from .mailers.refused_senders import allow_sender
    from .models import Email, Status
    from .queueing.accept import aqueue, aqueue_many, queue, queue_many
    from .queueing.sensitive import is_sensitive
    from .records.control import (
        Changed,
        acancel,
        ahold,
        aresend,
        asend_now,
        aunhold,
        cancel,
        hold,
        resend,
        send_now,
        unhold,
    )

__all__ = [
    "CannotQueue",
    "Changed",
    "Email",
    "EmailTooLarge",
    "KeyConflict",
    "Status",
    "acancel",
    "ahold",
    "allow_sender",
    "aqueue",
    "aqueue_many",
    "aresend",
    "asend_now",
    "aunhold",
    "cancel",
    "hold",
    "is_sensitive",
    "pause",
    "queue",
    "queue_many",
    "resend",
    "resume",
    "send_now",
    "unhold",
]

_HOMES = {
    "records.control": (
        *("Changed", "acancel", "ahold", "aunhold", "aresend", "asend_now"),
        *("cancel", "hold", "unhold", "resend", "send_now"),
    ),
    "errors": ("CannotQueue", "EmailTooLarge", "KeyConflict"),
    "models": ("Email", "Status"),
    "mailers.circuit": ("pause", "resume"),
    "queueing.accept": ("aqueue", "aqueue_many", "queue", "queue_many"),
    "mailers.refused_senders": ("allow_sender",),
    "queueing.sensitive": ("is_sensitive",),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_home_of[name]}", __name__), name)
