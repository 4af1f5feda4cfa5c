"""Mail of a mailer that was removed from the settings: who tells, and how it leaves by another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import StringIO

import django
import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.utils import timezone

from mailrail import mail
from mailrail.mail import Email, Status
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerState
from mailrail.testing import advance

from ..smtp_server import ScriptedServer
from .conftest import MAILER, messages, work

pytestmark = pytest.mark.usefixtures("on", "fresh_connections")

Configure = Callable[..., None]


def queued_for(mailer: str, count: int, **options: object) -> list[Email]:
    """As the settings of a release before this one had it."""
    emails = mail.queue_many(messages(count), **options)  # type: ignore[arg-type]
    Email.objects.filter(pk__in=[email.pk for email in emails]).update(mailer=mailer)
    return list(Email.objects.filter(pk__in=[email.pk for email in emails]).order_by("pk"))


def move(*arguments: str) -> str:
    out = StringIO()
    call_command("mailers", "move", *arguments, stdout=out)
    return out.getvalue()


def warnings(on: str) -> list[str]:
    return [str(each.msg) for each in run_checks(databases=[on]) if each.id == "mailrail.mail.W005"]


def test_mail_of_a_removed_mailer_is_told_and_leaves_at_once_by_another(queueing: Configure, on: str) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        assert warnings(on) == []
        queued_for("old", 250)
        held, *_ = queued_for("old", 1)
        mail.hold(held)
        later = queued_for("old", 1, send_at=3600)
        work()  # their messages go to the channel of the mailer that is gone
        work()
        assert not server.mails and MailerState.objects.get().mailer == "old"
        assert warnings(on) == ["The mailer 'old' has 252 emails waiting, and no setting defines it."]
        assert move("old", MAILER) == f"252 emails moved to {MAILER}.\n"
        work()
        assert len(server.mails) == 250
        assert warnings(on) == [] and not MailerState.objects.exists()
        statuses = dict(Email.objects.filter(pk__in=[held.pk, later[0].pk]).values_list("pk", "status"))
        assert statuses == {held.pk: Status.HELD, later[0].pk: Status.QUEUED}
        event = Email.objects.get(pk=held.pk).events[-1]
        assert (event["what"], event["mailer"]) == ("moved to another mailer", MAILER)
        mail.unhold(held)
        advance(4000)
        work()
        work()
        assert len(server.mails) == 252, "each once"


def test_what_waits_for_its_next_attempt_is_tried_at_once(queueing: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        [email] = queued_for("old", 1)
        Email.objects.update(next_try_at=timezone.now() + timedelta(hours=2))
        move("old", MAILER)
        assert Email.objects.get(pk=email.pk).next_try_at is None
        work()
        assert len(server.mails) == 1


def test_what_may_have_been_sent_moves_only_when_that_is_said(queueing: Configure) -> None:
    queueing(25)
    ambiguous, sending, sound = queued_for("old", 3)
    recipients = [{**each, "ambiguous": True} for each in ambiguous.recipients]
    Email.objects.filter(pk=ambiguous.pk).update(recipients=recipients, via="old")
    Email.objects.filter(pk=sending.pk).update(status=Status.SENDING)
    with pytest.raises(CommandError, match=r"^2 emails not moved from old: they may have been sent"):
        move("old", MAILER)
    new = alias_of(MAILER)
    assert dict(Email.objects.values_list("pk", "mailer")) == {
        ambiguous.pk: "old",
        sending.pk: "old",
        sound.pk: new,
    }
    with pytest.raises(CommandError, match=r"^1 email not moved from old"):
        move("old", MAILER, "--ambiguous")
    moved = Email.objects.get(pk=ambiguous.pk)
    assert (moved.mailer, moved.via) == (new, "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("old", "nowhere"), "There is no mailer 'nowhere' to deliver with"),
        (("nowhere", MAILER), r"No email waits for mailer 'nowhere'. Some waits for: old."),
        ((MAILER, MAILER), f"The mailers are the same, '{MAILER}'"),
        pytest.param(
            ("old", "default"),
            "is the backend that queues",
            marks=pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS"),
        ),
    ],
)
def test_a_move_that_cannot_be_is_refused_and_says_why(
    queueing: Configure, arguments: tuple[str, ...], error: str
) -> None:
    queueing(25)
    queued_for("old", 1)
    with pytest.raises(CommandError, match=error):
        move(*arguments)
    assert Email.objects.get().mailer == "old"
