"""Check the settings of invitations (Django's system checks).

mailrail.invitations.E001  MAILRAIL names a model or a function that cannot be used
mailrail.invitations.E002  "mailrail" is not in INSTALLED_APPS
mailrail.invitations.W001  nobody has said where the site is
mailrail.invitations.W002  the site is still example.com (with --database)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, router

from mailrail.autoreload import import_watched
from mailrail.conf import read_for_checks, settings
from mailrail.errors import InvalidSettings

from .models import get_invitation_model

FUNCTIONS = ("invitation_may_invite", "invitation_emails_of")


@register()
def check_apps(**kwargs: Any) -> list[CheckMessage]:
    """Check that the app that carries the messages is installed."""
    if apps.is_installed("mailrail"):
        return []
    return [
        Error(
            '"mailrail.invitations" is in INSTALLED_APPS without "mailrail", which has the messages and the worker.',
            hint='Put "mailrail" at the top of INSTALLED_APPS, and migrate.',
            id="mailrail.invitations.E002",
        )
    ]


@register()
@read_for_checks()
def check_names(**kwargs: Any) -> list[CheckMessage]:
    """Check that the model and functions that MAILRAIL names exist."""
    return [*_check_model(), *(message for name in FUNCTIONS for message in _check_function(name))]


def _check_model() -> Iterable[CheckMessage]:
    try:
        get_invitation_model()
    except InvalidSettings:
        return  # mailrail.E001 reports it
    except ImproperlyConfigured as error:
        yield Error(str(error), id="mailrail.invitations.E001")


def _check_function(name: str) -> Iterable[CheckMessage]:
    try:
        path = getattr(settings, name)
    except InvalidSettings:
        return  # mailrail.E001 reports it
    try:
        problem = "" if callable(import_watched(path)) else "is not a function"
    except Exception as error:  # a module may raise anything
        problem = f"cannot be imported: {error}"
    if problem:
        yield Error(
            f"MAILRAIL[{name.upper()!r}] is {path!r}, which {problem}.", id="mailrail.invitations.E001"
        )


@register()
@read_for_checks()
def check_base_url(**kwargs: Any) -> list[CheckMessage]:
    """Check that the site's address for links is known."""
    try:
        is_known = settings.base_url or apps.is_installed("django.contrib.sites")
    except InvalidSettings:
        return []  # mailrail.E001 reports it
    if is_known:
        return []
    return [
        Warning(
            "Links in email need to know where the site is, and nobody has said it.",
            hint='MAILRAIL["BASE_URL"] = "https://example.com", with your domain, or "django.contrib.sites" in '
            "INSTALLED_APPS.",
            id="mailrail.invitations.W001",
        )
    ]


@register(Tags.database)
@read_for_checks()
def check_site(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that links do not lead to example.com. This reads the database, so it needs ``--database``."""
    try:
        if settings.base_url or not apps.is_installed("django.contrib.sites"):
            return []
    except InvalidSettings:
        return []  # mailrail.E001 reports it
    from django.contrib.sites.models import Site

    using = router.db_for_read(Site)
    site_id = getattr(django_settings, "SITE_ID", None)
    if using not in (databases or ()) or site_id is None:
        return []
    try:
        domain = Site.objects.using(using).filter(pk=site_id).values_list("domain", flat=True).first()
    except DatabaseError:
        return []  # not migrated yet
    if domain is None or domain.removesuffix(".").lower() != "example.com":
        return []
    return [
        Warning(
            "Links in email lead to https://example.com: the current site still has the domain it was made with.",
            hint=f'Change the domain of site {site_id} in the admin, or set MAILRAIL["BASE_URL"].',
            id="mailrail.invitations.W002",
        )
    ]
