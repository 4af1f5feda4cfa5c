"""What is queued together leaves in the order of its list, on every layer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.core import mail
from django.core.mail import EmailMessage, send_mass_mail
from django.utils import timezone

from mailrail.layers import get_layer
from mailrail.mail import hold, queue_many, unhold
from mailrail.testing import advance

from .conftest import messages, work

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

MANY = 150
"""Of one batch: two are delivered side by side."""


def left() -> list[str]:
    """The subjects of what a worker delivers now, in order."""
    mail.outbox.clear()
    if outbox := get_layer().outbox:
        outbox.relay()
    work()
    return [str(each.subject) for each in mail.outbox]


def subjects(of: Sequence[EmailMessage]) -> list[str]:
    return [str(each.subject) for each in of]


@pytest.mark.usefixtures("each_layer")
class TestOrder:
    def test_of_one_call(self) -> None:
        these = messages(MANY)
        queue_many(these)
        assert left() == subjects(these)

    def test_of_djangos_calls(self) -> None:
        these = [(f"Number {n}", "A body.", "me@example.com", [f"to{n}@example.com"]) for n in range(30)]
        send_mass_mail(these)
        assert left() == [subject for subject, *_ in these]

    def test_of_one_moment_and_several_calls(self) -> None:
        these, moment = messages(60), timezone.now() + timedelta(hours=1)
        for n in range(0, 60, 20):
            queue_many(these[n : n + 20], send_at=moment)
        advance(3601)
        assert left() == subjects(these)

    def test_of_what_a_person_unholds(self) -> None:
        these = messages(30)
        queued = queue_many(these)
        hold(queued)
        unhold(queued)
        assert left() == subjects(these)
