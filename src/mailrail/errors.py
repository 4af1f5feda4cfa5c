"""What Mailrail raises.

    MailrailError
    ├── InvalidSettings        MAILRAIL or CHANNEL_LAYERS says something we cannot follow
    ├── MessageTooLarge        the content is larger than MAILRAIL["MAX_MESSAGE_BYTES"]
    ├── WouldDeadlock          immediately=True where the write would wait for its own caller
    ├── LayerUnavailable       the layer's server or file cannot be reached just now
    ├── NoRoute                no consumer takes the channel, and MAILRAIL["UNROUTED"] is "raise"
    └── LostClaim              another worker has re-claimed the message meanwhile

    Retry, Discard             raised *by consumers*, to say what becomes of their message

Bad arguments are plain ``TypeError`` and ``ValueError``, as everywhere in Python.
"""

from __future__ import annotations

from datetime import timedelta

from . import options as checked


class MailrailError(Exception):
    """The root of what Mailrail raises."""


class InvalidSettings(MailrailError):
    """A setting that cannot be followed; the text names it and says what to write instead.

    ``mistakes``: all that is wrong with it, in a sentence each; the text has one in each line.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class MessageTooLarge(MailrailError, ValueError):
    """The content is larger, as JSON, than ``MAILRAIL["MAX_MESSAGE_BYTES"]``. Nothing was sent."""


class WouldDeadlock(MailrailError):
    """``immediately=True`` inside ``atomic()`` on SQLite: the write would wait for its own caller."""


class LayerUnavailable(MailrailError):
    """The layer cannot be reached or is locked by somebody else; trying again later may work.

    ``channels``: those whose part of the layer it is, where others could be reached; ``None``: perhaps all of it.
    """

    channels: frozenset[str] | None = None
    may_have_run = True  # for layers: could what was asked have been done all the same?


class NoRoute(MailrailError, ValueError):
    """No consumer takes the channel, and ``MAILRAIL["UNROUTED"]`` is ``"raise"``. Nothing was sent."""


class LostClaim(MailrailError):
    """The claim was lost: another worker has re-claimed the message, so nothing was settled."""


class Retry(Exception):
    """Raise it in a consumer to have the message tried again.

    ``after``: seconds or a ``timedelta``; ``None`` (default) takes the route's backoff. It counts as an
    attempt: raised at the last one, the message is buried.
    """

    def __init__(self, why: str = "", *, after: float | timedelta | None = None) -> None:
        if isinstance(why, int | float | timedelta):
            raise TypeError(f"Retry({why!r}) does not say what that is. Write Retry(after={why!r}).")
        super().__init__(why or "the consumer asked for a retry")
        self.after = None if after is None else checked.seconds("after", after)


class Discard(Exception):
    """Raise it in a consumer to have the message dropped for good: logged, not retried, not kept."""

    def __init__(self, why: str = "the consumer discarded it") -> None:
        super().__init__(why)
