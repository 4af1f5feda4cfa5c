"""What a consumer gets: the message, and the ways to say what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ..conf import settings
from ..errors import MailrailError, Retry
from ..messages import Content, Message
from ..moments import from_timestamp
from ..routes import Route
from .log import logger
from .outcomes import Outcome, OutcomeKind


class IncomingMessage:
    """A claimed message, as its consumer sees it. Reads like a dictionary of its content, too."""

    __slots__ = ("_claim", "_on_outcome", "_route", "outcome", "started_at", "taken")

    def __init__(
        self,
        claim: Message,
        route: Route | None = None,
        on_outcome: Callable[[IncomingMessage], None] | None = None,
    ) -> None:
        self._claim = claim
        self._route = route
        self._on_outcome = on_outcome  # told at once; None: its run tells when the run is over
        self.outcome: Outcome | None = None
        self.started_at: float | None = None  # time.monotonic()
        self.taken = False  # the settler has it

    def __repr__(self) -> str:
        return f"<message {self.id} on {self.channel}, attempt {self.attempt}>"

    @property
    def id(self) -> UUID:
        """The id that ``send`` returned."""
        return self._claim.id

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._claim.channel

    @property
    def content(self) -> Content:
        """What was sent."""
        return self._claim.content

    @property
    def headers(self) -> Content:
        """What was sent beside the content: trace context, tenant, language."""
        return self._claim.headers

    @property
    def attempt(self) -> int:
        """1 in the first run. Runs that a dying process took with it are not counted."""
        return self._claim.attempt

    @property
    def losses(self) -> int:
        """How often a run ended with its process, or with nobody knowing how."""
        return self._claim.losses

    @property
    def key(self) -> str | None:
        return self._claim.key

    @property
    def lane(self) -> str | None:
        return self._claim.lane

    @property
    def priority(self) -> int:
        return self._claim.priority

    @property
    def sent_at(self) -> datetime:
        """When the layer accepted it; aware, or local time with ``USE_TZ = False``."""
        return from_timestamp(self._claim.sent_at or 0)

    @property
    def claim(self) -> Message:
        """The claim behind it, for layers."""
        return self._claim

    # -- as a dictionary ----------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self._claim.content[name]

    def __contains__(self, name: object) -> bool:
        return name in self._claim.content

    def __iter__(self) -> Iterator[str]:
        return iter(self._claim.content)

    def __len__(self) -> int:
        return len(self._claim.content)

    def get(self, name: str, default: Any = None) -> Any:
        return self._claim.content.get(name, default)

    # -- what becomes of it -------------------------------------------------------------------------------------

    def finish(self, *, is_logged: bool = False) -> None:
        """Done, now: it will not run again, whatever happens to the rest of the batch.

        ``is_logged``: the consumer's own log has the outcome, so the worker logs it at DEBUG only.
        """
        self._settle(Outcome(OutcomeKind.FINISHED, is_logged=is_logged))

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

    def bury(self, why: str = "the consumer buried it") -> None:
        """Keep it among the dead, for a person to look at."""
        self._settle(Outcome(OutcomeKind.BURIED, str(why)))

    def _settle(self, outcome: Outcome) -> None:
        if not self.decide(outcome):
            raise MailrailError(f"{self!r} is {self.outcome and self.outcome.kind} already.")

    def failed(self, error: str, after: float | None = None, alone: bool = False) -> Outcome:
        """The outcome of a failed run: retried after that delay or the route's own, or buried after the last."""
        assert self._route is not None
        if self.attempt >= self._route.attempts_for(self._claim):
            return Outcome(OutcomeKind.BURIED, error)
        return Outcome(
            OutcomeKind.RETRIED, error, _delay(self._route, self.attempt) if after is None else after, alone
        )

    def decide(self, outcome: Outcome) -> bool:
        """Set the outcome unless there is one. For the worker: time limits race with consumers."""
        with _deciding:
            if self.outcome is not None:
                return False
            self.outcome = outcome
        if self._on_outcome is not None:
            self._on_outcome(self)
        return True


def _delay(route: Route, attempt: int) -> float:
    try:
        delay = Retry(after=route.delay_after(attempt)).after  # which refuses what is no number of seconds
        assert delay is not None
        return delay
    except Exception:
        logger.exception("backoff of %s raised; waiting %s s instead", route.name, settings.backoff)
        return settings.backoff


_deciding = threading.Lock()
