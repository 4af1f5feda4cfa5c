"""Emails on their way to a server that counts them: how fast they come, and our own worker under measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from django.core import mail
from django.db import connection

from mailrail import Channel

from ..processes import Process, running, runworker
from ..settings import FOLDER
from ..sink import accepted
from .models import Invitation, new_invitations

COUNTER = FOLDER / "accepted"
PROCESSES = 2
TIMEOUT_S = 240.0
EVERY = 0.003
UNIT = "emails/s"


def rate(count: int, before: int, processes: Sequence[Process], counter: Path = COUNTER) -> float:
    """Emails per second from the first ones that the server accepts to the last: without the start of processes."""
    first_at, first = 0.0, 0
    deadline = time.monotonic() + TIMEOUT_S
    while (come := accepted(counter) - before) < count:
        if come and not first:
            first_at, first = time.monotonic(), come
        if time.monotonic() > deadline or all(each.poll() is not None for each in processes):
            time.sleep(EVERY)
            if accepted(counter) - before < count:
                raise RuntimeError(f"{come} of {count} emails came.")
        time.sleep(EVERY)
    return (count - first) / (time.monotonic() - first_at)


def of_the_queue(count: int, processes: int = PROCESSES, *, keep: bool = False) -> float:
    """Queue, then let our workers deliver; every record has to say so in the end. ``keep``: what the table has."""
    if not keep:
        empty()
    before = _sent()
    mail.mailers["default"].send_messages([each.message() for each in new_invitations(count)])
    value = _drained("mailrail.mail", count, processes)
    if (sent := _sent() - before) != count:
        raise RuntimeError(f"{sent} of {count} records say that their email was sent.")
    return value


def _sent() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM mailrail_mail_email WHERE status = 'sent'")
        return int(cursor.fetchone()[0])


def of_the_consumer(count: int, processes: int = PROCESSES) -> float:
    """The seed's consumer, one message for each invitation."""
    empty()
    Channel("send-invite").send_many({"id": each.pk} for each in new_invitations(count))
    value = _drained("send-invite", count, processes)
    if left := Invitation.objects.filter(sent=None).count():
        raise RuntimeError(f"{left} of {count} invitations are not marked as sent.")
    return value


def _drained(channel: str, count: int, processes: int) -> float:
    before = accepted(COUNTER)
    with running(*runworker(channel, "--drain", "--processes", str(processes))) as worker:
        value = rate(count, before, [worker])
        worker.wait()
    if (twice := accepted(COUNTER) - before - count) > 0:
        raise RuntimeError(f"{twice} emails came twice.")
    return value


def empty() -> None:
    """No email and no message is left, and nothing of earlier measurements has still to be written."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE mailrail_mail_email, mailrail_mail_file, mailrail_message CASCADE")
        cursor.execute("CHECKPOINT")
