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


class ReadsOnPostgres:
    """A replica, which is on the server, and not written to."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "postgres" if model._meta.app_label == "mailrail_invitations" else None

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *objects: Any, **hints: Any) -> bool:
        return True
