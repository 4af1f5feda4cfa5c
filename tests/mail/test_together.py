"""Batches of one mailer that are sent at the same time: over the same connections, by one thread after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connections

from mailrail import mail
from mailrail.mail import Email, Status
from mailrail.mail.delivery import source, writer
from mailrail.mail.delivery.attempt import Attempt
from mailrail.mail.delivery.load import load_messages
from mailrail.mail.delivery.messages import ClaimedMessages
from mailrail.mail.delivery.source import EmailSource, commit_together
from mailrail.mail.delivery.together import BatchGroup
from mailrail.mail.delivery.writer import OutcomeWriter
from mailrail.mail.smtp import Connection, Envelope, SmtpServer, pool_of
from mailrail.mail.smtp.driver import Driver
from mailrail.testing import sent
from mailrail.worker import IncomingMessage

from ..processes import until
from ..smtp_server import ScriptedServer
from .conftest import MAILER, messages

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]


class Watched(EmailSource):
    """Call something before each commit, and note the thread that sends."""

    threads: list[threading.Thread]
    before_commit: Callable[[Sequence[Envelope]], None] = staticmethod(lambda envelopes: None)

    def prepare(self, envelopes: Sequence[Envelope]) -> list[Email]:
        self.before_commit(envelopes)
        if envelopes:
            self.threads.append(threading.current_thread())
        return super().prepare(envelopes)

    @property
    def ids(self) -> list[Any]:
        return [item[0].email.pk for item in self._waiting if isinstance(item, tuple)]


def batches(server: SmtpServer, count: int = 3) -> tuple[Watched, Watched]:
    """Two batches of so many emails each, as two threads of a worker have them."""
    mail.queue_many(messages(2 * count))
    claimed = [IncomingMessage(each, None, None) for each in sent("mailrail.mail")]
    emails = list(Email.objects.order_by("pk"))
    return _batch(claimed, emails[:count], server), _batch(claimed, emails[count:], server)


def _batch(claimed: Sequence[IncomingMessage], emails: Sequence[Email], server: SmtpServer) -> Watched:
    own = ClaimedMessages([it for it in claimed if it["id"] in {str(email.pk) for email in emails}])
    own.deduplicate()
    attempt = Attempt(MAILER, False, own, OutcomeWriter(own, "default"), "default")
    loaded = load_messages(emails, "default").loaded
    batch = Watched(loaded, attempt, server, lambda address, encoding: address)
    batch.threads = []
    return batch


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Two threads, as the worker's, which close their connections to the database in the end."""
    with ThreadPoolExecutor(2) as pool:
        yield pool
        both = threading.Barrier(2)  # else one of them may be quick enough to do it twice

        def close() -> None:
            both.wait(30)
            connections.close_all()

        for _ in range(2):
            pool.submit(close)


def test_a_batch_goes_on_over_the_connection_of_the_other_and_with_its_own_thread(
    queueing: Callable[..., None], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        only_one = SmtpServer("127.0.0.1", server.port, pool_size=1)
        first, second = batches(only_one)
        last, group = first.ids[-1], BatchGroup(only_one)
        sending: list[Future[Any]] = []
        committed_before: list[str] = []

        def join(envelopes: Sequence[Envelope]) -> None:
            if envelopes and not sending:
                sending.append(threads.submit(group.send, second, 1, None))
                until(lambda: second in group._members)

        first.before_commit = join

        def write(outcomes: Sequence[Any], *arguments: Any) -> Any:
            lost = writer.write_together(outcomes, *arguments)
            if second.outcomes in outcomes:
                committed_before.append(Email.objects.get(pk=last).status)
            return lost

        monkeypatch.setattr(source, "write_together", write)
        assert threads.submit(group.send, first, 1, None).result(20) == []
        [other] = sending
        assert other.result(20) == []
        commit_together([second])
        assert server.connections == 1 and group.is_closed
        assert [it.recipients[0] for it in server.mails] == [f"to{n}@example.com" for n in range(6)]
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT}
    assert len({*first.threads, *second.threads}) == 2 and second.threads[-1] not in first.threads
    # By the time of the second batch's first dot, the outcome of the email before it on the connection is committed.
    assert Status.QUEUED not in committed_before[-4:]
    assert committed_before[-3] == Status.SENT


def test_an_error_of_the_thread_that_sends_ends_all_batches_and_no_dot_leaves(
    queueing: Callable[..., None], threads: ThreadPoolExecutor
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        only_one = SmtpServer("127.0.0.1", server.port, pool_size=1)
        first, second = batches(only_one)
        group = BatchGroup(only_one)
        sending: list[Future[Any]] = []

        def fail(envelopes: Sequence[Envelope]) -> None:
            sending.append(threads.submit(group.send, second, 1, None))
            until(lambda: second in group._members)
            raise KeyError("nobody foresaw this")

        first.before_commit = fail
        with pytest.raises(KeyError, match="nobody foresaw"):
            threads.submit(group.send, first, 1, None).result(20)
        with pytest.raises(KeyError, match="nobody foresaw"):
            sending[0].result(20)
        assert not server.mails and group.is_closed
        assert group.send(first, 1, None) is None
    assert set(Email.objects.values_list("status", flat=True)) == {Status.QUEUED}


def test_a_batch_joins_no_group_that_has_failed(
    queueing: Callable[..., None], threads: ThreadPoolExecutor
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        only_one = SmtpServer("127.0.0.1", server.port, pool_size=1)
        first, second = batches(only_one)
        group, answers = BatchGroup(only_one), []
        usual = first.ended

        def ended(envelope: Envelope, outcome: Any) -> None:
            answers.append(threads.submit(group.send, second, 1, None).result(20))
            usual(envelope, outcome)

        def fail(envelopes: Sequence[Envelope]) -> None:
            raise KeyError("nobody foresaw this")

        first.before_commit = fail
        first.ended = ended  # type: ignore[method-assign]
        with pytest.raises(KeyError, match="nobody foresaw"):
            threads.submit(group.send, first, 1, None).result(20)
    assert answers == [None] and second.ids


def test_a_batch_that_joins_as_the_group_runs_dry_is_sent(
    queueing: Callable[..., None], threads: ThreadPoolExecutor
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        only_one = SmtpServer("127.0.0.1", server.port, pool_size=1)
        first, second = batches(only_one)
        group = BatchGroup(only_one)
        sending: list[Future[Any]] = []

        class RunningDry(Driver):
            @property
            def is_busy(self) -> bool:
                busy = bool(super().is_busy)
                if not busy and not sending:
                    sending.append(threads.submit(group.send, second, 1, None))
                    until(lambda: second in group._members)
                return busy

        group._driver.close()
        group._driver = RunningDry(group, is_shared=True)
        first._under_way = 1  # as if an email had not ended: the group, not the batch, is over
        threads.submit(group.send, first, 1, None).result(20)
        assert sending[0].result(20) == [] and not second.ids
        assert len(server.mails) == 6


@pytest.mark.parametrize("is_down", [False, True])
def test_no_connection_goes_back_before_all_its_outcomes_are_committed(
    queueing: Callable[..., None],
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    is_down: bool,
) -> None:
    """Else a crash could leave two ambiguous emails for one connection."""
    with ScriptedServer() as server:
        queueing(server.port)
        only_one = SmtpServer("127.0.0.1", server.port, pool_size=1)
        first, _ = batches(only_one)
        pool, at_return = pool_of(only_one), list[tuple[bool, set[str]]]()
        usual = pool.give_back

        def give_back(connection: Connection) -> None:
            statuses = set(Email.objects.exclude(status=Status.QUEUED).values_list("status", flat=True))
            at_return.append((connection.is_open, statuses))
            usual(connection)

        def fail(envelopes: Sequence[Envelope]) -> None:
            if not envelopes and is_down:
                raise OperationalError("the database is away")

        first.before_commit = fail
        monkeypatch.setattr(pool, "give_back", give_back)
        group = BatchGroup(only_one)
        assert threads.submit(group.send, first, 1, None).result(20) == []
        first.before_commit = lambda envelopes: None
        threads.submit(commit_together, [first]).result(20)
        assert at_return == [(False, {Status.SENT, Status.SENDING}) if is_down else (True, {Status.SENT})]
    assert Email.objects.filter(status=Status.SENT).count() == 3


def test_a_group_ends_while_others_wait_for_its_connections(
    queueing: Callable[..., None], threads: ThreadPoolExecutor
) -> None:
    """Other mailers of the same server and login, however much email of this one there is."""
    with ScriptedServer() as server:
        queueing(server.port)
        only_one = SmtpServer("127.0.0.1", server.port, pool_size=1)
        first, second = batches(only_one)
        pool, group = pool_of(only_one), BatchGroup(only_one)
        waiting: list[Future[Any]] = []
        answers = []

        def join(envelopes: Sequence[Envelope]) -> None:
            if envelopes and not waiting:
                waiting.append(threads.submit(pool.take))
                until(lambda: pool.has_waiting)
                answers.append(group.send(second, 1, None))

        first.before_commit = join
        threads.submit(group.send, first, 1, None).result(20)
        pool.give_back(waiting[0].result(20))
        assert answers == [None] and len(server.mails) == 3 and len(second.ids) == 3
