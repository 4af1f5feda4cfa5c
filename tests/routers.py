"""Where a test wants the records of email to be."""

from __future__ import annotations

import os
from typing import Any


class MailElsewhere:
    """On the database that ``MAILRAIL_TEST_MAIL_ON`` names."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return os.environ["MAILRAIL_TEST_MAIL_ON"] if model._meta.app_label == "mailrail_mail" else None

    db_for_write = db_for_read


class InvitationsOnPostgres:
    """Everything an invitation needs, on the server."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return (
            "postgres" if model._meta.app_label in ("mailrail_invitations", "auth", "mailrail_mail") else None
        )

    db_for_write = db_for_read
