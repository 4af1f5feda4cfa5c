"""Emails to more recipients than their server takes in one transaction (RFC 5321 4.5.3.1.10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend as DjangosBackend
from django.utils import timezone

from mailrail.errors import LayerUnavailable
from mailrail.mail import cancel, queue
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers.throttle import Admission
from mailrail.mail.mailers.waiting import Permission
from mailrail.mail.models import Email, Status
from mailrail.mail.smtp import EmailBackend, transactions
from mailrail.moments import after, seconds_between
from mailrail.testing import advance, drain

from ..smtp_server import EXTENSIONS, Fault, ScriptedServer

pytestmark = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]


class Subclass(DjangosBackend):
    """Of a project: called as it is."""


class OurSubclass(EmailBackend):
    """The same of ours."""


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    transactions.forget()
    yield
    transactions.forget()


def to_many(count: int, *others: str) -> EmailMessage:
    bcc = [f"to{n}@example.com" for n in range(count - 1 - len(others))]
    return EmailMessage("Hello", "A body.\n", "me@example.com", ["first@example.com"], bcc=[*bcc, *others])


def deliver() -> Email:
    drain("mailrail.mail")
    return Email.objects.latest("created_at")


def arrived(server: ScriptedServer) -> Counter[str]:
    return Counter(recipient for mail in server.mails for recipient in mail.recipients)


def sizes(server: ScriptedServer) -> list[int]:
    return [len(mail.recipients) for mail in server.mails]


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one by one"])
@pytest.mark.parametrize(
    ("full", "is_learnt"),
    [
        ("452 4.5.3 Too many recipients", True),
        ("452 too many recipients", True),  # Exim, qmail
        ("552 Too many recipients", True),  # before RFC 5321
        ("452 Come again", False),
    ],
)
def test_the_rest_follows_at_once_on_the_same_connection(
    queueing: Configure, full: str, is_learnt: bool, pipelining: bool
) -> None:
    with ScriptedServer(room=10, full=full, pipelining=pipelining) as server:
        queueing(server.port)
        queue(to_many(25))
        email = deliver()
        assert (sizes(server), server.connections) == ([10, 10, 5], 1)
        assert arrived(server).total() == len(arrived(server)) == 25
        assert (email.status, email.attempts, email.next_try_at) == (Status.SENT, 1, None)
        assert {each["status"] for each in email.recipients} == {"sent"}
        assert not any("under_way" in each or "ambiguous" in each for each in email.recipients)
        before = server.turned_away
        queue(to_many(15))
        assert deliver().status == Status.SENT
        assert (server.turned_away == before) is is_learnt
        assert sizes(server)[3:] == [10, 5]


@pytest.mark.parametrize("count", [1000, 5000])
def test_thousands_get_it_once_each(queueing: Configure, count: int) -> None:
    with ScriptedServer(room=count // 5) as server:
        queueing(server.port)
        queue(to_many(count))
        email = deliver()
        assert sizes(server) == [count // 5] * 5
        assert set(arrived(server).values()) == {1} and len(arrived(server)) == count
    assert (email.status, email.attempts) == (Status.SENT, 1)


def test_a_server_that_closes_behind_too_many_errors_is_offered_fewer(queueing: Configure) -> None:
    """Postfix: smtpd_recipient_overshoot_limit, smtpd_hard_error_limit. It would close at every attempt."""
    with ScriptedServer(room=50, overshoot=20) as server:
        queueing(server.port)
        queue(to_many(120))
        email = deliver()
        assert sizes(server) == [50, 50, 20] and set(arrived(server).values()) == {1}
    assert (email.status, email.attempts) == (Status.SENT, 1)


@pytest.mark.parametrize(
    ("faults", "room", "expected"),
    [
        ([Fault("DATA", "503 5.5.1 Too many recipients", 0)], 10, [10, 10, 5]),
        ([Fault("DOT", "550 5.5.3 Too many recipients", n) for n in (0, 1)], None, [6, 6, 6, 6, 1]),
    ],
    ids=["503 to DATA", "5.5.3 to the dot"],
)
def test_a_server_that_takes_no_email_to_so_many_gets_smaller_ones(
    queueing: Configure, faults: list[Fault], room: int | None, expected: list[int]
) -> None:
    with ScriptedServer(faults, room=room) as server:
        queueing(server.port)
        queue(to_many(25))
        email = deliver()
        assert sizes(server) == expected and set(arrived(server).values()) == {1}
    assert (email.status, email.attempts) == (Status.SENT, 1)


def test_a_setting_divides_in_advance_and_each_transaction_counts_for_rates(
    queueing: Configure, policy: Configure
) -> None:
    with ScriptedServer(room=10) as server:
        queueing(server.port)
        policy(MAX_RECIPIENTS=10, RATE="3/h", RATES={"example.org": "1/h"})
        queue(to_many(45, "one@example.org", "two@example.org"))
        email = deliver()
        assert (sizes(server), server.turned_away) == ([10, 10, 10], 0)
        assert (email.status, email.attempts) == (Status.QUEUED, 0)
        assert email.next_try_at is not None and "has used up its 3" in email.events[-1]["why"]
        advance(2 * 3600)
        drain("mailrail.mail")
        email.refresh_from_db()
        assert sizes(server) == [10, 10, 10, 10, 5] and set(arrived(server).values()) == {1}
    assert (email.status, email.attempts) == (Status.SENT, 1)


@pytest.mark.parametrize("limits", ["LIMITS RCPTMAX=10", "LIMITS MAILMAX=50 rcptmax=010 RCPTDOMAINMAX=1"])
def test_a_number_that_the_server_says_by_itself_is_heeded(queueing: Configure, limits: str) -> None:
    with ScriptedServer(room=10, extensions=[*EXTENSIONS, limits]) as server:
        queueing(server.port)
        queue(to_many(15))
        deliver()
        assert (sizes(server), server.turned_away) == ([10, 5], 0)


@pytest.mark.parametrize("limits", ["LIMITS", "LIMITS RCPTMAX=0", "LIMITS XRCPTMAX=3 RCPTMAX=many"])
def test_a_number_that_is_none_limits_nothing(queueing: Configure, limits: str) -> None:
    with ScriptedServer(extensions=[*EXTENSIONS, limits]) as server:
        queueing(server.port)
        queue(to_many(15))
        deliver()
        assert sizes(server) == [15]


def test_a_rate_that_cannot_be_asked_puts_off_the_rest_of_one_email_and_no_other(
    queueing: Configure, policy: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_another(self: Admission, *arguments: Any) -> Permission:
        asked.append(arguments)
        if len(asked) == 2:
            raise LayerUnavailable("away")
        return usual(self, *arguments)

    asked: list[Any] = []
    usual = Admission.take_another
    monkeypatch.setattr(Admission, "take_another", take_another)
    with ScriptedServer(room=10) as server:
        queueing(server.port)
        policy(MAX_RECIPIENTS=10, RATE="100/h")
        email = queue(to_many(25))
        other = queue(EmailMessage("Hello", "A body.\n", "me@example.com", ["other@example.net"]))
        drain("mailrail.mail")
        email.refresh_from_db()
        other.refresh_from_db()
        assert other.status == Status.SENT and sorted(sizes(server)) == [1, 10]
        assert (email.status, email.attempts) == (Status.QUEUED, 0)
        assert "its rate cannot be asked" in email.events[-1]["why"]
        advance(3600)
        drain("mailrail.mail")
        email.refresh_from_db()
        assert set(arrived(server).values()) == {1} and len(arrived(server)) == 26
    assert email.status == Status.SENT


def test_what_expires_after_some_have_it_is_partly_sent(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(MAX_RECIPIENTS=2, RATE="1/h")
        queue(to_many(5), expires_at=3600.0)
        email = deliver()
        assert email.status == Status.QUEUED and sizes(server) == [2]
        advance(2 * 3600)
        email = deliver()
        assert sizes(server) == [2]
    assert (email.status, len(email.failed_recipients)) == (Status.PARTIAL, 3)
    assert email.recipients[-1]["text"] == "expired before these recipients got it"


def test_an_email_put_off_may_be_cancelled_and_its_recipients_say_who_has_it(
    queueing: Configure, policy: Configure
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(MAX_RECIPIENTS=2, RATE="1/h")
        queue(to_many(4))
        email = deliver()
        assert cancel(email).done == [email.pk]
        email.refresh_from_db()
        assert [each["status"] for each in email.recipients] == ["sent", "sent", "queued", "queued"]


@pytest.mark.parametrize(
    ("fault", "ambiguous"),
    [
        (Fault("DATA", "disconnect", 1), 0),
        (Fault("DOT", "disconnect", 1), 10),
        (Fault("MAIL", "421 4.3.2 Shutting down", 1), 0),
    ],
)
def test_who_has_it_gets_no_second_copy_when_a_later_transaction_breaks(
    queueing: Configure, fault: Fault, ambiguous: int
) -> None:
    with ScriptedServer([fault], room=10) as server:
        queueing(server.port)
        queue(to_many(25))
        email = deliver()
        assert (email.status, email.attempts) == (Status.QUEUED, 0)
        assert Counter(each["status"] for each in email.recipients) == {"sent": 10, "queued": 15}
        assert sum(bool(each.get("ambiguous")) for each in email.recipients) == ambiguous
        advance(60)
        email = deliver()
        assert sizes(server) == [10, 10, 5] and set(arrived(server).values()) == {1}
    assert (email.status, email.attempts) == (Status.SENT, 1)


def test_a_recipient_refused_for_now_waits_and_the_others_follow(queueing: Configure) -> None:
    with ScriptedServer([Fault("RCPT", "450 4.2.1 Greylisted", 3)], room=10) as server:
        queueing(server.port)
        queue(to_many(25))
        email = deliver()
        assert sizes(server) == [10, 10, 4]
        [later] = [each for each in email.recipients if each["status"] != "sent"]
        assert later["code"] == 450 and (email.status, email.attempts) == (Status.QUEUED, 1)
        advance(120)
        email = deliver()
        assert sizes(server)[3:] == [1] and set(arrived(server).values()) == {1}
    assert (email.status, email.attempts) == (Status.SENT, 2)


def test_a_refusal_for_good_of_one_transaction_is_that_of_its_recipients(queueing: Configure) -> None:
    with ScriptedServer([Fault("DOT", "554 5.7.1 No", 1)], room=10) as server:
        queueing(server.port)
        queue(to_many(25))
        email = deliver()
        assert sizes(server) == [10, 5]
    assert Counter(each["status"] for each in email.recipients) == {"sent": 15, "failed": 10}
    assert (email.status, len(email.failed_recipients), email.attempts) == (Status.PARTIAL, 10, 1)


def test_a_refusal_for_now_of_one_transaction_lets_the_rest_wait(queueing: Configure) -> None:
    with ScriptedServer([Fault("DOT", "451 4.3.0 Later", 1)], room=10) as server:
        queueing(server.port)
        queue(to_many(25))
        email = deliver()
        assert sizes(server) == [10]
        assert (email.status, email.attempts) == (Status.QUEUED, 1)
        advance(120)
        email = deliver()
        assert sizes(server) == [10, 10, 5] and set(arrived(server).values()) == {1}
    assert email.status == Status.SENT


@pytest.mark.parametrize("reply", ["452 4.2.2 Mailbox full", "452 Mailbox full"])
def test_one_full_mailbox_is_no_recipient_too_many(queueing: Configure, reply: str) -> None:
    with ScriptedServer(refused={"full@example.com": reply}) as server:
        queueing(server.port)
        queue(to_many(5, "full@example.com"))
        email = deliver()
        assert sizes(server) == [4] and (email.status, email.attempts) == (Status.QUEUED, 1)
        queue(to_many(8))
        deliver()
        assert sizes(server) == [4, 8]


def test_a_server_with_no_room_for_anybody_is_tried_later(queueing: Configure) -> None:
    with ScriptedServer(room=0) as server:
        queueing(server.port)
        queue(to_many(5))
        email = deliver()
        assert server.count("MAIL") == 1
    assert (email.status, email.attempts) == (Status.QUEUED, 1)


def test_what_one_email_has_shown_is_forgotten_after_an_hour(
    queueing: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have counted recipients an hour."""
    with ScriptedServer(room=10) as server:
        queueing(server.port)
        queue(to_many(15))
        deliver()
        [(known, (most, until))] = transactions._learnt.items()
        assert most == 10 and transactions.most_recipients(known) == 10
        monkeypatch.setattr("mailrail.mail.smtp.transactions.time.monotonic", lambda: until)
        assert transactions.most_recipients(known) is None


# -- without the queue, and by other backends -------------------------------------------------------------------------


def test_our_backend_without_a_queue_does_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(room=10, refused={"gone@example.com": "550 5.1.1 No such user"}) as server:
        named: dict[str, Any] = {"alias": "default"} if django.VERSION >= (6, 1) else {}
        backend = EmailBackend(host="127.0.0.1", port=server.port, max_recipients=20, **named)
        assert backend.send_messages([to_many(25, "gone@example.com"), to_many(3)]) == 2
        assert sizes(server) == [10, 3, 10, 4] or sizes(server) == [10, 10, 4, 3]
    assert "gone@example.com was refused, others were not: 550 5.1.1" in caplog.text


@pytest.mark.parametrize("kind", [Subclass, OurSubclass])
def test_a_projects_subclass_tells_the_queue_who_was_refused(queueing: Configure, kind: type[Any]) -> None:
    with ScriptedServer(room=10, refused={"gone@example.com": "550 5.1.1 No such user"}) as server:
        queueing(server.port, f"{__name__}.{kind.__name__}")
        queue(to_many(25, "gone@example.com"))
        email = deliver()
        assert sizes(server) == [10, 10, 4] and set(arrived(server).values()) == {1}
    assert (email.status, email.failed_recipients) == (Status.PARTIAL, ["gone@example.com"])
    assert email.attempts == 1


@pytest.mark.parametrize("kind", [Subclass, OurSubclass])
def test_who_has_it_from_a_projects_subclass_gets_no_second_copy_when_the_rest_breaks(
    queueing: Configure, kind: type[Any]
) -> None:
    with ScriptedServer([Fault("DATA", "disconnect", 1)], room=10) as server:
        queueing(server.port, f"{__name__}.{kind.__name__}")
        queue(to_many(25))
        email = deliver()
        assert Counter(each["status"] for each in email.recipients)["sent"] >= 10
        for _ in range(3):
            advance(600)
            email = deliver()
        assert set(arrived(server).values()) == {1} and len(arrived(server)) == 25
    assert email.status == Status.SENT


def test_each_transaction_begins_with_the_time_at_which_it_was_meant_to(
    queueing: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others tell by it whether somebody may still be sending."""
    stored: list[tuple[str, float]] = []

    def store(results: Any, intents: Any, using: str) -> Any:
        now = timezone.now()
        stored.extend((row.email.status, seconds_between(row.email.changed_at, now)) for row in results)
        return store_outcomes(results, intents, using)

    monkeypatch.setattr("mailrail.mail.delivery.writer.store_outcomes", store)
    with ScriptedServer(room=10) as server:
        queueing(server.port)
        queue(to_many(25))
        deliver()  # by now the number is known
        queue(to_many(25))
        Email.objects.filter(status=Status.QUEUED).update(changed_at=after(timezone.now(), -3600))
        stored.clear()
        deliver()
    assert len(stored) >= 3 and all(age < 60 for _, age in stored)
