"""The benchmarks' project with email: ``smtp`` is Django's backend, ``pooled`` ours without a queue."""

from __future__ import annotations

import os

from .. import settings
from ..settings import *  # noqa: F403

INSTALLED_APPS = [*settings.INSTALLED_APPS, "mailrail.mail", "benchmarks.mail"]
_options = {"host": "127.0.0.1", "port": int(os.environ.get("BENCHMARKS_SMTP_PORT", "25"))}
MAILERS = {
    "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "smtp"}},
    "smtp": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": _options},
    "pooled": {"BACKEND": "mailrail.mail.smtp.EmailBackend", "OPTIONS": _options},
}
