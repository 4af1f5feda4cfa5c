"""Define the exceptions of Mailrail.

    MailrailError
    ├── InvalidSettings        MAILRAIL or CHANNEL_LAYERS says something we cannot follow
    ├── MessageTooLarge        the content is larger than MAILRAIL["MAX_MESSAGE_BYTES"]
    ├── WouldDeadlock          immediately=True where the write would wait for its own caller
    ├── LayerUnavailable       the layer's server or file cannot be reached just now
    ├── NoRoute                no consumer takes the channel, and MAILRAIL["UNROUTED"] is "raise"
    └── LostClaim              another worker has re-claimed the message meanwhile

    Retry, Later, Discard      raised *by consumers*, to say what becomes of their message

Bad arguments are plain ``TypeError`` and ``ValueError``, as everywhere in Python.
"""

from __future__ import annotations

from datetime import timedelta

from . import options as checked


class MailrailError(Exception):
    """Catch this to catch every error of Mailrail."""


class InvalidSettings(MailrailError):
    """Report settings that cannot be used; the text names each setting and says what to write instead.

    ``mistakes``: one sentence for each mistake; the text has one per line.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class MessageTooLarge(MailrailError, ValueError):
    """Report a content whose JSON is larger than ``MAILRAIL["MAX_MESSAGE_BYTES"]``. Nothing was sent."""


class WouldDeadlock(MailrailError):
    """Report a write with ``immediately=True`` that would wait for its own caller's transaction."""


class LayerUnavailable(MailrailError):
    """Report that the layer cannot be reached or is locked; trying again later may work."""

    may_have_run = True  # for layers: the request may have been carried out although it failed


class NoRoute(MailrailError, ValueError):
    """Report a channel without a consumer if ``MAILRAIL["UNROUTED"]`` is ``"raise"``. Nothing was sent."""


class LostClaim(MailrailError):
    """Report a lost claim: another worker has re-claimed the message, so nothing was settled."""


class Retry(Exception):
    """Raise this in a consumer to retry the message.

    ``after``: seconds or a ``timedelta``; ``None`` (default) takes the route's backoff. It counts as an
    attempt: raised at the last one, the message is buried.
    """

    def __init__(self, why: str = "", *, after: float | timedelta | None = None) -> None:
        if isinstance(why, int | float | timedelta):
            raise TypeError(f"Retry({why!r}) does not say what that is. Write Retry(after={why!r}).")
        super().__init__(why or "the consumer asked for a retry")
        self.after = None if after is None else checked.seconds("after", after)


class Later(Exception):
    """Raise this in a consumer or a task to have it come again later, as if it had not been claimed.

    ``after``: seconds or a ``timedelta``. No attempt is counted. In a batch, all messages that the consumer has not
    settled come again.
    """

    after: float = 1.0  # seconds, for a subclass whose __init__ leaves out this one

    def __init__(self, why: str = "", *, after: float | timedelta | None = None) -> None:
        if isinstance(why, int | float | timedelta):
            raise TypeError(f"Later({why!r}) does not say what that is. Write Later(after={why!r}).")
        if after is None:
            raise TypeError("Later needs after, in seconds or as a timedelta: Later(after=60).")
        super().__init__(why or "it asked to come again later")
        self.after = checked.seconds("after", after)


class Discard(Exception):
    """Raise this in a consumer to drop the message: it is logged, not retried and not kept."""

    def __init__(self, why: str = "the consumer discarded it") -> None:
        super().__init__(why)
