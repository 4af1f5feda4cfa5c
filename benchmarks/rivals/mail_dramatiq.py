"""dramatiq on Valkey, with the middleware it comes with; each thread keeps its connection to the database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import django
import dramatiq
from django.apps import apps
from dramatiq.brokers.redis import RedisBroker

if TYPE_CHECKING:
    from ..mail.models import Invitation

if not apps.ready:  # in its worker
    django.setup()
dramatiq.set_broker(RedisBroker(url=os.environ["BENCHMARKS_VALKEY"]))


@dramatiq.actor
def send_invite(id: int) -> None:
    from ..mail.models import invite

    invite(id, "smtp")


def fill(invitations: Sequence[Invitation]) -> None:
    for each in invitations:
        send_invite.send(each.pk)
