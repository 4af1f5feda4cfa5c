"""What public functions and commands of mail say to arguments that are wrong: which one, and what to give."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from mailrail import InvalidSettings, mail
from mailrail.mail import Email
from mailrail.mail.models import MailerState

from ..processes import ROOT
from .conftest import MAILER, messages

pytestmark = pytest.mark.django_db(transaction=True)

WRONG: list[Any] = [3, 2.5, True, b"x", ["nope"], [3], {"a": 1}, object(), "nope", None]
NO_EMAILS = "Give emails or their ids, not "


@pytest.fixture(autouse=True)
def queues(queueing: Callable[..., None]) -> None:
    queueing(25)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "verb", [mail.cancel, mail.hold, mail.unhold, mail.resend], ids=lambda verb: verb.__name__
)
def test_what_is_no_email_is_named(verb: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^{NO_EMAILS}"):
        verb(wrong)


@pytest.mark.parametrize("wrong", [3, None, b"x", ["x"]], ids=lambda value: type(value).__name__)
def test_what_is_no_mailer_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match="A mailer is named by a string, its alias, not "):
        mail.pause(wrong)
    with pytest.raises(TypeError, match="reason must be a string, not "):
        mail.pause(MAILER, reason=wrong)
    assert not MailerState.objects.exists()


def test_a_reason_that_no_database_takes_is_kept_without_that(queueing: Callable[..., None]) -> None:
    mail.pause(MAILER, reason="no\0w")
    assert MailerState.objects.get().reason == "no\N{REPLACEMENT CHARACTER}w"


@pytest.mark.parametrize("wrong", [3, None, "text", b"x", object()], ids=lambda value: type(value).__name__)
def test_what_is_no_message_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Only an EmailMessage can be queued, not "):
        mail.queue(wrong)
    with pytest.raises(TypeError, match="Only an EmailMessage can be queued, not "):
        mail.queue_many([wrong])
    assert not Email.objects.exists()


@pytest.mark.parametrize("days", [30, 30.0, "30", timedelta(days=30)], ids=repr)
def test_code_prunes_by_days_as_a_command_line_does(days: Any) -> None:
    old, new = mail.queue_many(messages(2))
    mail.cancel([old, new])
    past = Email.objects.get(pk=old.pk).changed_at - timedelta(days=31)
    Email.objects.filter(pk=old.pk).update(changed_at=past)
    out = StringIO()
    call_command("prunemail", bodies_after=days, stdout=out)
    assert out.getvalue().startswith("1 emails emptied\n")
    assert Email.objects.get(pk=new.pk).emptied_at is None


@pytest.mark.parametrize("days", [-1, "soon", float("nan"), 1e9, timedelta(days=-1), b"3", True], ids=repr)
@pytest.mark.parametrize("option", ["bodies_after", "records_after"])
def test_code_that_prunes_by_no_days_is_told_so(option: str, days: Any) -> None:
    with pytest.raises(CommandError, match=f"^--{option.replace('_', '-')} must be days"):
        call_command("prunemail", **{option: days})


def test_a_sender_or_mailer_that_nobody_knows_cannot_be_allowed() -> None:
    with pytest.raises((CommandError, InvalidSettings), match="There is no mailer 'nope'"):
        call_command("mailers", "allow", "nope", "me@example.com")


@pytest.mark.parametrize("command", [["mailq"], ["mailers"], ["channels"], ["mailq", "--json"]], ids=" ".join)
def test_output_that_nobody_reads_any_more_ends_a_command_without_a_traceback(command: list[str]) -> None:
    code = (
        "import sys, django; django.setup(); from django.core.management import call_command;"
        "call_command('migrate', verbosity=0);"
        f"sys.stdin.read(); call_command(*{command!r})"
    )
    environment = {**os.environ, "MAILRAIL_TEST_DEFAULT": ":memory:"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    ) as running:
        assert running.stdin and running.stdout and running.stderr
        running.stdout.close()  # as ``head`` does when it has seen enough
        running.stdin.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (141, b"")
