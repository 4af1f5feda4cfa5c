"""What a consumer gets: the message, the ways to say what becomes of it, and which run it is part of."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from ..conf import settings
from ..errors import MailrailError, Retry
from ..messages import Content, Message
from ..moments import from_timestamp
from ..routes import Route
from .log import logger
from .outcomes import FINISHED, Outcome, OutcomeKind

Remainder = tuple["IncomingMessage", Callable[[], object]]
"""A message, and what is left to do for it alone."""

FINISHED_AND_LOGGED = Outcome(OutcomeKind.FINISHED, is_logged=True)

advanced_by: ContextVar[float] = ContextVar("mailrail.moved", default=0.0)
"""Seconds by which a test has moved all stored times (``mailrail.testing.advance``), also the message's own."""


class Ending(Protocol):
    """What is left to do when a consumer has returned, and better done for several runs at once."""

    def end_all(self, endings: Sequence[Any]) -> Iterator[Remainder]:
        """Do together what can be, for endings of this class, also this one. Yield what is left for each message.

        Its run is over once that has returned, and has failed if that raises. Any thread may call it.
        """


class IncomingMessage:
    """A claimed message, as its consumer sees it. Reads like a dictionary of its content, too."""

    __slots__ = (
        "_execution",
        "_on_outcome",
        "_route",
        "_stopping",
        "channel",
        "claim",
        "content",
        "ending",
        "is_short",
        "may_end_later",
        "outcome",
        "prepared",
        "started_at",
        "taken",
        "unanswered_until",
    )

    def __init__(
        self,
        claim: Message,
        route: Route | None = None,
        on_outcome: Callable[[Sequence[IncomingMessage]], None] | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self.claim = claim  # for layers
        self.channel = claim.channel
        self.content: Content = claim.content  # what was sent
        self._stopping = stopping  # of its worker
        self._route = route
        self._on_outcome = on_outcome  # told at once; None: its run tells when the run is over
        self.outcome: Outcome | None = None
        self.prepared: Any = None  # by the route's function of that name
        self.is_short = False  # as that function expects: its run takes a fraction of a millisecond
        self.may_end_later = (
            False  # the thread that runs it ends it together with others, if it leaves an `ending`
        )
        self.ending: Ending | None = None
        self.started_at: float | None = None  # time.monotonic()
        self.taken = False  # the settler has it
        # By leases.clock(): a try to settle it may have worked, and nobody else has had it until then.
        self.unanswered_until = 0.0
        self._execution: ExecutionContext | None = None

    def __repr__(self) -> str:
        return f"<message {self.id} on {self.channel}, attempt {self.attempt}>"

    @property
    def id(self) -> UUID:
        """The id that ``send`` returned."""
        return self.claim.id

    @property
    def headers(self) -> Content:
        """What was sent beside the content: trace context, tenant, language."""
        return self.claim.headers

    @property
    def attempt(self) -> int:
        """1 in the first run. Runs that a dying process took with it are not counted."""
        return self.claim.attempt

    @property
    def losses(self) -> int:
        """How often a run ended with its process, or with nobody knowing how."""
        return self.claim.losses

    @property
    def key(self) -> str | None:
        return self.claim.key

    @property
    def lane(self) -> str | None:
        return self.claim.lane

    @property
    def priority(self) -> int:
        return self.claim.priority

    @property
    def sent_at(self) -> datetime:
        """When the layer accepted it; aware, or local time with ``USE_TZ = False``."""
        return from_timestamp(self.claim.sent_at or 0)

    @property
    def in_worker(self) -> bool:
        """Whether a worker runs it. In ``mailrail.testing.drain``, none does."""
        return self._stopping is not None

    @property
    def stopping(self) -> bool:
        """Whether the worker has been told to stop. Then a long run may end early, by ``raise Later(after=0)``."""
        return self._stopping is not None and self._stopping.is_set()

    # -- as a dictionary ----------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self.claim.content[name]

    def __contains__(self, name: object) -> bool:
        return name in self.claim.content

    def __iter__(self) -> Iterator[str]:
        return iter(self.claim.content)

    def __len__(self) -> int:
        return len(self.claim.content)

    def get(self, name: str, default: Any = None) -> Any:
        return self.claim.content.get(name, default)

    # -- what becomes of it -------------------------------------------------------------------------------------

    def finish(self, *, is_logged: bool = False) -> None:
        """Done, now: it will not run again, whatever happens to the rest of the batch.

        ``is_logged``: the consumer's own log has the outcome, so the worker logs it at DEBUG only.
        """
        self._settle(FINISHED_AND_LOGGED if is_logged else FINISHED)

    def retry(
        self, after: float | timedelta | None = None, why: str = "the consumer asked for a retry"
    ) -> None:
        """Again: ``after`` seconds, or after the route's backoff. After the last attempt, it is buried."""
        self._settle(self.failed(str(why), Retry(after=after).after))

    def release(
        self,
        after: float | timedelta = 0,
        why: str = "the consumer gave it back",
        *,
        is_logged: bool = False,
    ) -> None:
        """Give it back untouched, due again ``after`` seconds: this run was no attempt.

        ``is_logged``: as in ``finish``.
        """
        delay = Retry(after=after).after
        self._settle(
            Outcome(OutcomeKind.RELEASED, str(why), 0.0 if delay is None else delay, is_logged=is_logged)
        )

    def bury(self, why: str = "the consumer buried it", *, is_logged: bool = False) -> None:
        """Keep it among the dead, for a person to look at. ``is_logged``: as in ``finish``."""
        self._settle(Outcome(OutcomeKind.BURIED, str(why), is_logged=is_logged))

    def _settle(self, outcome: Outcome) -> None:
        if not self.decide(outcome):
            raise MailrailError(f"{self!r} is {self.outcome and self.outcome.kind} already.")

    def failed(
        self, error: str, after: float | None = None, *, alone: bool = False, timed_out: bool = False
    ) -> Outcome:
        """The outcome of a failed run: retried after that delay or the route's own, or buried after the last."""
        assert self._route is not None
        attempt = self.claim.attempt
        if attempt >= self._route.attempts_for(self.claim):
            return Outcome(OutcomeKind.BURIED, error, timed_out=timed_out)
        delay = _delay(self._route, attempt) if after is None else after
        return Outcome(OutcomeKind.RETRIED, error, delay, alone, timed_out=timed_out)

    def decide(self, outcome: Outcome) -> bool:
        """Set the outcome unless there is one. For the worker: time limits race with consumers."""
        return bool(decide_all((self,), outcome))


def _delay(route: Route, attempt: int) -> float:
    try:
        delay = Retry(after=route.delay_after(attempt)).after  # which refuses what is no number of seconds
        assert delay is not None
        return delay
    except Exception:
        logger.exception("backoff of %s raised; waiting %s s instead", route.name, settings.backoff)
        return settings.backoff


_deciding = threading.Lock()


def decide_all(messages: Sequence[IncomingMessage], outcome: Outcome) -> Sequence[IncomingMessage]:
    """Set the outcome of those messages of one run that have none yet, and tell so once. Return them."""
    with _deciding:
        undecided = [message for message in messages if message.outcome is None]
        for message in undecided:
            message.outcome = outcome
    if undecided and (on_outcome := undecided[0]._on_outcome) is not None:
        on_outcome(undecided)
    return undecided


def finish_all(messages: Sequence[IncomingMessage], *, is_logged: bool = False) -> None:
    """Finish those messages of one batch that are not settled yet, together: much cheaper than one by one.

    ``is_logged``: the consumer's own log has their outcomes, as in ``IncomingMessage.finish``.
    """
    decide_all(messages, FINISHED_AND_LOGGED if is_logged else FINISHED)


class ExecutionContext:
    """Describe one run of a consumer for one message, so that a later run for it does not send the same again."""

    def __init__(self, message: IncomingMessage) -> None:
        self.message = message
        self._ordinals: defaultdict[str, set[int]] = defaultdict(set)

    @property
    def key(self) -> str:
        """Return a name of the send that brought the message: the same in each of its runs.

        A message whose id comes from its content has the same id when it is sent anew, so the name has the time, too.
        """
        accepted = (self.message.claim.sent_at or 0.0) + advanced_by.get()
        return f"{self.message.id}:{round(accepted * 1000)}"

    def ordinals(self, digest: str) -> set[int]:
        """Return the numbers of the equal items that this run has sent so far; the caller adds to them."""
        return self._ordinals[digest]


current_message: ContextVar[IncomingMessage | None] = ContextVar("mailrail.run", default=None)
"""The message for which the calling code runs; ``None`` outside consumers and in batches of many messages."""


def current_execution() -> ExecutionContext | None:
    """Return the run that the calling code is part of; ``None`` outside consumers and in batches of many messages."""
    message = current_message.get()
    if message is None:
        return None
    if message._execution is None:
        message._execution = ExecutionContext(message)
    return message._execution
