"""``manage.py mailers``."""

from __future__ import annotations

from collections.abc import Callable
from getpass import getuser
from io import StringIO

import pytest
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command

from mailrail import InvalidSettings, mail
from mailrail.layers import get_layer
from mailrail.mail import Email
from mailrail.mail.mailers import circuit, throttle
from mailrail.mail.mailers.channels import channel_of
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerState
from mailrail.testing import advance, drain

from ..smtp_server import ScriptedServer
from .conftest import MAILER

pytestmark = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]


def told(*arguments: str) -> str:
    out = StringIO()
    call_command("mailers", *arguments, stdout=out)
    return out.getvalue()


def test_how_each_mailer_stands(queueing: Configure, policy: Configure, second: Configure) -> None:
    queueing(25)
    policy(FAILOVER=["backup"])
    second("backup", 26)
    second("third", 27)
    assert told() == f"{MAILER}: works\nbackup: works\nthird: works\n"
    circuit.trip(alias_of(MAILER), "nobody answers", "default")
    mail.pause("backup", reason="the bill is not paid", by="bob")
    throttle.slow_down("third", "example.com", 10.0, "421 too fast", "default")
    first, backup, third = told().splitlines()
    assert first.startswith(f"{MAILER}: out since 20") and first.endswith(
        "nobody answers; its mail goes by backup"
    )
    assert backup.startswith("backup: paused since 20") and backup.endswith(" by bob: the bill is not paid")
    assert third == "third: works; slowed down to 5 emails a second for mail to example.com: 421 too fast"


def test_pause_and_resume(queueing: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        assert "paused since" in told("pause", MAILER, "--reason", "moving house")
        state = MailerState.objects.get()
        assert (state.person, state.reason) == (getuser(), "moving house")
        pause = get_layer().paused()[channel_of(alias_of(MAILER))]
        assert (pause.by, pause.reason) == (getuser(), "moving house")
        EmailMessage("Hello", "A body.\n", "me@example.com", ["you@example.com"]).send()
        drain("mailrail.mail")
        advance(2)
        drain("mailrail.mail")
        assert server.connections == 0 and Email.objects.get().attempts == 0
        assert told("resume", MAILER) == f"{MAILER}: works\n"
        advance(2)
        drain("mailrail.mail")
        assert len(server.mails) == 1


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_name_that_nobody_has(queueing: Configure, verb: str) -> None:
    queueing(25)
    with pytest.raises(CommandError, match="There is no mailer 'nowhere' to deliver with"):
        told(verb, "nowhere")
    assert not MailerState.objects.exists()


@pytest.mark.skipif(MAILER == "default", reason="needs MAILERS")
def test_what_queues_is_not_paused_as_mail_would_leave_all_the_same(queueing: Configure) -> None:
    queueing(25)
    with pytest.raises(CommandError, match=r"MAILERS\['default'\].* is the backend that queues"):
        told("pause", "default")
    assert not MailerState.objects.exists()


def test_pausing_a_mailer_that_there_is_not_raises(queueing: Configure) -> None:
    queueing(25)
    with pytest.raises(InvalidSettings, match="There is no mailer 'nowhere' to deliver with"):
        mail.pause("nowhere")
    mail.resume("nowhere")  # one that there was
    assert not MailerState.objects.exists()
