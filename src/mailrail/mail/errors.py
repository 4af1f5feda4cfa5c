"""What queueing raises.

MailrailError
└── CannotQueue            this email, as it is, can never be sent: nothing was stored
    ├── EmailTooLarge      larger than MAILRAIL["MAIL_MAX_BYTES"]
    └── KeyConflict        another email, with other content, has this key
"""

from __future__ import annotations

from mailrail import MailrailError


class CannotQueue(MailrailError, ValueError):
    """Report an email that can never be sent as it is, and what to change. Nothing was stored."""


class EmailTooLarge(CannotQueue):
    """Report an email that is larger than ``MAILRAIL["MAIL_MAX_BYTES"]``."""


class KeyConflict(CannotQueue):
    """Report that another email has its key."""
