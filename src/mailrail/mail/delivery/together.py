"""Batches of one mailer that a process sends at the same time go over the same connections.

One thread sends for all of them: the first one; when its own batch is over, that of another. So a connection that has
no email left of one batch goes on with the next batch, and outcomes of several batches share a commit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial

from ..mailers.logins import Login
from ..smtp import Connection, DeliveryOutcome, Envelope, SmtpError, SmtpServer, close_all, drive, pool_of
from ..smtp.driver import Driver
from ..smtp.errors import PoolExhausted
from .source import EmailSource, commit_together


class BatchGroup:
    """Send several batches at once: an ``EnvelopeSource`` that takes from each, the first one first.

    Whatever breaks the driver ends the group, and is raised for each of its batches. A group whose server others
    want to use takes no further batch: its connections are free once its own batches are over.
    """

    def __init__(self, server: SmtpServer, keep_open: bool = True) -> None:
        self._server = server
        self._keep_open = keep_open
        self._changed = threading.Condition()
        self._members: dict[EmailSource, int] = {}  # and how many connections each is worth
        self._errors: dict[EmailSource, list[SmtpError]] = {}  # why connections failed while it was a member
        self._leader: EmailSource | None = None
        self._has_news = False
        self._is_closed = False  # for good
        self._driver = Driver(self, is_shared=True)
        self._connections: list[Connection] = []
        self._idle: list[Connection] = []
        self._is_written = True  # all that has ended on the connections
        self._failure: BaseException | None = None
        self._broken: list[EmailSource] = []  # by that failure

    @property
    def is_closed(self) -> bool:
        """Tell whether no batch can join any more: it is over, has failed, or others wait for its connections."""
        if self._is_closed:
            return True
        return bool(self._connections) and pool_of(self._server).has_waiting

    # -- any thread -------------------------------------------------------------------------------------------------

    def send(self, batch: EmailSource, connections: int, login: Login | None) -> list[SmtpError] | None:
        """Send a batch, with others or alone. Return why connections failed; ``None``: the group has ended before.

        Raise ``PoolExhausted`` if no connection is free, and whatever has ended the driver.
        """
        with self._changed:
            if self.is_closed:
                return None
            errors = self._errors[batch] = []
            self._members[batch] = connections
            self._has_news = True
            if self._leader is None:
                self._leader = batch
            else:
                self._driver.wake()
            self._changed.wait_for(lambda: self._leader is batch or batch not in self._members)
        if batch in self._members:
            self._lead(batch, login)
        if batch in self._broken and self._failure is not None:
            raise self._failure
        return errors

    def _lead(self, batch: EmailSource, login: Login | None) -> None:
        """Send for all, until this batch is over; then let another thread go on."""
        try:
            while batch in self._members:
                if self._has_news:
                    self._take_on(login)
                if self._driver.is_busy:
                    self._driver.step()
                    self._finish([member for member in [*self._members] if member.is_over])
                else:  # all is sent, or no connection works
                    self._end_if_idle()
        except BaseException as error:
            self._end(error)
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._changed:
            self._leader = next(iter(self._members), None)
            self._changed.notify_all()
        if self._leader is None:
            self._driver.close()
            if not (self._keep_open and self._is_written):
                close_all(self._connections)
            for connection in self._connections:
                pool_of(self._server).give_back(connection)

    # -- the thread that sends --------------------------------------------------------------------------------------

    def _take_on(self, login: Login | None) -> None:
        """Put as many connections to work as the batches are worth, those that have failed among them."""
        with self._changed:
            self._has_news = False
            wanted = min(self._server.pool_size, sum(self._members.values()))
        pool = pool_of(self._server)
        while len(self._connections) < wanted:
            try:
                connection = pool.take(timeout=0 if self._connections else None)
            except PoolExhausted:
                if not self._connections:
                    raise
                break  # others have them
            self._connections.append(connection)
            self._idle.append(connection)
        if self._may_log_in(login):
            starting, self._idle = self._idle[: len(self)], self._idle[len(self) :]
            for connection in starting:
                self._driver.start(connection.work(self), partial(self._rest, connection))

    def _may_log_in(self, login: Login | None) -> bool:
        """Log in over one connection before the others are opened, and tell whether that worked."""
        if login is None or not login.key or any(connection.is_open for connection in self._connections):
            return True
        try:
            drive(self._connections[0].open())
        except SmtpError as error:
            self._note(error)
            return False
        login.accepted()
        return True

    def _rest(self, connection: Connection, error: SmtpError | None) -> None:
        """Let a connection wait for the next batch. ``error``: why it gave up."""
        if error is not None:
            self._note(error)
        self._idle.append(connection)

    def _note(self, error: SmtpError) -> None:
        for errors in [*self._errors.values()]:
            errors.append(error)

    def _finish(self, over: Sequence[EmailSource]) -> None:
        """Write down the last outcomes of batches that are over, and let their threads go.

        A connection may already have the next email of another batch: its dot waits for these outcomes. Where there is
        no other batch, the thread of each writes its outcomes if that fails here: it has more patience.
        No connection is used again then: after a crash, two emails of it would be ambiguous.
        """
        if not over:
            return
        error: Exception | None = None
        try:
            commit_together(over)
        except Exception as failure:
            error = failure
        with self._changed:
            if error is not None and len(over) < len(self._members):
                self._driver.fail(error)
                return
            for batch in over:
                del self._members[batch], self._errors[batch]
            self._is_closed = self._is_closed or not self._members
            self._is_written = self._is_written and error is None
            self._changed.notify_all()

    def _end_if_idle(self) -> None:
        """End the group, unless a batch has joined since the last look."""
        with self._changed:
            if not self._has_news:
                self._end(self._driver.failure)

    def _end(self, failure: BaseException | None) -> None:
        """Let the threads of all batches go, and raise there what has ended the driver."""
        with self._changed:
            members = [*self._members]
            self._failure = failure
            self._broken = members if failure is not None else []
            self._is_closed = True
            self._finish(members)

    # -- what the driver asks for -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return 0 if self._is_closed else sum(map(len, [*self._members]))

    def next(self) -> Envelope | None:
        for batch in () if self._is_closed else [*self._members]:
            if (envelope := batch.next()) is not None:
                return envelope
        return None

    def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
        return commit_together([*self._members], envelopes)

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        envelope.ref.source.ended(envelope, outcome)

    def stop(self) -> None:
        self._is_closed = True


_groups: dict[tuple[str, SmtpServer, str], BatchGroup] = {}
_lock = threading.Lock()


def send_together(
    batch: EmailSource, key: tuple[str, SmtpServer, str], connections: int, login: Login | None
) -> list[SmtpError]:
    """Send a batch with those of the same ``key`` that this process sends just now. Return why connections failed."""
    while True:
        with _lock:
            group = _groups.get(key)
            if group is None:
                group = _groups[key] = BatchGroup(key[1])
        try:
            errors = group.send(batch, connections, login)
        finally:
            with _lock:
                if group.is_closed and _groups.get(key) is group:
                    del _groups[key]
        if errors is not None:
            return errors


def send_alone(
    batch: EmailSource, server: SmtpServer, connections: int, login: Login | None, keep_open: bool
) -> list[SmtpError]:
    """Send a batch over connections of its own. Return why they failed."""
    return BatchGroup(server, keep_open).send(batch, connections, login) or []


def _forget() -> None:
    """Forget, in a forked child, what its parent's threads send."""
    global _lock
    _lock = threading.Lock()
    _groups.clear()


os.register_at_fork(after_in_child=_forget)
