"""Isolated runs: a message that has cost a process before runs in a process of its own, which the supervisor starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from ..messages import Message
from .log import logger
from .outcomes import Outcome, OutcomeKind

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

NOT_STARTED_FOR_S = 1.0
"""Seconds until a message is due again for which no process of its own could be started."""

ClaimName: TypeAlias = tuple[UUID, int | None]
OnOutcome: TypeAlias = Callable[[Outcome], None]

OUTCOMES = {
    True: Outcome(OutcomeKind.ISOLATED),
    False: Outcome(OutcomeKind.LAPSED),
    None: Outcome(OutcomeKind.RELEASED, "no process of its own was started", NOT_STARTED_FOR_S),
}
"""Outcomes by the supervisor's answer: the process ended well, it died, or none was started."""


def claim_name(claim: Message) -> ClaimName:
    """What tells a claim from an earlier one of the same message, and from others of the same call."""
    return claim.id, claim.token


class IsolatedRuns:
    """The worker's end of the pipe to its supervisor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()  # several claim loops write, and a long message takes two steps
        self._waiting: dict[ClaimName, OnOutcome] = {}

    def start(self, claim: Message, on_outcome: OnOutcome) -> None:
        """Have the supervisor run a claim in a process of its own; another thread reports how that went."""
        self._waiting[claim_name(claim)] = on_outcome
        try:
            with self._sending:
                self._connection.send(claim)
        except OSError:  # the supervisor is gone; the reading thread tells
            self._waiting.pop(claim_name(claim))(OUTCOMES[None])

    def cancel_pending(self) -> None:
        """Ask the supervisor to return what it has not started."""
        with suppress(OSError), self._sending:  # it is gone; the reading thread tells
            self._connection.send(None)

    def listen(self, on_end: Callable[[], None]) -> None:
        """Start to read answers; the supervisor's end is ours, too."""
        threading.Thread(target=self._read, args=(on_end,), name="mailrail-link", daemon=True).start()

    def _read(self, on_end: Callable[[], None]) -> None:
        while True:
            try:
                name, well = self._connection.recv()
            except (EOFError, OSError):
                logger.error("the supervisor is gone; stopping")
                on_end()
                return
            self._waiting.pop(name)(OUTCOMES[well])
