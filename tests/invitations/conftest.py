from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client

from mailrail.invitations.models import Invitation


@pytest.fixture
def sender(db: None) -> User:
    return User.objects.create_user("sender", "sender@example.com")


@pytest.fixture
def invitation(sender: User) -> Invitation:
    made: Invitation = Invitation.objects.create(email="guest@example.com", sender=sender)
    return made


@pytest.fixture
def browser(client: Client, sender: User) -> Client:
    """A client that is logged in as the sender."""
    client.force_login(sender)
    return client


@pytest.fixture
def with_settings(settings: LazySettings) -> Callable[..., None]:
    base = settings.MAILRAIL

    def change(**changed: Any) -> None:
        settings.MAILRAIL = {**base, **changed}

    return change
