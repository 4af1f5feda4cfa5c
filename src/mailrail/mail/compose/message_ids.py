"""Message-IDs of emails that have none of their own (RFC 5322 3.6.4)."""

from __future__ import annotations

from django.core.mail.utils import DNS_NAME

from mailrail import uuid7
from mailrail.conf import settings


def new_message_id() -> str:
    """Return a new one, of the domain in ``MAILRAIL["MAIL_MESSAGE_ID_DOMAIN"]``, or of this machine's name.

    They increase within a process, so that an index of them grows at its end.
    """
    return f"<{uuid7().hex}@{message_id_domain()}>"


def message_id_domain() -> str:
    return settings.mail_message_id_domain or str(DNS_NAME)
