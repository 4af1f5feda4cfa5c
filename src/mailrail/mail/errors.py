"""What queueing raises.

MailrailError
└── CannotQueue            this email, as it is, can never be sent: nothing was stored
    ├── EmailTooLarge      larger than MAILRAIL["MAIL_MAX_BYTES"]
    └── KeyConflict        another email, with other content, has this key
"""

from __future__ import annotations

from mailrail import MailrailError


class CannotQueue(MailrailError, ValueError):
    """This email can never be sent as it is; the message says what to change. Nothing was stored."""


class EmailTooLarge(CannotQueue):
    """It is larger than ``MAILRAIL["MAIL_MAX_BYTES"]``."""


class KeyConflict(CannotQueue):
    """Another email has its key."""
