"""Send envelopes over many connections on one thread.

What is done on a connection is a generator; here is the only place that waits, by ``select.poll``, for all of them
together. That makes commits in groups natural: ``before_data_end`` is asked once for all connections that have come to
their final dots at the same time.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .connection import Connection
from .envelope import Envelope, EnvelopeSource
from .errors import SmtpError, TimedOut
from .link import CHUNK_BYTES, IN, OUT, Link, Work


class Transfer:
    """Hold one piece of work, and what it waits for. ``ended``: what is told of its result."""

    __slots__ = ("deadline", "ended", "events", "fd", "link", "work")

    def __init__(self, work: Work[Any], ended: Callable[[Any], object]) -> None:
        self.work = work
        self.ended = ended
        self.link: Link | None = None  # that it has waited for
        self.fd, self.events = -1, 0  # as the poll knows them
        self.deadline = float("inf")


class Driver:
    """Run transfers to their end. All stand still while ``before_data_end`` is asked."""

    def __init__(self, source: EnvelopeSource | None = None, is_shared: bool = False) -> None:
        """Begin with nothing to do. ``is_shared``: other threads may call ``wake``."""
        self._source = source
        self._poll = select.poll()
        self._running: set[Transfer] = set()
        self._polled: dict[int, Transfer] = {}  # by file descriptor
        self._asking: list[tuple[Transfer, Envelope]] = []  # those at their final dots
        self.failure: BaseException | None = None
        self._wake_reader: socket.socket | None = None  # readable when ``wake`` was called
        self._wake_writer: socket.socket | None = None
        if is_shared:
            self._wake_reader, self._wake_writer = socket.socketpair()
            self._poll.register(self._wake_reader, IN)

    def run(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Run all, and return what each returned.

        Errors of ``before_data_end``, and unforeseen errors, are raised after all transfers have ended. An error on one
        connection must not make emails ambiguous whose final dots have left on others.
        """
        results: list[Any] = [None] * len(works)
        try:
            for number, work in enumerate(works):
                self.start(work, partial(results.__setitem__, number))
            while self.is_busy:
                self.step()
        finally:
            self.close()
        if self.failure is not None:
            raise self.failure
        return results

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def start(self, work: Work[Any], ended: Callable[[Any], object]) -> None:
        """Begin a piece of work. One that need not wait may end here. Its result is handed to ``ended``."""
        transfer = Transfer(work, ended)
        self._running.add(transfer)
        self._advance(transfer)

    def step(self) -> None:
        """Ask for those that are at their final dots, and wait until something moves on the others."""
        while self._asking:
            self._ask()
        if not self._running:
            return
        deadline = min([transfer.deadline for transfer in self._running])
        left = deadline - time.monotonic()
        for fd, _ in self._poll.poll(None if left == float("inf") else max(0.0, left * 1000)):
            if (transfer := self._polled.get(fd)) is not None:
                self._advance(transfer)
            elif self._wake_reader is not None and fd == self._wake_reader.fileno():
                self._wake_reader.recv(CHUNK_BYTES)
        if time.monotonic() >= deadline:
            self._end_overdue()

    def wake(self) -> None:
        """End the wait of the thread in ``step``. Any thread may call it."""
        assert self._wake_writer is not None
        self._wake_writer.send(b"!")

    def fail(self, error: Exception) -> None:
        """Keep the error, to be raised when the other transfers have ended."""
        self.failure = self.failure or error
        if self._source is not None:
            self._source.stop()

    def close(self) -> None:
        """End what has not ended."""
        for transfer in self._running:
            transfer.work.close()
        if self._wake_reader is not None and self._wake_writer is not None:
            self._wake_reader.close()
            self._wake_writer.close()

    # -- one transfer -------------------------------------------------------------------------------------------------

    def _advance(
        self, transfer: Transfer, answer: bool | None = None, error: SmtpError | None = None
    ) -> None:
        """Go on with a transfer until it waits again. ``answer``: may its final dot leave?"""
        try:
            step = transfer.work.send(answer) if error is None else transfer.work.throw(error)
        except StopIteration as end:
            self._remove(transfer)
            transfer.ended(end.value)
        except Exception as unforeseen:
            self._remove(transfer)
            self.fail(unforeseen)
        except BaseException:
            self._remove(transfer)
            raise
        else:
            if isinstance(step, Envelope):
                transfer.deadline = float("inf")
                self._asking.append((transfer, step))
                return
            assert step.socket is not None
            transfer.link, transfer.deadline = step, step.deadline
            if transfer.events != step.events or transfer.fd != step.socket.fileno():
                self._register(transfer, step.socket.fileno(), step.events)

    def _register(self, transfer: Transfer, fd: int = -1, events: int = 0) -> None:
        """Let the poll wait for these events until the transfer waits for others; for nothing more, if it has ended."""
        if fd != transfer.fd and self._polled.get(transfer.fd) is transfer:  # its socket may be closed by now
            del self._polled[transfer.fd]
            self._poll.unregister(transfer.fd)
        transfer.fd, transfer.events = fd, events
        if fd >= 0:
            self._polled[fd] = transfer
            self._poll.register(fd, events)

    def _remove(self, transfer: Transfer) -> None:
        self._running.discard(transfer)
        self._register(transfer)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for transfer in [transfer for transfer in self._running if transfer.deadline <= now]:
            assert transfer.link is not None
            stage, timeout = transfer.link.stage, transfer.link.timeout
            self._advance(transfer, error=TimedOut(f"No answer within {timeout:g} s ({stage})", stage))

    # -- the commit point ---------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask once for all that are at their final dots whether these may leave."""
        asking, self._asking = self._asking, []
        answers: Sequence[bool] = [False] * len(asking)
        if self.failure is None:
            assert self._source is not None
            try:
                answers = self._source.before_data_end([envelope for _, envelope in asking])
            except Exception as error:
                self.fail(error)
        self._note_quiet([transfer for transfer, _ in asking])
        for (transfer, _), is_granted in zip(asking, answers, strict=True):
            self._advance(transfer, bool(is_granted))

    def _note_quiet(self, transfers: Sequence[Transfer]) -> None:
        """Ask once for all of these whether their servers have said something, as each is about to send a content."""
        heard = {fd for fd, events in self._poll.poll(0) if events & ~OUT}
        for transfer in transfers:
            if (link := transfer.link) is not None and transfer.events & IN:
                link.is_quiet = transfer.fd not in heard and not (link.tls and link.tls.pending())


def drive(work: Work[Any]) -> Any:
    """Run one piece of work that sends no envelope, and return its result."""
    [result] = drive_together([work])
    return result


def drive_together(works: Sequence[Work[Any]]) -> list[Any]:
    """Run several pieces of such work at once, and return their results."""
    return Driver().run(works)


def send_all(connections: Sequence[Connection], source: EnvelopeSource) -> list[SmtpError]:
    """Deliver what is in the source. Return why connections gave up; what they left is in the source.

    Whatever ``before_data_end`` raises refuses all final dots, ends the connections and is raised then.
    """
    used = connections[: len(source)]  # none is opened for nothing
    results = Driver(source).run([connection.work(source) for connection in used])
    return [result for result in results if result is not None]
