"""Test queued email: deliver it into Django's ``mail.outbox`` on the calling thread, without a socket."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core import mail
from django.core.mail import EmailMessage
from django.db import router
from django.db.models import F
from django.test import override_settings

from ..mail.mailers.config import LOCMEM, configured, is_ours
from ..terminal import counted
from .messages import drain, sent

if TYPE_CHECKING:
    from ..mail import Email

CHANNEL = "mailrail.mail"
QUEUES = "mailrail.mail.backend.EmailBackend"
_MOVED = {
    "Email": ("send_at", "expires_at", "next_try_at", "created_at", "changed_at"),
    "MailerState": ("probe_at", "since"),
}


def mail_queue() -> override_settings:
    """Send Django's mail through the queue: a decorator of tests and test classes, and a context manager.

    Django's test runner puts all mail into ``mail.outbox`` at once, past the queue. With this, email is queued as in
    the project, and ``deliver`` puts it into ``mail.outbox``.
    """
    if configured() is not None:
        return override_settings(MAILERS=_queueing_mailers())
    delivering = {**getattr(settings, "MAILRAIL", {}), "DELIVER_WITH": LOCMEM}
    return override_settings(EMAIL_BACKEND=QUEUES, MAILRAIL=delivering)


def _queueing_mailers() -> dict[str, Any]:
    """Return the project's mailers, with ``locmem`` for those that use a server. The default one always queues."""
    mailers: dict[str, Any] = {alias: {"BACKEND": LOCMEM} for alias in {**settings.MAILERS, "outbox": {}}}
    mailers["default"] = {"BACKEND": QUEUES, "OPTIONS": {"deliver_with": "outbox"}}
    for alias, mailer in _mailers_of_the_project().items():
        options = mailer.get("OPTIONS", {})
        if is_ours(str(mailer.get("BACKEND", ""))) and options.get("deliver_with") in mailers:
            mailers[alias] = {"BACKEND": QUEUES, "OPTIONS": options}
    return mailers


def _mailers_of_the_project() -> Mapping[str, Any]:
    """Read MAILERS from the settings module: in ``settings`` the test runner has replaced every backend."""
    module = os.environ.get(ENVIRONMENT_VARIABLE)  # settings.SETTINGS_MODULE is None inside override_settings
    written: Mapping[str, Any] = getattr(import_module(module), "MAILERS", {}) if module else {}
    return written


def queued_emails(*, to: str | None = None, subject: str | None = None) -> list[Email]:
    """Return the records of queued email in the order of queueing.

    ``to``: the address of one recipient. ``subject``: the whole subject.
    """
    _check_installed()
    from ..mail import Email, Status

    waiting = Email.objects.using(router.db_for_write(Email)).filter(status=Status.QUEUED).order_by("pk")
    return [
        email
        for email in waiting
        if (to is None or any(recipient["address"] == to for recipient in email.recipients))
        and (subject is None or email.subject == subject)
    ]


def assert_queued(count: int = 1, *, to: str | None = None, subject: str | None = None) -> list[Email]:
    """Return the queued email, if there are ``count``. Otherwise raise ``AssertionError``, which lists them."""
    emails = queued_emails(to=to, subject=subject)
    if len(emails) != count:
        lines = [
            f"  {email.subject!r} to {', '.join(recipient['address'] for recipient in email.recipients)}"
            for email in queued_emails()
        ]
        raise AssertionError(
            "\n".join(
                [f"{counted(len(emails), 'such email')} queued, not {count}. Queued:", *(lines or ["  none"])]
            )
        )
    return emails


def deliver(*, raise_errors: bool = True) -> list[EmailMessage]:
    """Deliver due queued email, and return the messages added to ``mail.outbox``, in order.

    Email is settled as by a worker. With ``raise_errors``, due email that was not sent raises ``AssertionError``.
    """
    _check_installed()
    if not hasattr(mail, "outbox"):
        raise AssertionError(
            "There is no mail.outbox: deliver() is for tests, which Django's runner or pytest starts."
        )
    before = len(mail.outbox)
    ran = drain(CHANNEL, raise_errors=raise_errors)
    if raise_errors:
        now = time.time()
        kept = (message for message in sent(CHANNEL) if (message.due or 0.0) <= now)  # of paused mailers
        _check_left(
            [*(run.message.get("id") for run in ran), *(message.content.get("id") for message in kept)]
        )
    return list(mail.outbox[before:])


def _check_left(ids: list[Any]) -> None:
    from ..mail import Email, Status

    unsent = (Status.QUEUED, Status.SENDING, Status.FAILED)
    for email in Email.objects.using(router.db_for_write(Email)).filter(pk__in=ids, status__in=unsent):
        event = email.events[-1] if email.events else {}
        reason = event.get("why") or event.get("text") or "its mailer cannot be used, or is paused"
        raise AssertionError(f"{email.subject!r} is {email.status}, not sent: {reason}")


def advance_mail(seconds: float) -> None:
    """Move the times of all email records back by ``seconds``."""
    from ..mail.mailers import circuit

    circuit.forget()
    by = timedelta(seconds=seconds)
    for name, fields in _MOVED.items():
        model: Any = apps.get_model("mailrail_mail", name)
        model.objects.using(router.db_for_write(model)).update(**{field: F(field) - by for field in fields})


def _check_installed() -> None:
    if not apps.is_installed("mailrail.mail"):
        raise AssertionError('"mailrail.mail" is not in INSTALLED_APPS, so no email is queued.')
