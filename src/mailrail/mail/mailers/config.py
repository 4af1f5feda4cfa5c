"""Which mailer delivers: an alias in ``MAILERS``, or, without that setting, what ``MAILRAIL`` names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import django
from django.conf import settings as django_settings
from django.core.mail.backends import smtp as djangos
from django.core.mail.backends.base import BaseEmailBackend

from mailrail.autoreload import import_watched
from mailrail.conf import settings
from mailrail.errors import InvalidSettings

from .. import smtp as ours
from .policies import UNNAMED, policy_of

_SMTP = "django.core.mail.backends.smtp.EmailBackend"

LOCMEM = "django.core.mail.backends.locmem.EmailBackend"


def configured() -> Mapping[str, Any] | None:
    """Return ``MAILERS``, if the project has it and this Django knows it."""
    if django.VERSION < (6, 1):  # to look for it in Django's module takes 50 us
        return None
    value: Mapping[str, Any] | None = getattr(django_settings, "MAILERS", None)
    return value


def email_backend() -> str:
    """Return ``EMAIL_BACKEND``, without the warning that Django 6.1 has for whoever reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(getattr(django_settings, "EMAIL_BACKEND", ""))


_BY_OUR_CLIENT = (djangos.EmailBackend, ours.EmailBackend)
"""Exactly these classes: our SMTP client does all that they do."""


class Queueing:
    """Mark the backend that queues: it stores email, and a mailer of another backend delivers it."""


def is_ours(path: str) -> bool:
    """Tell whether this dotted path leads to the backend that queues."""
    return _leads_to(path, Queueing)


def is_smtp(path: str) -> bool:
    """Tell whether this dotted path leads to Django's SMTP backend, or to a subclass of it."""
    return _leads_to(path, djangos.EmailBackend)


def _leads_to(path: str, base: type) -> bool:
    try:
        backend = import_watched(path)
    except ImportError:
        return False
    return isinstance(backend, type) and issubclass(backend, base)


def is_by_our_client(path: str) -> bool:
    """Tell whether our SMTP client delivers for the backend of this dotted path."""
    return import_watched(path) in _BY_OUR_CLIENT


def alias_of(name: str) -> str:
    """Return the alias as records have it: without ``MAILERS``, "default" is a name for the one that has none."""
    return UNNAMED if name == "default" and configured() is None else name


def shown_alias(alias: str) -> str:
    """Return how settings call the mailer of a record: ``""`` where they know none of that name."""
    return alias or ("default" if configured() is None else "")


def check_delivering(alias: str) -> str:
    """Return ``alias``, if a mailer of that name can deliver. Raise ``InvalidSettings``, saying what to write."""
    where, path = backend_of(alias)
    if is_ours(path):
        raise InvalidSettings(
            f"{where} is the backend that queues: what it queues would be queued again, and never be sent. Name one "
            f"that delivers, such as {_SMTP}."
        )
    return alias


def default_alias() -> str:
    """Return the mailer that delivers what the project's default mailer queues.

    Raises ``InvalidSettings`` where that one does not queue, so that nobody can know.
    """
    known = configured()
    if known is None:
        return check_delivering(UNNAMED)
    default = known.get("default", {})
    options = default.get("OPTIONS", {})
    if default.get("BACKEND") == LOCMEM:
        return check_delivering("default")  # in a test: Django's runner has put it there
    if "deliver_with" not in options:
        raise InvalidSettings(
            'Say which mailer delivers, mailer="smtp", or let MAILERS["default"] queue: '
            '{"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "smtp"}}.'
        )
    alias: str = options["deliver_with"]
    return alias


def _is_test_run() -> bool:
    """Tell whether Django's test runner has put its own backend into ``EMAIL_BACKEND``, so that no test sends mail."""
    return email_backend() == LOCMEM


def backend_of(alias: str) -> tuple[str, str]:
    """Return the setting that defines a mailer, and the dotted path of its backend. Raise ``InvalidSettings``."""
    if not isinstance(alias, str):
        raise TypeError(f"A mailer is named by a string, its alias, not {alias!r}.")
    known = configured()
    if known is None:
        where, path = _without_mailers(alias)
        return where, LOCMEM if _is_test_run() else path
    if alias not in known:
        raise InvalidSettings(
            f"There is no mailer {alias!r} to deliver with. MAILERS has: {', '.join(sorted(known)) or 'none'}."
        )
    return f"MAILERS[{alias!r}]", str(known[alias].get("BACKEND", _SMTP))


def _without_mailers(alias: str) -> tuple[str, str]:
    if alias_of(alias) == UNNAMED:
        return "MAILRAIL['DELIVER_WITH']", settings.deliver_with
    if (path := policy_of(alias).backend) is not None:
        return f"MAILRAIL['MAILERS'][{alias!r}]", path
    raise InvalidSettings(
        f"There is no mailer {alias!r} to deliver with. Without MAILERS, which Django 6.1 has, define it: "
        f"MAILRAIL['MAILERS'][{alias!r}] = {{'BACKEND': …, 'OPTIONS': {{…}}}}."
    )


def composes(alias: str) -> bool:
    """Tell whether this mailer's backend writes emails as bytes. Services with an API, such as Anymail's, take
    fields."""
    is_composing = policy_of(alias).composes
    return not _is_of_anymail(backend_of(alias)[1]) if is_composing is None else is_composing


def may_be_composed(alias: str) -> bool:
    """Tell whether this mailer's backend, or one that stands in for it, may write its email as bytes."""
    return any(composes(alias_of(name)) for name in (alias, *policy_of(alias).failover))


@lru_cache(maxsize=64)
def _is_of_anymail(path: str) -> bool:
    return hasattr(import_watched(path), "esp_name")


def delivering() -> list[str]:
    """Return the mailers that can deliver, named as records name them."""
    known = configured()
    names = ["default", *settings.mailers] if known is None else known
    return list(dict.fromkeys(alias_of(name) for name in names if not is_ours(backend_of(name)[1])))


def open_backend(alias: str) -> BaseEmailBackend:
    """Return a new object of the backend that delivers. Raise what the backend raises for its options."""
    check_delivering(alias)
    return make_backend(alias, options_of(alias))


def options_of(alias: str) -> dict[str, Any]:
    """Return the options that the settings have for the backend of a mailer."""
    known = configured()
    if known is not None:
        return dict(known[alias].get("OPTIONS", {}))
    return {} if alias_of(alias) == UNNAMED or _is_test_run() else dict(policy_of(alias).options)


def make_backend(alias: str, options: Mapping[str, Any]) -> BaseEmailBackend:
    """Return a new object of a mailer's backend with these options. Raise what the backend raises for them."""
    kind: Any = import_watched(backend_of(alias)[1])
    # Django 6.1 warns whoever makes its SMTP backend without an alias; None means: by the EMAIL_… settings.
    named: dict[str, Any] = {"alias": alias} if configured() is not None else {}
    if not named and kind.__init__ is djangos.EmailBackend.__init__:
        named = {"alias": None}
    backend: BaseEmailBackend = kind(**named, **options)
    return backend


def server_of(backend: BaseEmailBackend) -> ours.SmtpServer | None:
    """Return the server, if our client delivers: for Django's own backend and ours. Return ``None`` for any other.

    A subclass is called as it is: it may do something of its own in ``open``, ``send_messages`` or ``ssl_context``.
    """
    if type(backend) is ours.EmailBackend:
        return backend.server
    return ours.server_of(backend) if type(backend) is djangos.EmailBackend else None


def server_for(alias: str, backend: BaseEmailBackend) -> ours.SmtpServer | None:
    """Return the server with what the mailer's policy says of talking to it."""
    server, policy = server_of(backend), policy_of(alias)
    is_plain = (
        policy.local_hostname is None and not policy.ignore_extensions and policy.max_recipients is None
    )
    if server is None or is_plain:
        return server
    return replace(
        server,
        local_hostname=policy.local_hostname or server.local_hostname,
        ignored_extensions=server.ignored_extensions | policy.ignore_extensions,
        max_recipients=policy.max_recipients or server.max_recipients,
    )
