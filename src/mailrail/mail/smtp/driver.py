"""Send envelopes over many connections on one thread.

A connection's work is a generator of steps; here is the only place that waits, by ``select.poll``, for all of them
together. That makes commits in groups natural: ``before_data_end`` is asked once for all connections that have come to
their final dots at the same time.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from .connection import Connection
from .envelope import EnvelopeSource
from .errors import SmtpError
from .link import CHUNK_BYTES, CommitPoint, Link, Step

Work = Generator[Step, Any, Any]


class Transfer:
    """Hold one connection's work: the generator, its present step, and what the poll knows of it."""

    __slots__ = ("deadline", "fd", "progress", "result", "step", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.step: Step | None = None
        self.fd = -1
        self.deadline = float("inf")
        self.progress = 0
        self.result: Any = None


class Driver:
    """Run transfers to their end.

    ``executor`` runs the source's ``before_data_end``. By default it runs on this thread, and all connections stand
    still meanwhile, which costs little where a commit is quick. With an executor of one thread the others go on.
    Connections that come to their final dots meanwhile form the next group.
    """

    def __init__(
        self,
        source: EnvelopeSource | None = None,
        executor: Executor | None = None,
        is_shared: bool = False,
    ) -> None:
        """Begin with nothing to do. ``is_shared``: other threads may call ``wake``."""
        self._source = source
        self._executor = executor
        self._poll = select.poll()
        self._transfers: dict[int, Transfer] = {}  # those that wait for the network, by file descriptor
        self._asking: list[Transfer] = []  # those at their final dots
        self._group: list[Transfer] = []  # those that the executor is asked about
        self._asked: Future[Sequence[bool]] | None = None
        self._running: set[Transfer] = set()
        self.failure: BaseException | None = None
        self._wake_reader: socket.socket | None = (
            None  # readable when the executor has answered, or ``wake`` was called
        )
        self._wake_writer: socket.socket | None = None
        if executor is not None or is_shared:
            self._wake_reader, self._wake_writer = socket.socketpair()
            self._poll.register(self._wake_reader, select.POLLIN)

    def run(self, works: Sequence[Work]) -> list[Any]:
        """Run all, and return what each returned.

        Errors of ``before_data_end``, and unforeseen errors, are raised after all transfers have ended. An error on one
        connection must not make emails ambiguous whose final dots have left on others.
        """
        try:
            transfers = self.start(works)
            while self.is_busy:
                self.step()
        finally:
            self.close()
        if self.failure is not None:
            raise self.failure
        return [transfer.result for transfer in transfers]

    @property
    def is_busy(self) -> bool:
        return bool(self._transfers or self._asking or self._asked is not None)

    def start(self, works: Sequence[Work]) -> list[Transfer]:
        """Begin pieces of work. One that need not wait may end here."""
        transfers = [Transfer(work) for work in works]
        self._running.update(transfers)
        for transfer in transfers:
            self._advance(transfer)
        return transfers

    def step(self) -> None:
        """Ask for those that are at their final dots, and wait until something moves."""
        self._ask()
        self._wait()

    def wake(self) -> None:
        """End the wait of the thread in ``step``. Any thread may call it."""
        assert self._wake_writer is not None
        self._wake_writer.send(b"!")

    def close(self) -> None:
        """End what has not ended."""
        for transfer in self._running:
            transfer.work.close()
        if self._wake_reader is not None and self._wake_writer is not None:
            self._wake_reader.close()
            self._wake_writer.close()

    # -- one transfer -------------------------------------------------------------------------------------------

    def _advance(self, transfer: Transfer, error: Exception | None = None) -> None:
        """Advance a transfer as far as it goes without waiting."""
        events, work, step = 0, transfer.work, transfer.step
        try:
            while not events:
                if error is not None:
                    step, error = work.throw(error), None
                else:
                    step = work.send(None if step is None else step.result)
                transfer.step = step
                if isinstance(step, CommitPoint):
                    self._forget(transfer)
                    self._asking.append(transfer)
                    return
                events, error = self._attempt(step)
        except StopIteration as end:
            transfer.result = end.value
            self._running.discard(transfer)
            self._forget(transfer)
        except Exception as unforeseen:
            self._running.discard(transfer)
            self._forget(transfer)
            self.fail(unforeseen)
        except BaseException:
            self._forget(transfer)
            raise
        else:
            self._moved(transfer)
            self._await(transfer, events)

    @staticmethod
    def _attempt(step: Step) -> tuple[int, Exception | None]:
        try:
            return step.attempt(), None
        except Exception as error:
            return 0, error

    def _try_again(self, transfer: Transfer) -> None:
        assert transfer.step is not None
        events, error = self._attempt(transfer.step)
        if not events:
            self._advance(transfer, error)
            return
        if transfer.step.progress != transfer.progress:
            self._moved(transfer)
        self._await(transfer, events)

    @staticmethod
    def _moved(transfer: Transfer) -> None:
        assert transfer.step is not None
        transfer.progress, transfer.deadline = (
            transfer.step.progress,
            time.monotonic() + transfer.step.timeout,
        )

    # -- all of them ------------------------------------------------------------------------------------------------

    def _await(self, transfer: Transfer, events: int) -> None:
        assert transfer.step is not None
        fd = transfer.step.link.fileno()
        if fd != transfer.fd:
            self._forget(transfer)
            transfer.fd = fd
            self._transfers[fd] = transfer
        self._poll.register(fd, events)

    def _forget(self, transfer: Transfer) -> None:
        if transfer.fd >= 0 and self._transfers.get(transfer.fd) is transfer:
            self._poll.unregister(transfer.fd)
            del self._transfers[transfer.fd]
        transfer.fd = -1

    def _wait(self) -> None:
        """Wait until something moves or the first deadline has passed."""
        if self._asked is None and not self._transfers:
            return
        deadline = min([transfer.deadline for transfer in self._transfers.values()], default=float("inf"))
        left = deadline - time.monotonic()
        ready = self._poll.poll(None if left == float("inf") else max(0.0, left * 1000))
        for fd, _ in ready:
            if self._wake_reader is not None and fd == self._wake_reader.fileno():
                self._wake_reader.recv(CHUNK_BYTES)
                if self._asked is not None and self._asked.done():
                    self._answered()
            elif (transfer := self._transfers.get(fd)) is not None:
                self._try_again(transfer)
        if time.monotonic() >= deadline:
            self._end_overdue()

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for transfer in [transfer for transfer in self._transfers.values() if transfer.deadline <= now]:
            assert transfer.step is not None
            self._advance(transfer, transfer.step.too_late())

    # -- the commit point ---------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if not self._asking or self._asked is not None:
            return
        asking, self._asking = self._asking, []
        envelopes = [transfer.step.envelope for transfer in asking if isinstance(transfer.step, CommitPoint)]
        assert self._source is not None
        if self._executor is not None and self.failure is None:
            self._group = asking
            self._asked = self._executor.submit(self._source.before_data_end, envelopes)
            self._asked.add_done_callback(self._wake_up)
            return
        try:
            answers = (
                self._source.before_data_end(envelopes) if self.failure is None else [False] * len(asking)
            )
        except Exception as error:
            answers = self._no_answer(error, asking)
        self._answer(asking, answers)

    def _wake_up(self, _: Future[Sequence[bool]]) -> None:
        self.wake()

    def _answered(self) -> None:
        assert self._asked is not None
        group, asked, self._asked = self._group, self._asked, None
        try:
            answers = asked.result()
        except Exception as error:
            answers = self._no_answer(error, group)
        self._answer(group, answers)

    def _no_answer(self, error: Exception, group: Sequence[Transfer]) -> list[bool]:
        """Refuse the final dots of all."""
        self.fail(error)
        return [False] * len(group)

    def fail(self, error: Exception) -> None:
        """Keep the error, to be raised when the other transfers have ended."""
        self.failure = self.failure or error
        if self._source is not None:
            self._source.stop()

    def _answer(self, group: Sequence[Transfer], answers: Sequence[bool]) -> None:
        _note_quiet([transfer.step.link for transfer in group if transfer.step is not None])
        for transfer, granted in zip(group, answers, strict=True):
            assert isinstance(transfer.step, CommitPoint)
            transfer.step.result = bool(granted)
            self._advance(transfer)


def _note_quiet(links: Sequence[Link]) -> None:
    """Ask once for all of these whether their servers have said something, as each is about to send a content."""
    poll, by_fd = select.poll(), {link.fileno(): link for link in links}
    for fd, link in by_fd.items():
        poll.register(fd, select.POLLIN)
        link.is_quiet = not link.has_pending
    for fd, _ in poll.poll(0):
        by_fd[fd].is_quiet = False


def drive(work: Work) -> Any:
    """Run one piece of work that sends no envelope, and return its result."""
    [result] = drive_together([work])
    return result


def drive_together(works: Sequence[Work]) -> list[Any]:
    """Run several pieces of such work at once, and return their results."""
    return Driver().run(works)


def send_all(
    connections: Sequence[Connection], source: EnvelopeSource, executor: Executor | None = None
) -> list[SmtpError]:
    """Deliver what is in the source. Return why connections gave up; what they left is in the source.

    Whatever ``before_data_end`` raises refuses all final dots, ends the connections and is raised then.
    """
    used = connections[: len(source)]  # none is opened for nothing
    results = Driver(source, executor).run([connection.work(source) for connection in used])
    return [result for result in results if result is not None]
