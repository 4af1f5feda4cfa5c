"""Queues, and then something happens to the process, once: before the consumer can note that it has sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from django.core.mail import EmailMessage
from django.db import transaction

from mailrail.mail.backend import EmailBackend


def is_first() -> bool:
    """Of all processes, once."""
    try:
        Path(os.environ["MAILRAIL_TEST_ONCE"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def kill() -> None:
    if is_first():
        os.kill(os.getpid(), signal.SIGKILL)


class Killed(EmailBackend):
    """Its process dies once the record is committed, with its message."""

    def send_messages(self, email_messages: Sequence[EmailMessage] | None) -> int:
        count = super().send_messages(email_messages)
        kill()
        return count


class KilledBeforeItsMessage(EmailBackend):
    """Its process dies between the commit of the record and the message that says "now", on another server."""

    def send_messages(self, email_messages: Sequence[EmailMessage] | None) -> int:
        with transaction.atomic():
            transaction.on_commit(kill)
            return super().send_messages(email_messages)


class Raising(EmailBackend):
    """The consumer fails, and is tried again."""

    def send_messages(self, email_messages: Sequence[EmailMessage] | None) -> int:
        count = super().send_messages(email_messages)
        if is_first():
            raise RuntimeError("between the email and the note")
        return count
