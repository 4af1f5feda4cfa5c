"""Run Django's email and background work on named, durable channels."""

from .channel import Channel
from .errors import (
    Discard,
    InvalidSettings,
    Later,
    LayerUnavailable,
    LostClaim,
    MailrailError,
    MessageTooLarge,
    NoRoute,
    Retry,
    WouldDeadlock,
)
from .messages import uuid7

__all__ = [
    "Channel",
    "Discard",
    "InvalidSettings",
    "Later",
    "LayerUnavailable",
    "LostClaim",
    "MailrailError",
    "MessageTooLarge",
    "NoRoute",
    "Retry",
    "WouldDeadlock",
    "uuid7",
]

__version__ = "0.1.0"
