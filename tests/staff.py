"""Members of staff who may do in the admin what a test says."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.test import Client


def colleague(*permissions: str) -> Client:
    """Return the browser of a member of staff with these permissions alone."""
    user = User.objects.create_user("colleague", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client
