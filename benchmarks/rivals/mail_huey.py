"""huey on Valkey, by its app for Django."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import django
from django.apps import apps

if TYPE_CHECKING:
    from ..mail.models import Invitation

if not apps.ready:  # in its consumer
    django.setup()
from huey.contrib.djhuey import HUEY, db_task

__all__ = ["HUEY", "fill", "send_invite"]


@db_task()
def send_invite(id: int) -> None:
    from ..mail.models import invite

    invite(id, "smtp")


def fill(invitations: Sequence[Invitation]) -> None:
    for each in invitations:
        send_invite(each.pk)
