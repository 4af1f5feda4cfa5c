"""Which emails hold what only their recipients may read: links that set a password, invitations, codes.

The decision is made once, when an email is queued, and kept in a column of its own. So neither the stored message nor
its digest depends on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.core.mail import EmailMessage
from django.utils.module_loading import import_string

from mailrail.conf import settings
from mailrail.log import logger_of

logger = logger_of("mailrail.mail")
MARK = "mailrail_sensitive"
"""The attribute by which a message says it of itself."""
MAX_FRAMES = 20
"""How many callers are looked at: Django's form is the third, and each caller costs about 60 ns."""


def is_sensitive(message: EmailMessage) -> bool:
    """Tell whether only its recipients may read the message: the default of ``MAILRAIL["MAIL_SENSITIVE"]``.

    The attribute ``mailrail_sensitive`` of the message decides. An invitation has it, and so has what Django's
    ``PasswordResetForm.send_mail`` sends by the backend that queues.
    """
    return bool(getattr(message, MARK, False))


def decide(message: EmailMessage) -> bool:
    """Ask the project's function. An email is not lost because that fails: nobody reads it then."""
    try:
        return bool(_function(settings.mail_sensitive)(message))
    except Exception:  # whatever a function of the project raises
        logger.exception(
            "MAILRAIL['MAIL_SENSITIVE'] failed, so the admin shows nothing of what this email holds"
        )
        return True


@lru_cache(maxsize=8)
def _function(path: str) -> Callable[[EmailMessage], Any]:
    function: Callable[[EmailMessage], Any] = import_string(path)
    return function


def mark_password_reset(message: EmailMessage) -> None:
    """Mark the message if Django's form sends it: it says nothing of itself, so the callers are looked through."""
    # Imported by whoever uses the form. Where it is not, django.contrib.auth may not even be installed.
    form = getattr(sys.modules.get("django.contrib.auth.forms"), "PasswordResetForm", None)
    if form is None or hasattr(message, MARK):
        return
    sending, frame = form.send_mail.__code__, sys._getframe().f_back
    for _ in range(MAX_FRAMES):
        if frame is None:
            return
        if frame.f_code is sending:
            setattr(message, MARK, True)
            return
        frame = frame.f_back
