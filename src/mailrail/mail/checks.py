"""System checks of the mail queue.

mailrail.mail.E001  what is queued would be queued again: the mailer that delivers is the backend that queues
mailrail.mail.E002  the mailer that delivers is missing, or nobody has named it
mailrail.mail.E003  the backend that delivers does not import, or is none
mailrail.mail.E004  MAILRAIL["MAILERS"] has an unknown key, a wrong value, or names a mailer that there is not
mailrail.mail.E005  the backend that delivers, or the one that queues, cannot be made with its options
mailrail.mail.E006  the backend that queues is misspelled
mailrail.mail.E007  "mailrail" is not in INSTALLED_APPS
mailrail.mail.E008  MAILRAIL["MAIL_STORAGE"] is no alias in STORAGES
mailrail.mail.E009  MAILRAIL["MAIL_SENSITIVE"] is no function that can be imported
mailrail.mail.W001  outside development, the mailer that delivers writes to a screen, a file or nowhere
mailrail.mail.W002  fail_silently: email that cannot be queued is dropped
mailrail.mail.W003  a setting says how email is queued or delivered, and nobody reads it
mailrail.mail.W004  with --deploy: EHLO, or Message-IDs, name this machine without a domain
mailrail.mail.W005  with --database: email waits for a mailer that no setting defines
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import django
from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DEFAULT_DB_ALIAS, DatabaseError, router

from mailrail.autoreload import import_watched
from mailrail.conf import read_for_checks, settings
from mailrail.errors import InvalidSettings
from mailrail.terminal import counted

from .compose.common import message_id_domain
from .mailers.config import (
    UNNAMED,
    MailerPolicy,
    alias_of,
    backend_of,
    configured,
    delivering,
    email_backend,
    is_by_our_client,
    is_ours,
    is_smtp,
    make_backend,
    open_backend,
    options_of,
    policy_of,
    read,
    server_for,
    server_of,
)
from .models import Email
from .records.moving import unknown_mailers
from .server_checks import check_server

_SMTP = "django.core.mail.backends.smtp.EmailBackend"
MAX_MISTAKES = 20

FOR_DEVELOPMENT = {
    f"django.core.mail.backends.{name}.EmailBackend" for name in ("console", "dummy", "filebased", "locmem")
}


@register()
@read_for_checks()
def check_mail(**kwargs: Any) -> list[CheckMessage]:
    """Check that what is queued leaves, and by which backend."""
    if not apps.is_installed("mailrail"):
        return [
            Error(
                '"mailrail.mail" is in INSTALLED_APPS without "mailrail", which has the messages and the worker.',
                hint='Put "mailrail" at the top of INSTALLED_APPS, and migrate.',
                id="mailrail.mail.E007",
            )
        ]
    try:
        known = configured()
        if known is not None:
            return [
                *(message for alias in known for message in _check_mailer(alias, known)),
                *_check_unread(known),
            ]
        if is_ours(email_backend()):
            return list(_check_delivering(UNNAMED, "MAILRAIL['DELIVER_WITH']", settings.deliver_with))
        return [*_check_spelling("EMAIL_BACKEND", email_backend()), *_check_unread(known)]
    except InvalidSettings:
        return []  # mailrail.E001 tells


@register(Tags.database)
@read_for_checks()
def check_removed_mailers(databases: Collection[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Warn of email that waits for a mailer that was removed: only a person can move it."""
    using = router.db_for_read(Email) or DEFAULT_DB_ALIAS
    if using not in (databases or ()):
        return []
    try:
        unknown = unknown_mailers(using)
    except (DatabaseError, InvalidSettings):
        return []  # before the first migration; or other checks tell
    return [
        Warning(
            f"The mailer {alias or 'default'!r} has {counted(count, 'email')} waiting, and no setting defines it.",
            hint=f"Define it again, or let them leave by another: manage.py mailers move {alias or 'default'} NEW",
            id="mailrail.mail.W005",
        )
        for alias, count in unknown.items()
    ]


@register()
@read_for_checks()
def check_policies(**kwargs: Any) -> list[CheckMessage]:
    """Check rates, connections, lifetimes and failover."""
    try:
        raw = settings.mailers
    except InvalidSettings:
        return []  # mailrail.E001 tells
    policies, mistakes = read(raw)
    wrong = [
        f"MAILRAIL['MAILERS'][{alias!r}] {mistake}"
        for alias, policy in policies.items()
        for mistake in _wrong_with(alias, policy)
    ]
    return [Error(text, id="mailrail.mail.E004") for text in (*mistakes.texts, *wrong)]


@register()
@read_for_checks()
def check_storage(**kwargs: Any) -> list[CheckMessage]:
    """Check that there is a place for attachments. Small ones never need it."""
    try:
        alias = settings.mail_storage
    except InvalidSettings:
        return []  # mailrail.E001 tells
    if alias is None or alias in django_settings.STORAGES:
        return []
    return [
        Error(
            f"MAILRAIL['MAIL_STORAGE'] is {alias!r}, which is no alias in STORAGES. It has: "
            f"{', '.join(sorted(django_settings.STORAGES))}.",
            hint="Name one of them, or leave MAIL_STORAGE out: then attachments are kept in the database.",
            id="mailrail.mail.E008",
        )
    ]


@register()
@read_for_checks()
def check_sensitive(**kwargs: Any) -> list[CheckMessage]:
    """Check that the function can be called that says which emails only recipients may read."""
    try:
        path = settings.mail_sensitive
    except InvalidSettings:
        return []  # mailrail.E001 tells
    try:
        wrong = "" if callable(import_watched(path)) else "which is no function"
    except Exception as error:  # a module may raise anything
        wrong = f"which cannot be imported: {error}"
    if not wrong:
        return []
    return [
        Error(
            f"MAILRAIL['MAIL_SENSITIVE'] is {path!r}, {wrong}.",
            hint="Give the dotted path of a function (message) -> bool, or leave it out.",
            id="mailrail.mail.E009",
        )
    ]


@register(deploy=True)
@read_for_checks()
def check_names(**kwargs: Any) -> list[CheckMessage]:
    """Check that servers elsewhere accept this machine's name. Its name server is asked, so only with ``--deploy``."""
    messages: list[CheckMessage] = []
    for check in (_check_ehlo, _check_message_ids):
        with suppress(Exception):  # whatever is wrong with a mailer: the other checks tell
            messages += list(check())
    return messages


def _check_ehlo() -> Iterable[CheckMessage]:
    for alias in delivering():
        server = server_for(alias, open_backend(alias))
        name = alias or "default"
        if server is not None and _is_no_domain(server.local_hostname):
            yield Warning(
                f"The mailer {name!r} greets its server as {server.local_hostname!r}, which is no name with a domain "
                "(RFC 5321 4.1.1.1): some servers refuse such mail, or hold it to be spam.",
                hint=f"Name this machine: MAILRAIL['MAILERS'][{name!r}]['LOCAL_HOSTNAME'] = 'www1.example.com'.",
                id="mailrail.mail.W004",
            )


def _check_message_ids() -> Iterable[CheckMessage]:
    if _is_no_domain(domain := message_id_domain()):
        yield Warning(
            f"Message-IDs end in '@{domain}', which is no domain of yours (RFC 5322 3.6.4).",
            hint="MAILRAIL['MAIL_MESSAGE_ID_DOMAIN'] = 'example.com'.",
            id="mailrail.mail.W004",
        )


def _is_no_domain(name: str) -> bool:
    """Tell whether a name is no domain, such as the resolver's ``localhost.localdomain``."""
    return not name.startswith("[") and ("." not in name.strip(".") or name.endswith(".localdomain"))


def _wrong_with(alias: str, policy: MailerPolicy) -> Iterable[str]:
    yield from _wrong_with_mailer(alias, policy)
    for name in policy.failover:
        if alias_of(name) == alias_of(alias):
            yield f"['FAILOVER'] names the mailer itself, {name!r}."
        elif (reason := _cannot_deliver(name)) is not None:
            yield f"['FAILOVER'] names {name!r}, by which nothing can leave. {reason}"


def _wrong_with_mailer(alias: str, policy: MailerPolicy) -> Iterable[str]:
    known = configured()
    if (policy.backend is not None or policy.options) and (known is not None or alias_of(alias) == UNNAMED):
        where = "MAILERS" if known is not None else "MAILRAIL['DELIVER_WITH'] and Django's EMAIL_* settings"
        yield f"has BACKEND or OPTIONS, which {where} say of this mailer. Leave them out here."
    elif known is not None and alias in known and is_ours(backend_of(alias)[1]):
        target = known[alias].get("OPTIONS", {}).get("deliver_with")
        yield f"is about a mailer that queues. Say it of the one that delivers, {target!r}."
    elif _is_unread(alias):
        return
    elif (reason := _cannot_deliver(alias)) is not None:
        yield f"is about no mailer that delivers. {reason}"
    elif policy.composes is False and is_smtp(backend_of(alias)[1]):
        yield "has COMPOSES, and SMTP carries bytes: leave it out."
    elif not is_by_our_client(backend_of(alias)[1]):
        for key in ("LOCAL_HOSTNAME", "IGNORE_EXTENSIONS", "MAX_RECIPIENTS"):
            if getattr(policy, key.lower()):
                yield f"has {key}, which only Django's SMTP backend and mailrail.mail.smtp.EmailBackend have."


def _cannot_deliver(alias: str) -> str | None:
    try:
        where, path = backend_of(alias)
    except InvalidSettings as error:
        return None if _is_unread(alias) else str(error)
    wrong = [message for message in _check_path(where, path) if isinstance(message, Error)]
    return str(wrong[0].msg) if wrong else None


def _is_unread(alias: str) -> bool:
    """Tell whether the setting that defines this mailer in ``MAILRAIL`` is wrong, which E004 or mailrail.E001
    reports."""
    if configured() is not None:
        return False
    if alias_of(alias) != UNNAMED:
        options = settings.mailers.get(alias, {})
        return not isinstance(options, Mapping) or ("BACKEND" in options and policy_of(alias).backend is None)
    try:
        backend_of(alias)
    except InvalidSettings:
        return True
    return False


def _check_mailer(alias: str, known: Mapping[str, Any]) -> Iterable[CheckMessage]:
    where, mailer = f"MAILERS[{alias!r}]", known[alias]
    if not isinstance(mailer, Mapping):
        return
    yield from _check_spelling(f"{where}['BACKEND']", str(mailer.get("BACKEND", _SMTP)))
    options = mailer.get("OPTIONS", {})
    if not is_ours(str(mailer.get("BACKEND", _SMTP))) or not isinstance(options, Mapping):
        return
    if options.get("fail_silently"):
        yield Warning(
            f"{where} has fail_silently: while the database is away, email is dropped, and only the log knows.",
            hint='Remove "fail_silently" from its OPTIONS; a form that cannot queue its email should fail.',
            id="mailrail.mail.W002",
        )
    target = options.get("deliver_with")
    if not isinstance(target, str) or not isinstance(known.get(target), Mapping):
        mistake = f"delivers with {target!r}, which is no mailer in MAILERS"
        if target is None:
            mistake = "does not say which mailer delivers"
        yield Error(
            f"{where} {mistake}.",
            hint='"OPTIONS": {"deliver_with": "smtp"}, and MAILERS["smtp"] says how.',
            id="mailrail.mail.E002",
        )
        return
    yield from _check_queueing(alias, target)
    yield from _check_delivering(target, f"MAILERS[{target!r}]", str(known[target].get("BACKEND", _SMTP)))


def _check_queueing(alias: str, target: str) -> Iterable[CheckMessage]:
    """Find options of a server that stayed when a mailer began to queue: otherwise its first email would find them."""
    for error in _errors_of_options(alias):
        yield Error(
            f"The mailer that queues cannot be made: {error}",
            hint=f'Its "OPTIONS" are {{"deliver_with": {target!r}}}; what they say of a server belongs into '
            f"MAILERS[{target!r}].",
            id="mailrail.mail.E005",
        )


def _check_spelling(where: str, path: str) -> Iterable[CheckMessage]:
    if not path.startswith("mailrail."):
        return
    try:
        import_watched(path)
    except ImportError as error:
        yield Error(
            f"{where} is {path!r}, which cannot be imported: {error}",
            hint='The backend that queues is "mailrail.mail.backend.EmailBackend".',
            id="mailrail.mail.E006",
        )


def _check_unread(known: Mapping[str, Any] | None) -> Iterable[CheckMessage]:
    written = getattr(django_settings, "MAILERS", None)
    if known is None and isinstance(written, Mapping):
        queueing = [
            alias for alias, options in written.items() if isinstance(options, Mapping) and _queues(options)
        ]
        if queueing:
            yield Warning(
                f"MAILERS[{queueing[0]!r}] queues email, but Django {django.__version__} does not read MAILERS.",
                hint='Before Django 6.1, write EMAIL_BACKEND = "mailrail.mail.backend.EmailBackend", EMAIL_HOST = …',
                id="mailrail.mail.W003",
            )
    configured = getattr(django_settings, "MAILRAIL", {})
    if known is not None and isinstance(configured, Mapping) and "DELIVER_WITH" in configured:
        yield Warning(
            "MAILRAIL['DELIVER_WITH'] is not read in a project with MAILERS.",
            hint='Remove it: there, "OPTIONS": {"deliver_with": "smtp"} of the mailer that queues names the one that '
            "delivers.",
            id="mailrail.mail.W003",
        )


def _queues(mailer: Mapping[str, Any]) -> bool:
    return is_ours(str(mailer.get("BACKEND", _SMTP)))


def _check_delivering(alias: str, where: str, path: str) -> Iterable[CheckMessage]:
    messages = list(_check_path(where, path))
    yield from messages
    if not any(isinstance(message, Error) for message in messages) and path not in FOR_DEVELOPMENT:
        yield from _check_options(alias, where, path)


def _check_options(alias: str, where: str, path: str) -> Iterable[CheckMessage]:
    """Make the backend with its options. Nothing is opened, as a backend connects when it sends."""
    errors = _errors_of_options(alias)
    for error in errors:
        yield Error(
            f"{where} delivers what is queued, and {path} cannot be made: {error}",
            id="mailrail.mail.E005",
        )
    if errors:
        return
    yield from check_server(where, open_backend(alias))


def _errors_of_options(alias: str) -> Collection[str]:
    """Return all that a backend says of its options, a text for each mistake.

    A backend may stop at its first mistake. So it is made again without the options that its error names, or with the
    one that it lacks, until it says nothing new.
    """
    options, errors = options_of(alias), dict[str, None]()
    for _ in range(MAX_MISTAKES):
        try:
            server_of(make_backend(alias, options))
            break
        except Exception as error:  # whatever a backend says of its settings
            texts = getattr(error, "mistakes", None) or [f"{type(error).__name__}: {error}"]
            named = {*re.findall(r"\w+", str(error))}
        fewer = {name: value for name, value in options.items() if name not in named}
        if fewer == options and "host" in named:
            fewer["host"] = "localhost"
        errors |= dict.fromkeys(texts)
        if fewer == options:
            break
        options = fewer
    return errors


def _check_path(where: str, path: str) -> Iterable[CheckMessage]:
    try:
        backend = import_watched(path)
    except Exception as error:  # a module may raise anything
        yield Error(
            f"{where} is {path!r}, which cannot be imported: {error}",
            hint=f"Give the dotted path of a backend that delivers, such as {_SMTP!r}.",
            id="mailrail.mail.E003",
        )
        return
    if not callable(getattr(backend, "send_messages", None)) and isinstance(backend, type):
        yield Error(
            f"{where} is {path!r}, which is no email backend: it has no send_messages().",
            hint=f"Name a backend that delivers, such as {_SMTP!r}.",
            id="mailrail.mail.E003",
        )
    elif is_ours(path):
        yield Error(
            f"{where} delivers what is queued, and is the backend that queues: nothing would ever leave.",
            hint=f"Name a backend that delivers, such as {_SMTP!r}.",
            id="mailrail.mail.E001",
        )
    elif path in FOR_DEVELOPMENT and not django_settings.DEBUG:
        yield Warning(
            f"{where} delivers by {path}, with DEBUG off: nobody gets this email.",
            hint=f"Name a backend that delivers, such as {_SMTP!r}.",
            id="mailrail.mail.W001",
        )
