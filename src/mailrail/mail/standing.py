"""How an email stands by its recipients."""

from __future__ import annotations

from typing import Any

from .models import Status

FINAL_FOR_RECIPIENT = {Status.SENT.value, Status.FAILED.value, Status.SUPPRESSED.value}


def standing_of(recipients: Any) -> Status:
    """Return the status of an email whose recipients all have a final one.

    Those on the suppression list count for nothing beside others: whoever put them there wants them to get no email.
    """
    stand = {each["status"] for each in recipients}
    if Status.SENT.value in stand:
        return Status.PARTIAL if Status.FAILED.value in stand else Status.SENT
    return Status.FAILED if Status.FAILED.value in stand else Status.SUPPRESSED
