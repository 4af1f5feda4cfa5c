"""Find the site's address for links in email."""

from __future__ import annotations

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from mailrail.conf import settings


def base_url() -> str:
    """Return the site's address without a slash at its end.

    It is ``MAILRAIL["BASE_URL"]``, else the current site of ``django.contrib.sites``; ``ImproperlyConfigured`` if there
    is neither.
    """
    if settings.base_url:
        return settings.base_url.rstrip("/")
    if apps.is_installed("django.contrib.sites"):
        from django.contrib.sites.models import Site

        return f"https://{Site.objects.get_current().domain}"
    raise ImproperlyConfigured(
        'Links in email need to know where the site is: set MAILRAIL["BASE_URL"], for example '
        '"https://example.com", or put "django.contrib.sites" into INSTALLED_APPS.'
    )
