"""Invitations of two projects with namespaces in one table: neither has to do with the other's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from mailrail.invitations import get_invitation_model, invite
from mailrail.invitations.bulk import draft
from mailrail.invitations.consumers import unsent
from mailrail.invitations.errors import RecipientRefused
from mailrail.invitations.models import Invitation, InvitationBatch, every_invitation
from mailrail.layers import get_layer
from mailrail.moments import from_now

from ..listed import waiting_on

pytestmark = pytest.mark.django_db


@pytest.fixture
def become(settings: Any) -> Callable[[str], None]:
    def change(name: str) -> None:
        settings.MAILRAIL = {**settings.MAILRAIL, "NAMESPACE": name, "INVITATIONS_PER_RECIPIENT": 1}

    return change


def test_a_project_sees_counts_sends_and_opens_its_own_invitations_alone(
    become: Callable[[str], None], sender: User, browser: Client
) -> None:
    made, batches = {}, {}
    for name in ("", "shop", "forum"):
        become(name)
        made[name] = invite("you@example.com", sender)  # no limit is used up by others'
        batches[name] = draft([], sender)
        with pytest.raises(RecipientRefused):
            invite("you@example.com", sender)
    for name, invitation in made.items():
        become(name)
        assert list(every_invitation()) == list(Invitation.objects.all()) == [invitation]
        assert list(unsent(from_now(10.0))) == [invitation]
        assert InvitationBatch.objects.get() == batches[name]
        assert [each.content for each in waiting_on(get_layer(), "send-invite")] == [{"id": invitation.pk}]
    assert browser.get(made["forum"].accept_path()).status_code == 403  # it is somebody else's
    assert browser.get(made["shop"].accept_path()).status_code == 404
    assert {each.namespace for each in get_invitation_model()._base_manager.all()} == set(made)
