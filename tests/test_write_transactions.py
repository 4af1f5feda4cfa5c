"""Transactions that read first, on SQLite without ``"transaction_mode": "IMMEDIATE"``, while another process writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import django
import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.db import OperationalError, connection, connections, transaction
from django.test import RequestFactory
from django.utils import timezone

from mailrail import Channel, mail, testing
from mailrail.invitations import invite, invite_many, resend
from mailrail.invitations.addresses import Entry
from mailrail.invitations.bulk import confirm, draft
from mailrail.invitations.consumers import send_invite
from mailrail.invitations.forms import InvitationForm
from mailrail.invitations.models import Invitation
from mailrail.layers import get_layer
from mailrail.mail import Email
from mailrail.mail.backend import EmailBackend
from mailrail.mail.mailers.refused_senders import RefusedSenders
from mailrail.mail.models import EmailFile, File, MailerState, RefusedSender
from mailrail.mail.records import erasure, moving, retention
from mailrail.schedule.admin import ACTIONS
from mailrail.schedule.models import ScheduleEntry
from mailrail.tasks.retention import prune
from mailrail.worker import IncomingMessage
from mailrail.worker.incoming import current_message
from mailrail.write_transactions import write_transaction

from .tasks import defined

QUEUES, DELIVERS = "mailrail.mail.backend.EmailBackend", "django.core.mail.backends.locmem.EmailBackend"
MAILER = "out" if django.VERSION >= (6, 1) else "default"
Operation = Callable[[], object]


@pytest.fixture
def sender(settings: Any, transactional_db: None) -> User:
    """Who invites, on a site that queues its mail, and begins transactions as Django does unless told otherwise."""
    if django.VERSION >= (6, 1):
        queue = {"BACKEND": QUEUES, "OPTIONS": {"deliver_with": "out"}}
        settings.MAILERS = {"default": queue, "out": {"BACKEND": DELIVERS}, "other": {"BACKEND": DELIVERS}}
    else:
        settings.EMAIL_BACKEND = QUEUES
        policies = {"other": {"BACKEND": DELIVERS}}
        settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": DELIVERS, "MAILERS": policies}
    settings.MAILRAIL = {**settings.MAILRAIL, "INVITATIONS_PER_SENDER": 100}
    return User.objects.create_user("sender", "sender@example.com")


@pytest.fixture
def deferred(monkeypatch: pytest.MonkeyPatch, sender: User) -> None:
    wrapper: Any = connections["default"]  # not Django's proxy, from which undoing would delete the attribute
    wrapper.ensure_connection()  # which takes the mode from the settings
    monkeypatch.setattr(wrapper, "transaction_mode", None)


@contextmanager
def another_writing() -> Iterator[list[bool]]:
    """Let another connection write after each read of a transaction. Yields whether it could, each time."""
    written: list[bool] = []

    def write_behind(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        answer = execute(sql, *rest)
        if sql.startswith("SELECT") and connection.in_atomic_block:
            written.append(_write())
        return answer

    with connection.execute_wrapper(write_behind):
        yield written


def _write() -> bool:
    with closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=0)) as other:
        try:
            with other:
                other.execute("INSERT INTO auth_group (name) VALUES (hex(randomblob(16)))")
        except sqlite3.OperationalError:  # database is locked
            return False
    return True


def queue(**options: Any) -> Email:
    message = EmailMessage("Hello", "A body.", "me@example.com", ["you@example.com"])
    message.attach("big.bin", b"big" * 50_000, "application/octet-stream")
    return mail.queue(message, **options)


def cancelled() -> Email:
    email = queue()
    mail.cancel(email)
    return email


def tomorrow() -> Any:
    return timezone.now() + timedelta(days=1)


def then(act: Operation, check: Operation) -> Operation:
    def operation() -> object:
        act()
        return check()

    return operation


# Each prepares something, and returns what reads and writes in one transaction, and is true once that is done.


def content_is_pruned(sender: User) -> Operation:
    cancelled()
    return lambda: [*retention.prune_bodies(tomorrow(), "default")] == [1] and not File.objects.exists()


def records_are_pruned(sender: User) -> Operation:
    cancelled()
    return lambda: [*retention.prune_records(tomorrow(), "default")] == [1] and not EmailFile.objects.exists()


def an_address_is_erased(sender: User) -> Operation:
    cancelled()
    return lambda: erasure.erase("you@example.com", "default").deleted == 1


def an_email_is_held(sender: User) -> Operation:
    email = queue()
    return lambda: mail.hold(email).done == [email.pk]


def emails_are_moved(sender: User) -> Operation:
    queue()
    return lambda: moving.move(MAILER, "other").moved == 1


def a_mailer_is_paused(sender: User) -> Operation:
    return then(lambda: mail.pause(MAILER), MailerState.objects.exists)


def a_sender_is_refused(sender: User) -> Operation:
    senders = RefusedSenders("", "default")
    senders.refuse("bad@example.com", "550 No")
    return then(senders.save, RefusedSender.objects.exists)


def a_consumer_sends_mail(sender: User) -> Operation:
    Channel("work").send({})
    return lambda: _send_mail_in_consumer(silently=False)


def a_consumer_sends_mail_silently(sender: User) -> Operation:
    Channel("work").send({})
    return lambda: _send_mail_in_consumer(silently=True)


def _send_mail_in_consumer(silently: bool) -> bool:
    [claim] = get_layer().claim("w", {"work": 1}, 60.0).claims
    token = current_message.set(IncomingMessage(claim))
    try:
        backend = EmailBackend(silently, deliver_with=MAILER if django.VERSION >= (6, 1) else None)
        return backend.send_messages([EmailMessage(to=["you@example.com"])]) == Email.objects.count() == 1
    finally:
        current_message.reset(token)


def somebody_is_invited(sender: User) -> Operation:
    return lambda: invite("guest@example.com", sender).pk


def many_are_invited(sender: User) -> Operation:
    return lambda: len(invite_many(["a@example.com", "b@example.com"], sender)) == 2


def an_invitation_is_sent_again(sender: User) -> Operation:
    invitation = invite("guest@example.com", sender)
    return then(lambda: resend(invitation), lambda: invitation.generation == 2)


def a_list_is_confirmed(sender: User) -> Operation:
    batch = draft([Entry(1, "guest@example.com")], sender)
    return lambda: confirm(batch) and Invitation.objects.count() == 1


def a_form_invites(sender: User) -> Operation:
    form = InvitationForm({"email": "guest@example.com"}, instance=Invitation(sender=sender))
    return lambda: form.is_valid() and form.save().pk


def invitations_are_mailed(sender: User) -> Operation:
    invite_many(["a@example.com", "b@example.com"], sender)
    claims = get_layer().claim("w", {"send-invite": 10}, 60.0).claims
    messages = [IncomingMessage(claim) for claim in claims]
    return then(lambda: send_invite(messages), lambda: Email.objects.count() == 2)


def tasks_are_pruned(sender: User) -> Operation:
    defined.do.enqueue("x")
    testing.drain()
    testing.advance(8 * 86400)
    return lambda: prune("default") == 1


def an_entry_is_paused_in_the_admin(sender: User) -> Operation:
    entry = ScheduleEntry(name="mine", cron="30 6 * * 1-5", task="tests.tasks.defined.add", args=[7])
    entry.save()
    request = RequestFactory().post("/", {"reason": "holidays"})
    request.user = sender
    page: Any = admin.site._registry[ScheduleEntry]
    return then(
        lambda: page._decide_one(request, entry, ACTIONS["pause"]),
        ScheduleEntry.objects.exclude(paused_at=None).exists,
    )


@pytest.mark.parametrize(
    "prepare",
    [
        content_is_pruned,
        records_are_pruned,
        an_address_is_erased,
        an_email_is_held,
        emails_are_moved,
        a_mailer_is_paused,
        a_sender_is_refused,
        a_consumer_sends_mail,
        a_consumer_sends_mail_silently,
        somebody_is_invited,
        many_are_invited,
        an_invitation_is_sent_again,
        a_list_is_confirmed,
        a_form_invites,
        invitations_are_mailed,
        tasks_are_pruned,
        an_entry_is_paused_in_the_admin,
    ],
    ids=lambda prepare: prepare.__name__,
)
def test_what_reads_before_it_writes_keeps_others_from_writing_in_between(
    prepare: Callable[[User], Operation], sender: User, deferred: None
) -> None:
    operation = prepare(sender)
    with another_writing() as written:
        assert operation()
    assert written and not any(written)


def test_a_transaction_that_only_reads_first_fails_at_once(deferred: None) -> None:
    """SQLite's rule, for which there is ``write_transaction``."""
    with another_writing() as written, transaction.atomic():
        User.objects.first()
        with pytest.raises(OperationalError, match="locked"):
            User.objects.update(first_name="x")
        transaction.set_rollback(True)
    assert written == [True]


def test_a_write_transaction_leaves_the_mode_of_others_alone(deferred: None) -> None:
    with write_transaction("default"), another_writing() as written:
        User.objects.first()
        with write_transaction("default"):
            User.objects.first()
        assert connection.transaction_mode is None  # type: ignore[attr-defined]
    with transaction.atomic(), another_writing() as written_elsewhere:
        User.objects.first()
    assert written == [False, False] and written_elsewhere == [True]
