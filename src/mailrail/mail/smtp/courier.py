"""Carries envelopes over many connections in one thread.

A connection's work is a generator of steps; here is the only place that waits, by ``select.poll``, for all of them
together. That makes commits in groups natural: connections that have come to their final dots at the same time are
permitted together.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from .connection import Connection
from .envelope import Envelope, Mailbag
from .errors import SmtpError
from .link import Permit, Step

Work = Generator[Step, Any, Any]


class _Bag:
    """A mailbag that can be shut: what is in it stays there."""

    def __init__(self, mailbag: Mailbag) -> None:
        self._mailbag = mailbag
        self.permit = mailbag.permit
        self.ended = mailbag.ended
        self.shut = False

    def __len__(self) -> int:
        return 0 if self.shut else len(self._mailbag)

    def next(self) -> Envelope | None:
        return None if self.shut else self._mailbag.next()


class _Line:
    """One generator, the step it stands at, and what the poll knows of it."""

    __slots__ = ("deadline", "fd", "progress", "result", "step", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.step: Step | None = None
        self.fd = -1
        self.deadline = float("inf")
        self.progress = 0
        self.result: Any = None


class Courier:
    """Drives work to its end.

    ``permits``: where ``permit`` of the mailbag runs. By default it runs on this thread, and all connections stand
    still meanwhile, which costs little where a commit is quick. With an executor of one thread the others go on.
    Connections that come to their final dots meanwhile form the next group.
    """

    def __init__(self, mailbag: _Bag | None = None, permits: Executor | None = None) -> None:
        self._mailbag = mailbag
        self._permits = permits
        self._poll = select.poll()
        self._lines: dict[int, _Line] = {}  # those that wait for the network, by file descriptor
        self._asking: list[_Line] = []  # those that wait for leave
        self._group: list[_Line] = []  # those that have been asked for
        self._asked: Future[Sequence[bool]] | None = None
        self._failure: BaseException | None = None
        self._bell: socket.socket | None = None  # rings when an executor has answered
        self._ring: socket.socket | None = None
        if permits is not None:
            self._bell, self._ring = socket.socketpair()

    def run(self, works: Sequence[Work]) -> list[Any]:
        """Returns what each returned.

        Errors of ``permit``, and unforeseen errors, are raised after all transfers have ended. An error on one
        connection must not make emails ambiguous whose final dots have left on others.
        """
        lines = [_Line(work) for work in works]
        try:
            for line in lines:
                self._advance(line)
            while self._lines or self._asking or self._asked is not None:
                self._ask()
                self._wait()
        finally:
            for line in lines:
                line.work.close()
            if self._bell is not None and self._ring is not None:
                self._bell.close()
                self._ring.close()
        if self._failure is not None:
            raise self._failure
        return [line.result for line in lines]

    # -- one line ---------------------------------------------------------------------------------------------------

    def _advance(self, line: _Line, error: Exception | None = None) -> None:
        """As far as it goes without waiting."""
        events = 0
        try:
            while not events:
                if error is not None:
                    line.step, error = line.work.throw(error), None
                elif line.step is None:
                    line.step = next(line.work)
                else:
                    line.step = line.work.send(line.step.result)
                if isinstance(line.step, Permit):
                    self._forget(line)
                    self._asking.append(line)
                    return
                events, error = self._attempt(line.step)
        except StopIteration as end:
            line.result = end.value
            self._forget(line)
        except Exception as unforeseen:
            self._forget(line)
            self._fail(unforeseen)
        except BaseException:
            self._forget(line)
            raise
        else:
            self._moved(line)
            self._await(line, events)

    @staticmethod
    def _attempt(step: Step) -> tuple[int, Exception | None]:
        try:
            return step.attempt(), None
        except Exception as error:
            return 0, error

    def _try_again(self, line: _Line) -> None:
        assert line.step is not None
        events, error = self._attempt(line.step)
        if not events:
            self._advance(line, error)
            return
        if line.step.progress != line.progress:
            self._moved(line)
        self._await(line, events)

    @staticmethod
    def _moved(line: _Line) -> None:
        assert line.step is not None
        line.progress, line.deadline = line.step.progress, time.monotonic() + line.step.timeout

    # -- all of them ------------------------------------------------------------------------------------------------

    def _await(self, line: _Line, events: int) -> None:
        assert line.step is not None
        fd = line.step.link.fileno()
        if fd != line.fd:
            self._forget(line)
            line.fd = fd
            self._lines[fd] = line
        self._poll.register(fd, events)

    def _forget(self, line: _Line) -> None:
        if line.fd >= 0 and self._lines.get(line.fd) is line:
            self._poll.unregister(line.fd)
            del self._lines[line.fd]
        line.fd = -1

    def _wait(self) -> None:
        """Until something moves or the first deadline has passed."""
        if self._asked is None and not self._lines:
            return
        if self._bell is not None and self._asked is not None:
            self._poll.register(self._bell, select.POLLIN)
        deadline = min((line.deadline for line in self._lines.values()), default=float("inf"))
        left = deadline - time.monotonic()
        ready = self._poll.poll(None if left == float("inf") else max(0.0, left * 1000))
        if self._bell is not None and self._asked is not None and self._asked.done():
            self._bell.recv(1)
            self._answered()
        for fd, _ in ready:
            if (line := self._lines.get(fd)) is not None:
                self._try_again(line)
        if time.monotonic() >= deadline:
            self._end_overdue()

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for line in [line for line in self._lines.values() if line.deadline <= now]:
            assert line.step is not None
            self._advance(line, line.step.too_late())

    # -- leave for the final dots -----------------------------------------------------------------------------------

    def _ask(self) -> None:
        if not self._asking or self._asked is not None:
            return
        asking, self._asking = self._asking, []
        envelopes = [line.step.envelope for line in asking if isinstance(line.step, Permit)]
        assert self._mailbag is not None
        if self._permits is not None and not self._mailbag.shut:
            self._group = asking
            self._asked = self._permits.submit(self._mailbag.permit, envelopes)
            self._asked.add_done_callback(self._ring_bell)
            return
        try:
            answers = [False] * len(asking) if self._mailbag.shut else self._mailbag.permit(envelopes)
        except Exception as error:
            answers = self._no_answer(error, asking)
        self._tell(asking, answers)

    def _ring_bell(self, _: Future[Sequence[bool]]) -> None:
        assert self._ring is not None
        self._ring.send(b"!")

    def _answered(self) -> None:
        assert self._asked is not None
        group, asked, self._asked = self._group, self._asked, None
        try:
            answers = asked.result()
        except Exception as error:
            answers = self._no_answer(error, group)
        self._tell(group, answers)

    def _no_answer(self, error: Exception, group: Sequence[_Line]) -> list[bool]:
        """Is a no."""
        self._fail(error)
        return [False] * len(group)

    def _fail(self, error: Exception) -> None:
        """The others are brought to an end before it is raised."""
        self._failure = self._failure or error
        if self._mailbag is not None:
            self._mailbag.shut = True

    def _tell(self, group: Sequence[_Line], answers: Sequence[bool]) -> None:
        for line, granted in zip(group, answers, strict=True):
            assert isinstance(line.step, Permit)
            line.step.granted = bool(granted)
            self._advance(line)


def drive(work: Work) -> Any:
    """One piece of work that needs nobody's leave, to its end."""
    [result] = drive_together([work])
    return result


def drive_together(works: Sequence[Work]) -> list[Any]:
    """Several, all at once."""
    return Courier().run(works)


def carry(
    connections: Sequence[Connection], mailbag: Mailbag, permits: Executor | None = None
) -> list[SmtpError]:
    """Deliver what is in the mailbag. Returns why connections gave up; what they left is in the mailbag.

    Whatever ``permit`` raises counts as a no to all, ends the connections and is raised then.
    """
    bag = _Bag(mailbag)
    used = connections[: len(mailbag)]  # none is opened for nothing
    results = Courier(bag, permits).run([connection.work(bag) for connection in used])
    return [result for result in results if result is not None]
