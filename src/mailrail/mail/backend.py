"""The backend that queues: ``send()`` stores the email, and a worker delivers it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import Error as AnyDatabaseError
from django.db import connections, router
from django.utils.log import AdminEmailHandler

from mailrail import LayerUnavailable
from mailrail.errors import InvalidSettings
from mailrail.log import logger_of
from mailrail.options import Mistakes
from mailrail.terminal import counted
from mailrail.worker import ExecutionContext, current_execution
from mailrail.write_transactions import write_transaction

from .errors import CannotQueue
from .mailers.config import UNNAMED, Queueing, configured
from .models import Email
from .queueing.accept import queue_all
from .queueing.sensitive import mark_password_reset

logger = logger_of("mailrail.mail")

OF_A_SERVER = (
    "host",
    "port",
    "username",
    "password",
    "use_tls",
    "use_ssl",
    "timeout",
    "ssl_keyfile",
    "ssl_certfile",
)
"""What callers may tell Django's SMTP backend: ``send_mail(auth_user=…)``, ``get_connection(host=…)``."""


class EmailBackend(Queueing, BaseEmailBackend):
    """Queues in the caller's transaction: what is rolled back was never sent.

    In a consumer, what an earlier run for the same message has queued is not queued again.

    ``deliver_with``: in ``MAILERS``, the alias of the mailer that delivers. Without ``MAILERS`` it is the backend that
    ``MAILRAIL["DELIVER_WITH"]`` names. ``fail_silently``: the backend logs an outage of the database or the layer, and
    an email that cannot be queued, and raises nothing. The same holds for Django's error mail. Raises ``TypeError`` for
    a server or a login that the caller names. Queued email leaves by its mailer, and no password belongs into a record.
    """

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        deliver_with: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not apps.is_installed("mailrail.mail"):
            raise InvalidSettings(
                'Add "mailrail.mail" to INSTALLED_APPS, and migrate: there is no table for email.'
            )
        self.fail_silently = fail_silently
        self.deliver_with = UNNAMED if deliver_with is None else deliver_with
        named = [name for name in OF_A_SERVER if kwargs.get(name) is not None]
        if named or deliver_with is None:
            self._refuse(named, deliver_with is None, kwargs.get("alias"))

    def _refuse(self, named: Sequence[str], is_unnamed: bool, alias: Any) -> None:
        """Raise for options of a server, and for ``MAILERS`` that do not say which mailer delivers."""
        mistakes = Mistakes()
        if is_unnamed and configured() is not None:
            error_text = (
                f"MAILERS[{alias!r}]['OPTIONS'] must say which mailer delivers: "
                '{"deliver_with": "smtp"}, and MAILERS["smtp"] says how.'
            )
            mistakes.add(InvalidSettings(error_text))
        if named:
            where = "the EMAIL_… settings" if configured() is None else f"MAILERS[{self.deliver_with!r}]"
            error_text = (
                f"{', '.join(named)} cannot be given for email that is queued: it is delivered by what {where} says. "
                "Set it there, or send this email by another backend."
            )
            mistakes.add(TypeError(error_text))
        mistakes.raise_any(InvalidSettings if len(mistakes.errors) > 1 else None)

    def send_messages(self, email_messages: Sequence[EmailMessage] | None) -> int:
        """Queue them, all or none. Returns how many: those without recipients are left out, as by Django's backends.

        With ``fail_silently`` those that can be queued are. What Django mails of its log is queued in that way, too. A
        request whose error cannot be mailed must still be answered.
        """
        messages = [message for message in email_messages or () if message.recipients()]
        execution = current_execution()
        if len(messages) == 1:  # as Django's form sends it
            mark_password_reset(messages[0])
        # Frames are looked through for error mail only.
        is_of_a_server = bool(messages) and messages[0].from_email == django_settings.SERVER_EMAIL
        if self.fail_silently or _complaining.get() or (is_of_a_server and _is_of_a_log()):
            return self._queue_silently(messages, execution)
        return queue_all(messages, self.deliver_with, execution)

    def _queue_silently(self, messages: Sequence[EmailMessage], execution: ExecutionContext | None) -> int:
        """Queue each in a savepoint, so that the caller's transaction continues."""
        if _is_in_event_loop():
            # Nobody can await a log. By a thread of its own, the loop stands still as it would with Django's backends.
            with ThreadPoolExecutor(1) as aside:
                return aside.submit(copy_context().run, self._queue_aside, messages, execution).result()
        try:
            with write_transaction(router.db_for_write(Email)):
                return queue_all(messages, self.deliver_with, execution)
        except (AnyDatabaseError, LayerUnavailable) as error:
            _complain(len(messages), error)
        except CannotQueue as error:
            if len(messages) > 1:
                return sum(self._queue_silently([message], execution) for message in messages)
            _complain(1, error)
        return 0

    def _queue_aside(self, messages: Sequence[EmailMessage], execution: ExecutionContext | None) -> int:
        try:
            return self._queue_silently(messages, execution)
        finally:
            connections.close_all()


def _is_in_event_loop() -> bool:
    """Tell whether Django refuses queries here (``django.utils.asyncio.async_unsafe``)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")


def _is_of_a_log() -> bool:
    """Tell whether Django's log handler is sending. With ``MAILERS``, it can no longer say ``fail_silently``."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is AdminEmailHandler.emit.__code__:
            return True
    return False


def _complain(count: int, error: Exception) -> None:
    """Log the error once: a log may be mailed to the admins, and that mail cannot be queued either."""
    if _complaining.get():
        return
    token = _complaining.set(True)
    try:
        logger.error("%s could not be queued", counted(count, "email"), exc_info=error)
    finally:
        _complaining.reset(token)


_complaining: ContextVar[bool] = ContextVar("mailrail.mail.complaining", default=False)
