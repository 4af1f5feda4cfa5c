"""The last stop of an email in development: behind the mail queue, in place of an SMTP server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from email.utils import parseaddr
from pathlib import Path

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from demo import environment


class EmailBackend(BaseEmailBackend):
    """Keeps each email as it would have been sent, in a file of its own that appears whole.

    Above its own headers stand those that a receiving server adds for the envelope (RFC 5321 4.4): whom it is from, and
    whom it was delivered to, which may be nobody of its ``To``. Both are mailboxes without names, as in SMTP.
    """

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        folder = environment.inbox_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return sum(self._keep(message, folder) for message in email_messages)

    def _keep(self, message: EmailMessage, folder: Path) -> bool:
        recipients = [_mailbox(address) for address in message.recipients()]
        if not recipients:
            return False
        sender = _mailbox(message.from_email)
        envelope = [f"Return-Path: <{sender}>", *(f"Delivered-To: {address}" for address in recipients)]
        content = "".join(f"{' '.join(line.split())}\n" for line in envelope).encode()
        name = f"{time.time_ns():020}-{secrets.token_hex(4)}"
        unfinished = folder / f"{name}.part"
        unfinished.write_bytes(content + message.message().as_bytes())
        unfinished.rename(unfinished.with_suffix(".eml"))
        return True


def _mailbox(address: str) -> str:
    """Return the address alone: ``Ann <ann@example.com>`` is one with a name."""
    return parseaddr(address)[1] or address
