"""With USE_TZ = False, moments are as exact as with it, also in the hour that comes twice and in that which is skipped.

In America/Chicago, clocks go back from 2:00 to 1:00 on 1 November 2026, and forward from 2:00 to 3:00 on 14 March 2027.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import connections, models
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from mailrail import Channel
from mailrail.invitations import invite, resend
from mailrail.invitations.models import Invitation
from mailrail.layers import get_layer
from mailrail.mail import Email, Status, pause, queue
from mailrail.mail.delivery.outcomes import Result
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers.channels import known_channels
from mailrail.mail.mailers.config import delivering
from mailrail.mail.models import MailerConnection
from mailrail.moments import MomentField, after, as_django, aware, from_now, seconds_between
from mailrail.testing import advance, deliver, drain

from .listed import waiting_on


def naive(*numbers: int) -> datetime:
    return datetime(*numbers)  # type: ignore[arg-type] # noqa: DTZ001 - this file is about them


FIRST, SECOND, SKIPPED = (
    naive(2026, 11, 1, 1, 30),
    naive(2026, 11, 1, 1, 30).replace(fold=1),
    naive(2027, 3, 14, 2, 30),
)

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])


@pytest.fixture(params=[True, False], ids=["USE_TZ", "naive"])
def use_tz(request: pytest.FixtureRequest, settings: Any) -> bool:
    settings.TIME_ZONE, settings.USE_TZ = "America/Chicago", request.param
    return bool(request.param)


@pytest.fixture
def without_tz(settings: Any) -> None:
    settings.TIME_ZONE, settings.USE_TZ = "America/Chicago", False


def message() -> EmailMessage:
    return EmailMessage("Hello", "", "a@example.com", ["b@example.com"])


# -- what a naive moment means ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_tz")
@pytest.mark.parametrize(
    ("local", "utc"),
    [
        (FIRST, datetime(2026, 11, 1, 6, 30, tzinfo=UTC)),
        (SECOND, datetime(2026, 11, 1, 7, 30, tzinfo=UTC)),
        (SKIPPED, datetime(2027, 3, 14, 8, 30, tzinfo=UTC)),
        (naive(2026, 11, 1, 12), datetime(2026, 11, 1, 18, tzinfo=UTC)),
    ],
)
def test_a_naive_moment_means_what_pep_495_says(local: datetime, utc: datetime) -> None:
    assert aware(local).astimezone(UTC) == utc
    Channel("work").send({}, at=local)
    email = queue(message(), send_at=local, expires_at=after(local, 3600))
    assert email.send_at is not None and seconds_between(local, email.send_at) == 0
    stored = Email.objects.get(pk=email.pk)
    assert stored.send_at is not None and aware(stored.send_at).astimezone(UTC) == utc
    layer = Channel("work").layer
    due = [each.due for channel in ("work", *known_channels()) for each in waiting_on(layer, channel, 9)]
    assert due == [utc.timestamp()] * 2


@pytest.mark.usefixtures("without_tz")
def test_an_hour_that_passes_is_an_hour_on_every_night() -> None:
    assert (SECOND - FIRST, seconds_between(FIRST, SECOND)) == (timedelta(0), 3600.0)
    assert (after(FIRST, 3600), after(FIRST, 3600).fold) == (FIRST, 1)
    assert after(naive(2027, 3, 14, 1, 59), 120) == naive(2027, 3, 14, 3, 1)
    assert as_django(datetime(2026, 11, 1, 7, 30, tzinfo=UTC)).fold == 1


def test_an_aware_moment_is_taken_with_and_without_zones(use_tz: bool) -> None:
    moment = datetime(2026, 12, 1, 12, tzinfo=UTC)
    email = queue(message(), send_at=moment)
    assert email.send_at is not None and aware(email.send_at) == moment
    assert timezone.is_naive(email.send_at) is not use_tz
    assert Email.objects.get(send_at=moment) == email


def test_a_naive_moment_is_refused_where_nobody_knows_its_zone(settings: Any) -> None:
    settings.USE_TZ = True
    with pytest.raises(ValueError, match=r"^at must be an aware datetime \(django\.utils\.timezone\.now\(\)"):
        Channel("work").send({}, at=FIRST)


# -- the database holds the moment, not what a clock on the wall shows -----------------------------------------------


@pytest.mark.parametrize("using", ["default", "postgres"])
@pytest.mark.parametrize("moment", [FIRST, SECOND, SKIPPED])
def test_the_database_holds_the_same_with_and_without_zones(
    settings: Any, without_tz: None, using: str, moment: datetime
) -> None:
    rows = MailerConnection.objects.using(using)
    rows.create(mailer="m", number=1, until=moment)
    found = rows.get(until=moment)
    assert found.until.tzinfo is None and seconds_between(moment, found.until) == 0
    assert not rows.filter(until__gte=after(moment, 3600))
    moved = rows.filter(until__lt=after(moment, 3600)).update(until=models.F("until") + timedelta(hours=1))
    settings.USE_TZ = True
    assert moved == 1 and rows.get().until == aware(moment).astimezone(UTC) + timedelta(hours=1)


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_the_clock_of_the_database_agrees_with_ours(use_tz: bool, using: str) -> None:
    slots = MailerConnection.objects.using(using)
    slots.create(mailer="m", number=1, until=from_now(-60))
    slots.create(mailer="m", number=2, until=from_now(60))
    assert [slot.number for slot in slots.filter(until__lte=Now())] == [1]
    slots.update(until=Now())
    assert all(abs(seconds_between(slot.until, timezone.now())) < 50 for slot in slots.all())


@pytest.mark.usefixtures("without_tz")
def test_sessions_of_postgresql_are_in_the_zone_of_the_site() -> None:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SHOW timezone")
        assert cursor.fetchone() == ("America/Chicago",)


def test_migrations_know_nothing_of_it() -> None:
    _, path, _, options = MomentField(null=True).deconstruct()
    assert (path, options) == ("django.db.models.DateTimeField", {"null": True})


# -- everything that takes or shows a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("send_at", [60, timedelta(minutes=1)])
def test_email_waits_is_sent_and_is_removed_in_its_time(use_tz: bool, send_at: Any, capsys: Any) -> None:
    email = queue(message(), send_at=send_at, expires_at=3600)
    assert deliver() == []
    call_command("mailq")
    advance(61)
    assert [each.subject for each in deliver()] == ["Hello"]
    email.refresh_from_db()
    assert email.status == Status.SENT and email.sent_at is not None
    assert abs(seconds_between(email.sent_at, timezone.now())) < 60
    assert datetime.fromisoformat(email.events[-1]["at"]).utcoffset() is not None
    call_command("prunemail", "--records-after", "30", "--bodies-after", "0")
    assert "1 emails emptied" in capsys.readouterr().out


def test_email_that_was_not_sent_in_time_expires(use_tz: bool) -> None:
    email = queue(message(), expires_at=timedelta(minutes=1))
    advance(61)
    assert deliver() == []
    email.refresh_from_db()
    assert email.status == Status.EXPIRED


def test_all_commands_show_local_times_with_their_offset_and_utc_to_machines(
    use_tz: bool, settings: Any, capsys: Any
) -> None:
    settings.TIME_ZONE = "Asia/Shanghai"
    queue(message(), send_at=from_now(3600))
    pause(delivering()[0], reason="a test")
    Channel("told").send({}, delay=3600)
    layer = get_layer()
    Channel("told").send({})
    [claim] = layer.claim("w", {"told": 1}, 15.0).claims
    layer.bury(claim, "boom")
    for command in (["mailq"], ["mailers"], ["channels", "waiting", "told"], ["channels", "dead", "told"]):
        call_command(*command)
        output = capsys.readouterr().out
        [shown] = re.findall(r"(?:since|due|buried) (20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+08:00)\b", output)
        seconds = seconds_between(timezone.now(), datetime.fromisoformat(shown))
        assert abs(seconds - (3600 if "waiting" in command else 0)) < 60
        if command != ["mailers"]:
            call_command(*command, "--json")
            assert re.findall(r'"(?:since|due|buried_at)": "20[^"+]*\+00:00"', capsys.readouterr().out)


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_outcomes_keep_their_moment(use_tz: bool, using: str) -> None:
    email = queue(message())
    if using == "postgres":
        Email.objects.using(using).bulk_create([email])
    email = Email.objects.using(using).get(pk=email.pk)
    email.status, email.sent_at = Status.SENT, aware(SECOND) if use_tz else SECOND
    store_outcomes([Result(email, Status.SENT)], [], using)
    stored = Email.objects.using(using).get(pk=email.pk)
    assert stored.sent_at is not None
    assert aware(stored.sent_at).astimezone(UTC) == datetime(2026, 11, 1, 7, 30, tzinfo=UTC)


def test_consumers_get_moments_as_django_has_them(use_tz: bool) -> None:
    Channel("send-invite").send({"id": 0})
    [ran] = drain("send-invite", raise_errors=False)
    assert abs(seconds_between(ran.message.sent_at, timezone.now())) < 60
    assert timezone.is_naive(ran.message.sent_at) is not use_tz


def test_invitations_expire_and_are_sent_again(use_tz: bool, client: Client) -> None:
    sender = get_user_model().objects.create_user("ada", "ada@example.com", "secret")
    invitation = invite("guest@example.com", sender, expires=timezone.now() + timedelta(hours=1))
    drain("send-invite")
    assert client.get(invitation.accept_path(), follow=True).status_code == 200
    client.force_login(sender)
    assert client.get("/invites/").status_code == 200
    resend(invitation, expires=timedelta(seconds=60))
    assert invitation.status == "waiting"
    Invitation.objects.update(expires_at=from_now(-1))
    invitation.refresh_from_db()
    assert invitation.status == "expired" and not invitation.accept(sender)


def test_pages_of_the_admin_show_the_time_of_the_site(use_tz: bool, admin_client: Client) -> None:
    email = queue(message(), send_at=aware(naive(2026, 12, 1, 13, 5)))
    pause(email.mailer or "default", reason="a test")
    Channel("send-invite").send({"id": 0}, delay=60)
    change = f"mailrail_mail/email/{email.pk}/change/"
    lists = ["mailrail_mail/email/", "mailrail_mail/mailerstate/", "mailrail_mail/suppression/"]
    lists += ["mailrail/storedmessage/", "mailrail/buriedmessage/", "mailrail_invitations/invitation/"]
    shown = {page: admin_client.get(f"/admin/{page}") for page in [change, *lists]}
    assert {page: answer.status_code for page, answer in shown.items()} == dict.fromkeys(
        [change, *lists], 200
    )
    assert "1:05 p.m." in shown[change].content.decode()
