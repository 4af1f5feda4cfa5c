"""``mailrail.testing`` for email, as the tests of a project use it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from django.core import mail
from django.core.mail import EmailMultiAlternatives, send_mail
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from mailrail.mail import Email, Status, pause, queue, resume
from mailrail.testing import advance, assert_queued, deliver, drain, mail_queue, queued_emails, sent

from .processes import ROOT

MAILERS = django.VERSION >= (6, 1)


@pytest.fixture(autouse=True)
def _without_sockets_and_threads(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Delivery in a test opens neither."""
    before = threading.active_count()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    yield
    assert threading.active_count() <= before


def write(subject: str = "Hello", to: str = "ada@example.com") -> int:
    return send_mail(subject, "A body.", "me@example.com", [to])


@mail_queue()
class TestInATestCase(TestCase):
    def test_mail_is_queued_and_delivered_into_the_outbox(self) -> None:
        assert write() == 1
        assert mail.outbox == []
        [email] = assert_queued(to="ada@example.com", subject="Hello")
        assert email.status == Status.QUEUED
        [message] = deliver()
        assert mail.outbox == [message]
        assert (message.subject, message.body, message.to) == ("Hello", "A body.", ["ada@example.com"])
        assert message.extra_headers["Message-ID"] == email.message_id
        email.refresh_from_db()
        assert email.status == Status.SENT
        assert queued_emails() == [] and deliver() == []

    def test_drain_delivers_too(self) -> None:
        write()
        drain()
        assert [message.subject for message in mail.outbox] == ["Hello"]

    def test_everything_of_a_message_is_there(self) -> None:
        message = EmailMultiAlternatives(
            "Hello",
            "Text",
            "me@example.com",
            ["a@example.com"],
            bcc=["b@example.com"],
            reply_to=["r@example.com"],
        )
        message.attach_alternative("<b>HTML</b>", "text/html")
        message.attach("a.txt", "attached", "text/plain")
        message.send()
        [found] = deliver()
        assert isinstance(found, EmailMultiAlternatives)
        assert (found.bcc, found.reply_to) == (["b@example.com"], ["r@example.com"])
        assert found.alternatives == message.alternatives and found.attachments == message.attachments

    def test_what_is_rolled_back_is_not_there(self) -> None:
        with transaction.atomic():
            write()
            transaction.set_rollback(True)
        assert_queued(0)

    def test_what_is_for_later_comes_when_its_time_has_come(self) -> None:
        message = EmailMultiAlternatives("Later", "Text", "me@example.com", ["a@example.com"])
        queue(message, send_at=timedelta(hours=1), expires_at=timedelta(hours=2))
        assert deliver() == []
        advance(3599)
        assert deliver() == []
        advance(1)
        assert [each.subject for each in deliver()] == ["Later"]

    def test_what_expires_does_not_come(self) -> None:
        message = EmailMultiAlternatives("Later", "Text", "me@example.com", ["a@example.com"])
        queue(message, expires_at=60)
        advance(61)
        assert deliver() == []
        assert Email.objects.get().status == Status.EXPIRED

    def test_an_assertion_that_fails_tells_what_is_queued(self) -> None:
        with pytest.raises(AssertionError, match=r"0 such emails queued, not 1. Queued:\n  none"):
            assert_queued()
        write()
        write("Goodbye", "bob@example.com")
        with pytest.raises(AssertionError, match=r"not 1. Queued:\n  'Hello' to ada@.*\n  'Goodbye' to bob@"):
            assert_queued()
        assert [each.subject for each in assert_queued(2)] == ["Hello", "Goodbye"]
        with pytest.raises(AssertionError, match="0 such"):
            assert_queued(subject="Hello", to="bob@example.com")

    def test_email_that_does_not_leave_is_an_error(self) -> None:
        write()
        pause(assert_queued()[0].mailer)
        with pytest.raises(
            AssertionError, match="'Hello' is queued, not sent: its mailer cannot be used, or is"
        ):
            deliver()
        resume(Email.objects.get().mailer)
        advance(3600)
        assert len(deliver()) == 1

    def test_the_pages_of_django_work(self) -> None:
        from django.contrib.auth import get_user_model

        get_user_model().objects.create_user("ada", "ada@example.com", "a password")
        self.client.post("/accounts/password_reset/", {"email": "ada@example.com"})
        assert_queued(to="ada@example.com")
        [message] = deliver()
        assert "/accounts/reset/" in message.body


class TestInATransactionTestCase(TransactionTestCase):
    def test_as_a_context_manager_with_real_commits(self) -> None:
        with mail_queue():
            with transaction.atomic():
                write()
            assert_queued()
            assert len(deliver()) == 1
            assert sent("mailrail.mail") == []
        write("At once")
        assert [message.subject for message in mail.outbox] == ["Hello", "At once"]

    @mail_queue()
    def test_as_a_decorator(self) -> None:
        write()
        assert len(deliver()) == 1


class TestWithoutTheQueue(TestCase):
    """As Django's test runner leaves it: what is queued by name goes to the outbox, too, and to no server."""

    def test_mail_goes_to_the_outbox_at_once(self) -> None:
        write()
        assert_queued(0)
        assert len(mail.outbox) == 1

    def test_queue_needs_no_server(self) -> None:
        queue(EmailMultiAlternatives("Hello", "Text", "me@example.com", ["a@example.com"]))
        assert mail.outbox == []
        assert len(deliver()) == 1 == len(mail.outbox)


@pytest.mark.django_db
@pytest.mark.skipif(not MAILERS, reason="needs MAILERS")
def test_the_mailers_that_queue_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "bulk-out"}}
    smtp = {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}
    monkeypatch.setattr("tests.settings.MAILERS", {"default": smtp, "bulk": ours, "bulk-out": smtp})
    locmem = {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    with override_settings(MAILERS=dict.fromkeys(("default", "bulk", "bulk-out"), locmem)), mail_queue():
        send_mail("Hello", "A body.", "me@example.com", ["ada@example.com"], using="bulk")
        send_mail("At once", "A body.", "me@example.com", ["ada@example.com"], using="bulk-out")
        assert [email.mailer for email in assert_queued()] == ["bulk-out"]
        assert [each.subject for each in mail.outbox] == ["At once"]
        assert [each.sent_using for each in deliver()] == ["bulk-out"]  # type: ignore[attr-defined]


@pytest.mark.django_db
def test_the_fixture(mailrail_mail: Any) -> None:
    write()
    mailrail_mail.assert_queued(to="ada@example.com")
    assert len(mailrail_mail.deliver()) == 1


@pytest.mark.django_db
def test_without_the_app_it_says_so(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail.mail"]
    with pytest.raises(AssertionError, match=r'"mailrail\.mail" is not in INSTALLED_APPS'):
        deliver()


def test_time_moves_in_a_test_without_a_database(mailrail_memory: Any) -> None:
    mailrail_memory.advance(60)


PROJECT = """
    SECRET_KEY = "tests"
    INSTALLED_APPS = ["mailrail", "mailrail.mail"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    MAILERS = {
        "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "smtp"}},
        "smtp": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": {"host": "mail.invalid"}},
    }
    import django
    if django.VERSION < (6, 1):
        del MAILERS
        EMAIL_BACKEND = "mailrail.mail.backend.EmailBackend"
        EMAIL_HOST = "mail.invalid"
"""
THEIR_TESTS = """
    from django.core import mail
    from django.core.mail import EmailMessage
    from django.test import TestCase
    from mailrail.mail import queue
    from mailrail.testing import assert_queued, deliver, mail_queue

    def letter():
        return EmailMessage("Hello", "A body.", "me@example.com", ["ada@example.com"])

    class PastTheQueue(TestCase):
        def test_it(self):
            letter().send()
            self.assertEqual(len(mail.outbox), 1)
            queue(letter())
            self.assertEqual(len(deliver()), 1)

    @mail_queue()
    class ThroughTheQueue(TestCase):
        def test_it(self):
            letter().send()
            assert_queued()
            self.assertEqual(len(deliver()), 1)
"""


def test_a_project_under_django_s_own_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a process is started by a socket
    (tmp_path / "their_settings.py").write_text(textwrap.dedent(PROJECT))
    (tmp_path / "tests.py").write_text(textwrap.dedent(THEIR_TESTS))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--settings", "their_settings"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
