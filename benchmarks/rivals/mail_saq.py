"""SAQ on Valkey: async tasks that work in 16 threads, each with an SMTP connection of its own that stays open."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from saq import Queue

if TYPE_CHECKING:
    from ..mail.models import Invitation

if not apps.ready:  # in its worker
    django.setup()
THREADS = 16
queue = Queue.from_url(os.environ["BENCHMARKS_VALKEY"])
_threads = ThreadPoolExecutor(THREADS)
_own = threading.local()


async def send_invite(context: Any, *, id: int) -> None:
    await asyncio.get_running_loop().run_in_executor(_threads, _send, id)


def _send(id: int) -> None:
    from django.core import mail
    from django.utils import timezone

    from ..mail.models import Invitation

    if not hasattr(_own, "connection"):
        _own.connection = mail.mailers["smtp"]
        _own.connection.open()
    invitation = Invitation.objects.get(pk=id)
    _own.connection.send_messages([invitation.message()])
    invitation.sent = timezone.now()
    invitation.save()


settings = {"queue": queue, "functions": [send_invite], "concurrency": THREADS}


def fill(invitations: Sequence[Invitation]) -> None:
    async def fill_all() -> None:
        await queue.connect()
        for each in invitations:
            await queue.enqueue("send_invite", id=each.pk, retries=1, timeout=60)
        await queue.disconnect()

    asyncio.run(fill_all())
