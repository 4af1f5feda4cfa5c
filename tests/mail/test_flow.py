"""What people on call read of each mailer: what waits and why, how fast it leaves, and what is out."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone, translation

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email
from mailrail.mail.delivery.outcomes import Result, fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers import circuit, connection_limits, throttle
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerState, MailerThrottle, Status
from mailrail.mail.records import flow
from mailrail.monitoring import sampler
from mailrail.monitoring.facts import Count, FlowFacts
from mailrail.monitoring.sample import sample
from mailrail.testing import advance

from ..ports import free_port
from ..processes import until
from ..smtp_server import ScriptedServer
from .conftest import LOCMEM, MAILER, messages, work
from .test_waiting import working

Configure = Callable[..., None]
OWN = alias_of(MAILER)


@pytest.fixture(autouse=True)
def _database(on: str) -> None:
    """On each database."""


def of(mailer: str = MAILER) -> FlowFacts:
    return {facts.mailer: facts for facts in flow.mail_flow()}[mailer]


def waiting(mailer: str = MAILER) -> dict[str, int]:
    counts = of(mailer).waiting
    assert not any(count.is_estimate for count in counts.values())
    return {reason: count.n for reason, count in counts.items()}


def test_a_mailer_without_email_is_there_and_waits_for_nothing(queueing: Configure) -> None:
    queueing(25)
    assert of() == FlowFacts(MAILER, sent_per_minute=0.0)


def test_each_email_waits_for_one_reason(queueing: Configure) -> None:
    queueing(25)
    mail.queue_many(messages(2), send_at=timezone.now() + timedelta(hours=1))
    tried = mail.queue_many(messages(3))
    Email.objects.filter(pk__in=[email.pk for email in tried]).update(
        next_try_at=timezone.now() + timedelta(minutes=5)
    )
    mail.queue_many(messages(4))
    advance(30)
    assert waiting() == {"time": 2, "retry": 3, "worker": 4}
    assert of().oldest_due == pytest.approx(30, abs=5)
    mail.pause(MAILER, reason="Ask ann@example.com first", by="ann")
    assert waiting() == {"time": 2, "retry": 3, "pause": 4}
    pause = of().pause
    assert pause is not None and pause.since is not None
    assert (pause.by, pause.reason) == ("ann", "Ask … first"), (
        "nobody's address is on a page for everybody on call"
    )
    mail.resume(MAILER)
    assert waiting() == {"time": 2, "retry": 3, "worker": 4} and of().pause is None


def test_an_outage_has_a_beginning_a_reason_and_a_next_try(queueing: Configure) -> None:
    queueing(25)
    mail.queue_many(messages(3))
    before = timezone.now().timestamp()
    circuit.trip(OWN, "421 4.3.0 no, said admin@example.com", Email.objects.db)
    facts = of()
    assert facts.waiting == {"outage": Count(3)}
    assert facts.outage is not None and facts.outage.since == pytest.approx(before, abs=5)
    assert facts.outage.reason == "421 4.3.0 no, said …"
    assert facts.next_probe_at == pytest.approx(before + circuit.FIRST_PROBE_DELAY_S, abs=5)
    assert facts.seconds_left is None and facts.pause is None
    circuit.reset(OWN, Email.objects.db)
    assert of().outage is None and of().waiting == {"worker": Count(3)}


def test_the_mailer_that_stands_in_is_named_and_its_limits_count(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    queueing(25)
    second("backup", 26, RATE="2/s")
    policy(FAILOVER=["backup"])
    mail.queue_many(messages(6))
    circuit.trip(OWN, "away", Email.objects.db)
    facts = of()
    assert (facts.stands_in, facts.waiting) == ("backup", {"worker": Count(6)})
    assert facts.outage is not None and (facts.pace, facts.seconds_left) == (2.0, 3.0)
    throttle.note_wait("backup", "1", 60, Email.objects.db)
    assert waiting() == {"rate": 6}
    mail.pause("backup")
    assert waiting() == {"outage": 6} and of().stands_in == ""


def test_email_waits_for_a_connection_or_a_rate(queueing: Configure, policy: Configure) -> None:
    queueing(25)
    policy(CONNECTIONS=2, RATE="120/m, 300/h")
    mail.queue_many(messages(4))
    assert waiting() == {"worker": 4}
    reservation = connection_limits.reserve(OWN, 1, Email.objects.db)
    assert (waiting(), of().connections, of().max_connections) == ({"worker": 4}, 1, 2)
    other = connection_limits.reserve(OWN, 1, Email.objects.db)
    assert (waiting(), of().connections) == ({"connection": 4}, 2)
    assert reservation is not None and other is not None
    reservation.give_back()
    other.give_back()
    throttle.note_wait(OWN, "3600", 60, Email.objects.db)
    assert (waiting(), of().connections) == ({"rate": 4}, 0)
    assert of().pace == pytest.approx(300 / 3600), "the rate that is lowest in the long run"
    assert "settings" in of().pace_reason
    with translation.override("zh-hans"):
        assert "settings" not in of().pace_reason


def test_email_that_waits_for_the_rate_of_a_domain_is_told_from_email_that_is_due(
    queueing: Configure, policy: Configure
) -> None:
    queueing(0, LOCMEM)
    policy(RATES={"example.org": "1/60s"})
    mail.queue_many(messages(5, "example.org"))
    work()
    mail.queue_many(messages(2, "example.com"))
    assert waiting() == {"rate": 4, "worker": 2}
    assert str(of().pace_reason).startswith("example.org: ")


def quieten(seconds: float) -> None:
    """Let the last complaint of a server be older."""
    for row in MailerThrottle.objects.using(Email.objects.db).all():
        row.changed_at -= timedelta(seconds=seconds)
        row.save(using=Email.objects.db)


def test_a_server_that_asks_for_less_is_quoted(queueing: Configure) -> None:
    queueing(25)
    mail.queue_many(messages(10))
    throttle.slow_down(OWN, "", 4.0, "450 4.2.1 too fast for to1@example.com", Email.objects.db)
    throttle.slow_down(OWN, "example.com", 1.0, "451 busy", Email.objects.db)
    facts = of()
    assert (facts.pace, facts.seconds_left) == (2.0, 5.0)
    assert "450 4.2.1 too fast for …" in facts.pace_reason
    assert "example.com: 0.5/s" in facts.pace_reason and "451 busy" in facts.pace_reason
    quieten(2 * throttle.RECOVERS_EVERY)
    assert of().pace == pytest.approx(4.0 * 0.7), "as a batch would have it now"
    quieten(10 * throttle.RECOVERS_EVERY)
    assert (of().pace, of().pace_reason) == (None, "")


def test_what_failed_lately_is_counted(queueing: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    queueing(25)
    emails = mail.queue_many(messages(3))
    results = [fail(email, timezone.now(), "550 no", OWN) for email in emails[:2]]
    store_outcomes([Result(each.email, Status(each.status)) for each in results], (), Email.objects.db)
    assert of().failed == Count(2)
    Email.objects.filter(status=Status.QUEUED).update(status=Status.PARTIAL, changed_at=timezone.now())
    monkeypatch.setattr(flow, "MAX_READ", 3)
    assert of().failed == Count(3), "two of one status and one of another are all there are"
    monkeypatch.setattr(flow, "MAX_READ", 2)
    assert of().failed == Count(3, True)
    advance(flow.FAILED_WITHIN_S + 60)
    assert of().failed == Count(0)


def test_more_than_is_read_is_estimated_by_the_channels(
    queueing: Configure, second: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "MAX_READ", 10)
    queueing(25)
    second("bulk", 26)
    mail.queue_many(messages(6))
    mail.queue_many(messages(3), send_at=timezone.now() + timedelta(hours=1))
    mail.queue_many(messages(40), mailer="bulk", send_at=timezone.now() + timedelta(hours=1))
    mail.queue_many(messages(30), mailer="bulk")
    advance(5)
    assert of().waiting == {"time": Count(3, True), "worker": Count(6, True)}
    assert of("bulk").waiting == {"time": Count(40, True), "worker": Count(30, True)}
    assert of("bulk").oldest_due == pytest.approx(5, abs=5)


def test_a_mailer_that_settings_have_no_more_is_shown_while_its_email_waits(
    queueing: Configure, settings: Any, second: Configure
) -> None:
    queueing(25)
    second("old", 26)
    mail.queue_many(messages(2), mailer="old")
    queueing(25)
    settings.MAILRAIL = {name: value for name, value in settings.MAILRAIL.items() if name != "MAILERS"}
    assert waiting("old") == {"worker": 2}


# -- the whole way ----------------------------------------------------------------------------------------------------


def told() -> tuple[str, FlowFacts]:
    """What ``channels check`` prints, empty if all is well, and what a sample says of the mailer."""
    try:
        call_command("channels", "check", stdout=StringIO())
        printed = ""
    except CommandError as error:
        printed = str(error)
    now = sample()
    assert printed == (now.health.detail or ""), "both by the same rules"
    return printed, next(facts for facts in now.flows if facts.mailer == MAILER)


def shown(browser: Client) -> tuple[str, str, dict[str, Any]]:
    """What the first page of the admin and the live page say of all, and the latter of the mailer."""
    data = browser.get("/mailrail/data/").json()
    [row] = [row for row in data["sections"]["mail"]["rows"] if row["key"] == MAILER]
    html = browser.get("/admin/").text
    state = "ok" if 'class="mailrail-state" data-state="ok"' in html else "bad" if MAILER in html else ""
    return state, data["health"]["text"], {name: cell["t"] for name, cell in row["cells"].items()}


def test_an_outage_is_named_with_all_that_people_ask_and_is_over_after_the_first_successful_probe(
    queueing: Configure, admin_client: Client, fresh_connections: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "FIRST_PROBE_DELAY_S", 0.5)
    sampler.forget()
    port = free_port()
    queueing(port)
    get_layer().heartbeat("one", {})
    began = time.time()
    mail.queue_many(messages(7))
    with working():
        until(lambda: MailerState.objects.using(Email.objects.db).exists(), 10, "the outage")
        printed, facts = told()
        assert printed.startswith(f"mailer '{MAILER}' has been out for ") and str(port) in printed
        assert facts.outage is not None and facts.outage.since is not None
        assert began - 1 <= facts.outage.since <= time.time() and str(port) in facts.outage.reason
        assert facts.waiting == {"outage": Count(7)}
        assert facts.next_probe_at is not None and facts.next_probe_at >= facts.outage.since
        until(lambda: shown(admin_client)[0] == "bad", 10, "the first page of the admin")
        _, health, cells = shown(admin_client)
        assert health.startswith(f"Mailer {MAILER}") and ", since " in health
        assert (cells["waiting"], cells["reasons"]) == ("7", "7 outage")
        assert "out since " in cells["note"] and "next try in " in cells["note"]
        with ScriptedServer(port=port) as server:
            until(lambda: len(server.mails) == 7, 20, "the first successful probe, and the others")
            until(lambda: told()[0] == "", 10, "all is well")
            until(lambda: shown(admin_client)[0] == "ok", 10, "the pages say so")
        printed, facts = told()
        assert (facts.outage, facts.next_probe_at, facts.waiting) == (None, None, {})
    _, health, cells = shown(admin_client)
    assert (health, cells["note"]) == ("All is well", "")
