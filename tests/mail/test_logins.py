"""A server is told a wrong password once, and not by every connection of every worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django
import pytest
from django.core.mail.backends import smtp as djangos
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailrail import mail
from mailrail.mail import Email, Status, queue_many
from mailrail.mail.mailers import logins
from mailrail.mail.mailers.config import alias_of, open_backend
from mailrail.mail.mailers.logins import MAX_LOGIN_AGE, Login, key_of
from mailrail.mail.models import MailerLogin, MailerState
from mailrail.mail.smtp import close_pools
from mailrail.testing import advance

from ..smtp_server import EXTENSIONS, PASSWORD, USER, ScriptedServer
from .conftest import MAILER, SMTP, messages, work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]
OFFERS = (*EXTENSIONS, "AUTH PLAIN LOGIN")


class AsItIs(djangos.EmailBackend):
    """Django's SMTP backend, called as it is: our client delivers for no other class than Django's own."""


def login(password: str) -> dict[str, str]:
    if django.VERSION >= (6, 1):
        return {"username": USER, "password": password}
    return {"host_user": USER, "host_password": password}


def another_process() -> None:
    """It has proven nothing, and has no connections."""
    logins.forget()
    close_pools()


def its_login() -> Login:
    return Login(alias_of(MAILER), key_of(open_backend(alias_of(MAILER))), "default")


@pytest.mark.parametrize("backend", [SMTP, "mailrail.mail.smtp.EmailBackend"])
def test_a_wrong_password_is_told_once_however_much_waits(queueing: Configure, backend: str) -> None:
    with ScriptedServer(extensions=OFFERS) as server:
        queueing(server.port, backend, **login("wrong"))
        queue_many(messages(300))
        work()
        assert (server.count("AUTH"), server.connections) == (1, 1)
        another_process()
        work()
        assert server.count("AUTH") == 1  # by then, the mailer is out for all
        assert "refused our login" in MailerState.objects.get().reason
        queueing(server.port, backend, **login(PASSWORD))
        mail.resume(MAILER)
        advance(600)
        work()
        advance(2)  # for those that waited for the first login
        work()
        assert len(server.mails) == 300
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT}


def test_by_djangos_backend_it_is_one_login_too(queueing: Configure) -> None:
    """Of smtplib's: it tries each mechanism."""
    with ScriptedServer(extensions=(*EXTENSIONS, "AUTH PLAIN")) as server:
        queueing(server.port, f"{__name__}.AsItIs", **login("wrong"))
        queue_many(messages(300))
        work()
        assert (server.count("AUTH"), server.connections) == (1, 1)
    assert MailerState.objects.get().paused_by == "outage"


def test_a_password_that_the_server_has_changed_is_told_once(queueing: Configure) -> None:
    """By a process that had logged in: the proof is of another day."""
    with ScriptedServer(extensions=OFFERS) as server:
        queueing(server.port, **login(PASSWORD))
        queue_many(messages(20))
        work()
        assert len(server.mails) == 20
        server._password = "another"
        server.drop_all()
        close_pools()
        before = server.count("AUTH")
        queue_many(messages(20))
        work()
        assert server.count("AUTH") == before + 1
    assert MailerState.objects.get().paused_by == "outage"


def test_others_wait_until_the_first_login_is_accepted(queueing: Configure) -> None:
    queueing(25, **login(PASSWORD))
    first, second = its_login(), its_login()
    assert first.may_begin() and not second.may_begin()
    first.accepted()
    another_process()
    assert second.may_begin() and its_login().may_begin()


def test_whoever_found_no_answer_lets_others_try(queueing: Configure) -> None:
    queueing(25, **login(PASSWORD))
    first, second = its_login(), its_login()
    assert first.may_begin() and not second.may_begin()
    first.give_back()
    assert second.may_begin() and not its_login().may_begin()


@pytest.mark.parametrize(
    "changed",
    [
        {"until": timedelta(seconds=1)},  # the worker died
        {"accepted_at": MAX_LOGIN_AGE + timedelta(seconds=1), "until": timedelta(hours=1)},  # long ago
    ],
)
def test_an_old_try_is_no_reason_to_wait_and_an_old_proof_is_none(queueing: Configure, changed: Any) -> None:
    queueing(25, **login(PASSWORD))
    assert its_login().may_begin()
    MailerLogin.objects.update(**{name: timezone.now() - age for name, age in changed.items()})
    assert its_login().may_begin() and not its_login().may_begin()


def test_another_password_is_another_login(queueing: Configure) -> None:
    queueing(25, **login("old"))
    assert its_login().may_begin()
    queueing(25, **login("new"))
    assert its_login().may_begin() and not its_login().may_begin()
    assert "new" not in MailerLogin.objects.get().key


def test_a_refusal_undoes_the_proof(queueing: Configure) -> None:
    queueing(25, **login(PASSWORD))
    proven = its_login()
    assert proven.may_begin()
    proven.accepted()
    proven.refused()
    MailerLogin.objects.update(until=timezone.now())
    assert its_login().may_begin() and not its_login().may_begin()


def test_whoever_has_logged_in_asks_nobody(queueing: Configure) -> None:
    queueing(25, **login(PASSWORD))
    proven = its_login()
    assert proven.may_begin()
    proven.accepted()
    with CaptureQueriesContext(connection) as queries:
        assert its_login().may_begin()
        its_login().accepted()
    assert len(queries) == 0


def test_nobody_asks_where_nobody_logs_in(queueing: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        assert key_of(open_backend(alias_of(MAILER))) == ""
        queue_many(messages(20))
        work()
        assert len(server.mails) == 20
    assert not MailerLogin.objects.exists()


def test_it_works_where_the_records_are(queueing: Configure, on: str) -> None:
    with ScriptedServer(extensions=OFFERS) as server:
        queueing(server.port, **login(PASSWORD))
        queue_many(messages(30))
        work()
        assert len(server.mails) == 30
    assert MailerLogin.objects.using(on).get().accepted_at is not None
