"""A system check: is the mail queue installed, and does nothing queue?

mailrail.mail.W007  the app is installed, and no mailer queues
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Warning, register

from .mailers.config import LOCMEM, configured, email_backend, is_ours

OF_TESTS = {LOCMEM, "django.core.mail.backends.dummy.EmailBackend"}
_QUEUE = "mailrail.mail.backend.EmailBackend"


@register()
def check_queue_is_used(**kwargs: Any) -> list[CheckMessage]:
    """Warn where ``send_mail`` goes past the queue, and nothing says that this is meant.

    A mailer that queues, or anything in ``MAILRAIL`` about mailers, says so; a test run has its own backend.
    """
    known = configured()
    if known is not None:
        where, path = _default_of(known)
        is_meant = any(is_ours(_backend_of(mailer)) for mailer in known.values())
    else:
        where, path = "EMAIL_BACKEND", email_backend()
        is_meant = is_ours(path)
    options = getattr(django_settings, "MAILRAIL", {})
    is_meant = is_meant or (
        isinstance(options, Mapping) and bool({"DELIVER_WITH", "MAILERS"} & options.keys())
    )
    if is_meant or path in OF_TESTS or path.startswith("mailrail."):
        return []
    return [
        Warning(
            f'"mailrail.mail" is in INSTALLED_APPS, and {where} is {path or "missing"}: no email is queued.',
            hint=f"Let it queue, by {_QUEUE!r}. If only mail.queue() is to queue, silence this "
            "check in SILENCED_SYSTEM_CHECKS.",
            id="mailrail.mail.W007",
        )
    ]


def _default_of(known: Mapping[str, Any]) -> tuple[str, str]:
    return "MAILERS['default']", _backend_of(known["default"]) if "default" in known else ""


def _backend_of(mailer: Any) -> str:
    backend = mailer.get("BACKEND") if isinstance(mailer, Mapping) else None
    return str(backend or "django.core.mail.backends.smtp.EmailBackend")
