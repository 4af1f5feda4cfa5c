"""What sends email in Django and around it, unchanged: all of it is queued, and arrives."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.core.exceptions import SynchronousOnlyOperation
from django.core.mail import EmailMessage, mail_admins, mail_managers, send_mail
from django.db import DatabaseError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from mailrail.mail import Email, Status
from mailrail.mail.backend import EmailBackend
from mailrail.testing import drain, sent

from ..processes import ROOT, Ledger, Manage, WorkerProcess, until
from ..smtp_server import ScriptedServer

Queueing = Callable[..., None]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def admins(settings: Any) -> None:
    people = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    settings.ADMINS = settings.MANAGERS = people


def subjects(server: ScriptedServer) -> list[str]:
    found = [message_from_bytes(mail.content, policy=policy.default) for mail in server.mails]
    return [str(message["Subject"]) for message in found]


def test_sendtestemail_waits_for_a_worker(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
    done = Manage(Ledger(tmp_path / "ledger"))("sendtestemail", "you@example.com")
    assert done.returncode == 0, done.stderr
    assert (server.connections, Email.objects.get().status) == (0, Status.QUEUED)
    worker = WorkerProcess(Ledger(tmp_path / "ledger"))
    try:
        until(lambda: server.mails, what="the mail")
        until(lambda: Email.objects.get().status == Status.SENT, what="its end")
    finally:
        worker.kill_all()
    assert [each.recipients for each in server.mails] == [("you@example.com",)]
    assert b"If you're reading this, it was successful." in server.mails[0].content


def test_a_password_reset_arrives(
    server: ScriptedServer, queueing: Queueing, client: Client, django_user_model: Any
) -> None:
    queueing(server.port)
    django_user_model.objects.create_user("ada", "ada@example.com", "a password")
    client.post("/accounts/password_reset/", {"email": "ada@example.com"})
    assert server.connections == 0
    drain("mailrail.mail")
    [mail] = server.mails
    assert mail.recipients == ("ada@example.com",)
    text = message_from_bytes(mail.content, policy=policy.default).get_content()  # its lines may be wrapped
    link = re.search(r"/accounts/reset/\S+", text)
    assert link is not None
    assert client.get(link[0], follow=True).context["validlink"]


def test_mail_to_admins_and_managers_arrives(
    server: ScriptedServer, queueing: Queueing, admins: None
) -> None:
    queueing(server.port)
    mail_admins("To admins", "A body.")
    mail_managers("To managers", "A body.", html_message="<b>A body.</b>")
    drain("mailrail.mail")
    assert subjects(server) == ["[Django] To admins", "[Django] To managers"]


# -- the mail about a request that failed -----------------------------------------------------------------------------

logger = logging.getLogger("django.shop")


def fails(request: HttpRequest) -> HttpResponse:
    Group.objects.create(name="undone")
    logger.error("logged in the transaction")
    raise RuntimeError("the reason")


def goes_on(request: HttpRequest) -> HttpResponse:
    logger.error("logged in the transaction")
    return HttpResponse("fine")


async def goes_on_async(request: HttpRequest) -> HttpResponse:
    logger.error("logged in an event loop")
    return HttpResponse("fine")


urlpatterns = [path("fails/", fails), path("goes-on/", goes_on), path("async/", goes_on_async)]


@pytest.fixture
def site(
    settings: Any, monkeypatch: pytest.MonkeyPatch, queueing: Queueing, server: ScriptedServer, admins: None
) -> Client:
    """Each request is a transaction; Django's own logging writes to the admins."""
    queueing(server.port)
    settings.ROOT_URLCONF = __name__
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    return Client(raise_request_exception=False)


def test_the_mail_about_a_request_survives_the_rollback_of_the_request(
    site: Client, server: ScriptedServer
) -> None:
    """Django logs after the transaction has ended; what the view itself has logged ends with it."""
    assert site.get("/fails/").status_code == 500
    assert not Group.objects.exists()
    drain("mailrail.mail")
    assert subjects(server) == ["[Django] ERROR (EXTERNAL IP): Internal Server Error: /fails/"]
    assert b"the reason" in server.mails[0].content


def test_what_a_view_logs_is_mailed_if_its_transaction_commits(site: Client, server: ScriptedServer) -> None:
    assert site.get("/goes-on/").status_code == 200
    drain("mailrail.mail")
    assert subjects(server) == ["[Django] ERROR: logged in the transaction"]


def test_what_an_async_view_logs_is_mailed(
    settings: Any, queueing: Queueing, server: ScriptedServer, admins: None
) -> None:
    """Nobody can await a log, and Django's own backend needs no thread."""
    queueing(server.port)
    settings.ROOT_URLCONF = __name__
    assert async_to_sync(AsyncClient().get)("/async/").status_code == 200
    drain("mailrail.mail")
    assert subjects(server) == ["[Django] ERROR: logged in an event loop"]


def test_other_mail_in_an_event_loop_is_refused_as_all_queries_are(queueing: Queueing) -> None:
    queueing(1)

    async def send() -> None:
        mail_to_somebody()

    with pytest.raises(SynchronousOnlyOperation):
        async_to_sync(send)()
    assert not Email.objects.exists()


def test_mail_that_cannot_be_queued_is_said_in_the_log_and_not_mailed_for_ever(
    queueing: Queueing, admins: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's own mail cannot be queued either, when the log of the queue is mailed."""
    queueing(1)
    handler = logging.getLogger("django").handlers[-1]
    assert type(handler).__name__ == "AdminEmailHandler"
    log = logging.getLogger("mailrail.mail")
    monkeypatch.setattr(log, "handlers", [handler])
    options = {"deliver_with": "out"} if django.VERSION >= (6, 1) else {}
    backend = EmailBackend(fail_silently=True, **options)
    message = EmailMessage("Hello", "A body.", "me@example.com", ["you@example.com"])
    with transaction.atomic():
        connection.needs_rollback = True  # as after an error that the view has caught
        assert backend.send_messages([message]) == 0
        connection.needs_rollback = False
    assert [each.getMessage() for each in caplog.records if each.name == "mailrail.mail"] == [
        "1 email could not be queued"
    ]
    assert not Email.objects.exists() and sent("mailrail.mail") == []


def test_an_outage_is_raised_unless_it_is_silenced(queueing: Queueing) -> None:
    queueing(1)
    with transaction.atomic():
        connection.needs_rollback = True
        with pytest.raises(DatabaseError):
            mail_to_somebody()
        connection.needs_rollback = False


def mail_to_somebody() -> None:
    send_mail("Hello", "A body.", "me@example.com", ["you@example.com"])


# -- django-allauth ----------------------------------------------------------------------------------------------------

SETTINGS = """
    import os
    import django

    SECRET_KEY = "tests"
    DEBUG = True
    ALLOWED_HOSTS = ["*"]
    INSTALLED_APPS = [
        "mailrail", "mailrail.mail", "django.contrib.auth", "django.contrib.contenttypes",
        "django.contrib.sessions", "django.contrib.messages", "allauth", "allauth.account",
    ]
    MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "allauth.account.middleware.AccountMiddleware",
    ]
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "db.sqlite3",
            "ATOMIC_REQUESTS": True,
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
        }
    }
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    TEMPLATES = [{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }]
    ROOT_URLCONF = "signup_settings"
    ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    ACCOUNT_SIGNUP_FIELDS = ["email*", "username*", "password1*", "password2*"]
    DEFAULT_FROM_EMAIL = "me@example.com"
    PORT = int(os.environ["PORT"])
    if django.VERSION >= (6, 1):
        MAILERS = {
            "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "smtp"}},
            "smtp": {
                "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "OPTIONS": {"host": "127.0.0.1", "port": PORT},
            },
        }
    else:
        EMAIL_BACKEND = "mailrail.mail.backend.EmailBackend"
        EMAIL_HOST, EMAIL_PORT = "127.0.0.1", PORT


    def urlpatterns():
        from django.urls import include, path

        return [path("accounts/", include("allauth.urls"))]


    from django.utils.functional import SimpleLazyObject

    urlpatterns = SimpleLazyObject(urlpatterns)
"""
SIGN_UP = """
from django.test import AsyncClient, Client
fields = {"email": "ada@example.com", "username": "ada", "password1": "long enough 7", "password2": "long enough 7"}
page = Client().post("/accounts/signup/", fields)
assert page.status_code == 302, page.content
"""


def test_a_sign_up_by_allauth_arrives(server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "signup_settings.py").write_text(textwrap.dedent(SETTINGS))

    def manage(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments, "--settings", "signup_settings"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PORT": str(server.port),
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")]),
                "PYTHONWARNINGS": "error::DeprecationWarning",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    manage("migrate", "-v0")
    manage("shell", "-v0", "-c", SIGN_UP)
    assert server.connections == 0
    manage("runworker", "--drain")
    [mail] = server.mails
    assert mail.recipients == ("ada@example.com",)
    assert b"/accounts/confirm-email/" in mail.content
