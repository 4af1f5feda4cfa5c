"""Rates of mailers and domains, in one process: which emails go, which wait, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.mail import EmailMessage
from django.utils import timezone

from mailrail import LayerUnavailable
from mailrail.layers import DurableLayer, get_layer
from mailrail.mail import Email, Status, queue, queue_many
from mailrail.mail.mailers import throttle
from mailrail.mail.models import MailerThrottle
from mailrail.messages import Granted
from mailrail.routing import Rate
from mailrail.testing import advance

from ..listed import waiting_on
from ..smtp_server import ScriptedServer
from .conftest import CHANNEL, MAILER, messages, work

pytestmark = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]


def statuses() -> Counter[str]:
    return Counter(Email.objects.values_list("status", flat=True))


def waits() -> list[float]:
    """Seconds until each message is due, soonest first."""
    now = timezone.now().timestamp()
    return sorted((message.due or 0) - now for message in waiting_on(get_layer(), CHANNEL, 1000))


def domains(server: ScriptedServer) -> Counter[str]:
    return Counter(mail.recipients[0].partition("@")[2] for mail in server.mails)


def test_what_is_over_the_rate_waits_its_turn_and_no_attempt_is_counted(
    queueing: Configure, policy: Configure
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="10/m")
        queue_many(messages(15))
        work()
        assert len(server.mails) == 10 and statuses() == {Status.SENT: 10, Status.QUEUED: 5}
        assert set(Email.objects.filter(status=Status.QUEUED).values_list("attempts", "version")) == {(0, 0)}
        assert max(waits()) <= 0  # it was not claimed at all
        work()
        assert len(server.mails) == 10  # not before
        advance(31)
        work()
        assert len(server.mails) == 15 and statuses() == {Status.SENT: 15}
    assert {mail.recipients[0] for mail in server.mails} == {f"to{n}@example.com" for n in range(15)}


def test_several_rates_at_once(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="1000/s, 7/h")
        queue_many(messages(10))
        work()
        assert len(server.mails) == 7
        assert max(waits()) <= 1.1  # not claimed, or given back at once


def test_one_domain_waits_and_the_others_go(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATES={"slow.example": "3/h"})
        queue_many([*messages(10, "Slow.Example"), *messages(10, "fast.example")])
        work()
        assert domains(server) == {"Slow.Example": 3, "fast.example": 10}


def test_an_email_to_two_domains_waits_for_the_slower(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATES={"slow.example": "1/h", "other.example": "1/h"})
        queue_many(messages(1, "slow.example"))
        both = EmailMessage("Both", "A body.\n", "me@example.com", ["a@other.example", "b@slow.example"])
        queue_many([both, *messages(1, "other.example")])
        work()
        assert domains(server) == {"slow.example": 1, "other.example": 1}
        assert "Both" in {email.subject for email in Email.objects.filter(status=Status.QUEUED)}


def test_a_mailer_over_its_rate_does_not_starve_another(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    with ScriptedServer() as server, ScriptedServer() as other:
        queueing(server.port)
        policy(RATE="1/h")
        second("other", other.port)
        queue_many(messages(500))
        queue_many(messages(20), mailer="other")
        work()
        assert (len(server.mails), len(other.mails)) == (1, 20)


def test_a_higher_priority_goes_first_when_all_wait(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="1/m")
        queue_many(messages(30))
        work()
        urgent = queue(messages(1)[0], priority=50)
        work()
        [due] = [m.due for m in waiting_on(get_layer(), CHANNEL, 100) if m.content["id"] == str(urgent.pk)]
        assert due is not None and due - timezone.now().timestamp() <= 61.0
        advance(62)
        work()
        assert Email.objects.get(pk=urgent.pk).status == Status.SENT


class Counting:
    """A layer that counts what is taken from it, and from which bucket."""

    def __init__(self, layer: DurableLayer) -> None:
        self._take = layer.take
        self.taken: list[tuple[str, int]] = []

    def __call__(self, bucket: str, n: int, rate: Rate) -> Granted:
        self.taken.append((bucket, n))
        return self._take(bucket, n, rate)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting(get_layer())
    monkeypatch.setattr(get_layer(), "take", counting)
    return counting


def test_a_batch_asks_each_bucket_once_and_none_without_a_rate(
    queueing: Configure, policy: Configure, counting: Counting
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(messages(100))
        work()
        assert counting.taken == []
        policy(RATE="1000/s, 100000/d", RATES={"example.com": "1000/s"})
        queue_many(messages(100))
        work()
        asked = [(bucket, n) for bucket, n in counting.taken if n > 0]
        assert len(asked) == 6, (
            "two buckets for the first look and for a batch; of the domain, one for each batch"
        )
        assert len(server.mails) == 200


def test_tokens_come_back_when_nothing_left(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        port = server.port
    queueing(port)
    policy(RATE="5/h")
    queue_many(messages(5))
    work()  # there is nobody
    assert get_layer().take(f"mail:{_recorded()}::3600", 5, Rate(5, 3600)).granted == 5


def test_a_layer_that_cannot_be_asked_loses_nothing(
    queueing: Configure, policy: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(bucket: str, n: int, rate: Rate) -> Granted:
        raise LayerUnavailable("the server is away")

    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="10/s")
        queue_many(messages(5))
        with monkeypatch.context() as patched:
            patched.setattr(get_layer(), "take", unavailable)
            work()
        assert server.mails == [] and statuses() == {Status.QUEUED: 5}
        assert "failed, so its messages wait: LayerUnavailable: the server is away" in caplog.text
        advance(10)
        work()
        assert len(server.mails) == 5
    assert set(Email.objects.values_list("attempts", flat=True)) == {1}


def _recorded() -> str:
    return Email.objects.values_list("mailer", flat=True)[0]


def test_a_long_line_is_not_walked_all_the_time(
    queueing: Configure, policy: Configure, counting: Counting
) -> None:
    """A bucket is asked about twice for each email, however often a worker starts."""
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="20/m")
        queue_many(messages(120))
        for _ in range(40):
            work()
            advance(10)
        assert len(server.mails) == 120
    assert len(counting.taken) <= 2.2 * 120


def test_turns_are_given_by_priority_over_all_workers() -> None:
    def give(*priorities: int) -> list[float]:
        return throttle.reserve(limit, priorities, 1.0, "default")

    limit = throttle.Limit("out", "", "60", Rate(6, 60.0))

    assert give(0, 0) == pytest.approx([1, 11], abs=0.2)
    assert give(0) == pytest.approx([21], abs=0.2)
    assert give(5) == pytest.approx([1], abs=0.2)
    assert give(0, -5) == pytest.approx([31, 41], abs=0.2)
    assert give(*[0] * 200)[-1] == throttle.MAX_RESERVATION_S
    throttle.cancel_reservations("out", "default")
    assert give(0) == pytest.approx([1], abs=0.2)


def test_a_lifetime_of_the_mailer_ends_the_trying(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer(refused={"to0@example.com": "450 4.2.1 busy"}) as server:
        queueing(server.port)
        policy(LIFETIME=timedelta(hours=1))
        queue_many(messages(1))
        work()
        assert statuses() == {Status.QUEUED: 1}
        Email.objects.update(created_at=timezone.now() - timedelta(hours=2))
        advance(200)
        work()
    assert statuses() == {Status.FAILED: 1}
    assert MAILER and "given up" in Email.objects.get().events[-1]["what"]


def test_rows_for_turns_are_there_only_where_somebody_waited(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="10/s")
        queue_many(messages(5))
        work()
    assert not MailerThrottle.objects.exists()
