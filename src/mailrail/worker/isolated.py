"""Isolated runs: a message runs in a process of its own, which the supervisor starts and kills.

That is so where its route says ``isolate``, and where the message has cost a process before. This module has both ends
of the pipes: that of a worker, which asks, and that of the process that runs a claim. ``supervisor`` is between them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import UUID

from ..messages import Message
from .log import logger
from .outcomes import Outcome, OutcomeKind

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

NOT_STARTED_FOR_S = 1.0
"""Seconds until a message is due again for which no process of its own could be started."""

ClaimName: TypeAlias = tuple[UUID, int | None]


class RunEnd(StrEnum):
    """Say how the run of a claim in a process of its own has ended."""

    ENDED = "ended"  # the process has settled the claim
    DIED = "died"
    NOT_STARTED = "not started"
    LATE = "late"  # the process was killed at the time limit; with it come the limit's seconds
    KILLED = "killed"  # as somebody asked for; with it comes the reason


OnRunEnd: TypeAlias = Callable[[RunEnd, Any], None]

OUTCOMES = {
    RunEnd.ENDED: Outcome(OutcomeKind.ISOLATED),
    RunEnd.DIED: Outcome(OutcomeKind.LAPSED),
    RunEnd.NOT_STARTED: Outcome(OutcomeKind.RELEASED, "no process of its own was started", NOT_STARTED_FOR_S),
}


class Progress(StrEnum):
    """Say what the process of an isolated run has come to."""

    TAKEN = "taken"  # it has read the claim
    LIMITED = "limited"  # the consumer begins; with it come the seconds of its limit, if it has one
    ENDED = "ended"  # the claim is settled


@dataclass(frozen=True)
class Request:
    """Ask for a run in a process of its own. ``is_kept``: the process may have run others, and may run more."""

    claim: Message
    is_kept: bool


@dataclass(frozen=True)
class Kill:
    """Ask for the end of the process that runs a message."""

    id: UUID
    reason: str


class _Killer(Protocol):
    def kill(self, id: UUID, reason: str) -> bool: ...


_of_process: _Killer | None = None


def kill_run(id: UUID, reason: str) -> bool:
    """Kill the process that runs this message by ``isolate``, and discard the message for that reason.

    Call it in the worker process that has claimed the message, or in the process that runs it. Return whether there
    is such a run.
    """
    return _of_process is not None and _of_process.kill(id, reason)


def is_isolated_process() -> bool:
    """Tell whether this process has been started for isolated runs, so that ``kill_run`` can kill it."""
    return isinstance(_of_process, Assignments)


def claim_name(claim: Message) -> ClaimName:
    """What tells a claim from an earlier one of the same message, and from others of the same call."""
    return claim.id, claim.token


class IsolatedRuns:
    """The worker's end of the pipe to its supervisor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()  # several claim loops write, and a long message takes two steps
        self._waiting: dict[ClaimName, OnRunEnd] = {}

    def start(self, claim: Message, on_answer: OnRunEnd, is_kept: bool = False) -> None:
        """Have the supervisor run a claim in a process of its own; another thread reports how that went."""
        self._waiting[claim_name(claim)] = on_answer
        if not self._send(Request(claim, is_kept)):  # the supervisor is gone; the reading thread tells
            self._waiting.pop(claim_name(claim))(RunEnd.NOT_STARTED, None)

    def kill(self, id: UUID, reason: str) -> bool:
        """See ``kill_run``."""
        return any(id == name for name, _ in [*self._waiting]) and self._send(Kill(id, reason))

    def cancel_pending(self) -> None:
        """Ask the supervisor to return what it has not started."""
        self._send(None)

    def _send(self, request: Request | Kill | None) -> bool:
        try:
            with self._sending:
                self._connection.send(request)
        except OSError:
            return False
        return True

    def listen(self, on_end: Callable[[], None]) -> None:
        """Start to read answers; the supervisor's end is ours, too."""
        global _of_process
        _of_process = self
        threading.Thread(target=self._read, args=(on_end,), name="mailrail-link", daemon=True).start()

    def _read(self, on_end: Callable[[], None]) -> None:
        while True:
            try:
                name, answer, detail = self._connection.recv()
            except (EOFError, OSError):
                logger.error("the supervisor is gone; stopping")
                on_end()
                return
            self._waiting.pop(name)(answer, detail)


class _Stoppable(Protocol):
    def stop(self, timeout: float | None = None) -> None: ...


class Assignments:
    """The end of the pipe in a process of isolated runs: claims come, and what becomes of them goes back.

    ``first``: the claim that the process was started for.
    """

    def __init__(self, connection: Connection, first: Message) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._claims: SimpleQueue[Message | None] = SimpleQueue()
        self._claims.put(first)
        self._running: tuple[Message, _Stoppable] | None = None
        self._grace: list[float | None] = []  # of the first stop

    def next(self) -> Message | None:
        """Wait for the next claim to run; ``None``: the process is to end."""
        self._running = None
        return None if self._grace else self._claims.get()

    def run(self, claim: Message, worker: Any) -> None:
        """Run a claim by a worker made for it, and tell that it is settled."""
        self._running = (claim, worker)
        if self._grace:  # told to stop before ``stop`` could see the worker
            worker.stop(self._grace[0])
        worker.run()
        self._report(Progress.ENDED)

    def report_limit(self, seconds: float | None) -> None:
        """Tell that the consumer begins, and when the process is to be killed."""
        self._report(Progress.LIMITED, seconds)

    def kill(self, id: UUID, reason: str) -> bool:
        """See ``kill_run``."""
        if self._running is None or self._running[0].id != id:
            return False
        with self._sending:
            self._connection.send(Kill(id, reason))
        return True

    def stop(self, timeout: float | None = None) -> None:
        """End after the claim that runs now; give that back after ``timeout`` seconds."""
        self._grace.append(timeout)
        self._claims.put(None)
        if self._running is not None:
            self._running[1].stop(timeout)

    def listen(self) -> None:
        """Start to read claims; the supervisor's end is ours, too."""
        global _of_process
        _of_process = self
        threading.Thread(target=self._read, name="mailrail-link", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                claim = self._connection.recv()
            except (EOFError, OSError):
                logger.error("the supervisor is gone; stopping")
                self.stop()
                return
            self._report(Progress.TAKEN)
            self._claims.put(claim)

    def _report(self, progress: Progress, detail: float | None = None) -> None:
        with suppress(OSError), self._sending:  # the supervisor is gone; the reading thread stops
            self._connection.send((progress, detail))
