"""Say what a person may see and do on the live page, and in which language the person reads it.

``view_dashboard`` shows the page, ``operate_dashboard`` its actions. Links lead to pages of the admin, so they are for
members of staff with the permission of that page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from django.apps import apps
from django.contrib.auth import get_permission_codename
from django.urls import get_script_prefix, set_script_prefix
from django.utils import timezone, translation

VIEW = "mailrail_dashboard.view_dashboard"
OPERATE = "mailrail_dashboard.operate_dashboard"
OF_ACTIONS = (
    "mailrail.requeue_message",
    "mailrail.discard_message",
    "mailrail.cancel_message",
    "mailrail_mail.resend_email",
    "mailrail_mail.cancel_email",
    "mailrail_mail.pause_mailerstate",
)
SEE_ARGUMENTS = "mailrail_tasks.view_task_arguments"
"""What the admin asks of whoever sees arguments and progress of tasks."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Hold all that the page depends on beside the facts: equal viewers see the same page."""

    grants: frozenset[str]
    language: str
    zone: tzinfo
    prefix: str = "/"

    def may(self, permission: str) -> bool:
        return permission in self.grants

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Activate the viewer's language, time zone and prefix of URLs."""
        prefix = get_script_prefix()
        set_script_prefix(self.prefix)
        try:
            with translation.override(self.language), timezone.override(self.zone):
                yield
        finally:
            set_script_prefix(prefix)


def grants_of(user: Any) -> frozenset[str]:
    """Return the permissions of a user that matter to the page, as the user's backends tell them."""
    asked = [VIEW, OPERATE, SEE_ARGUMENTS, *OF_ACTIONS, *(_views_of_admin() if user.is_staff else ())]
    return frozenset(permission for permission in asked if user.has_perm(permission))


def viewer_of(user: Any) -> Viewer:
    """Return the viewer of a request, whose language and time zone are active."""
    return viewer_with(grants_of(user))


def viewer_with(grants: frozenset[str]) -> Viewer:
    """Return a viewer who has these permissions, with the language and the time zone that are active."""
    language = translation.get_language() or "en"
    return Viewer(grants, language, timezone.get_current_timezone(), get_script_prefix())


def _views_of_admin() -> Iterator[str]:
    """Yield the permission of each list that the admin has."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin import site

    for model in site._registry:
        yield f"{model._meta.app_label}.{get_permission_codename('view', model._meta)}"
