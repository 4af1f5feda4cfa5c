"""Which mailer delivers, and what ``MAILRAIL["MAILERS"]`` says of each: how fast, how long, who stands in.

    MAILRAIL = {
        "MAILERS": {
            "smtp": {
                "RATE": "14/s, 50000/d",
                "RATES": {"gmail.com": "5/s"},
                "CONNECTIONS": 10,
                "MAX_RECIPIENTS": 100,
                "LIFETIME": timedelta(days=1),
                "FAILOVER": ["backup"],
                "REPLIES": ["gmail", {"code": 554, "text": "quota exceeded", "means": "later"}],
            },
            "api": {"COMPOSES": False},
            "relay": {"LOCAL_HOSTNAME": "www1.example.com", "IGNORE_EXTENSIONS": ["PIPELINING"]},
        },
    }

The keys are aliases in ``MAILERS``. Without that setting, "default" is the mailer of ``EMAIL_HOST`` and the other
``EMAIL_…`` settings. Any other mailer is defined here, by ``BACKEND`` and ``OPTIONS`` as in Django 6.1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import django
from django.conf import settings as django_settings
from django.core.mail.backends import smtp as djangos
from django.core.mail.backends.base import BaseEmailBackend

from mailrail import options as checked
from mailrail.addresses import normal_domain
from mailrail.autoreload import import_watched
from mailrail.conf import is_in_check, settings
from mailrail.errors import InvalidSettings
from mailrail.options import Mistakes
from mailrail.routing import Rate

from .. import smtp as ours
from ..smtp.replies import ReplyRule
from ..smtp.server import check_extensions, check_local_hostname
from .reply_rules import read_replies

UNNAMED = ""
"""The alias of the one mailer there is without ``MAILERS``, ``MAILRAIL["DELIVER_WITH"]``; settings say "default"."""


@dataclass(frozen=True)
class MailerPolicy:
    """Of one mailer. ``rates``: by recipient domain; ``backend``: where Django's ``MAILERS`` does not say it.

    ``replies``: what its server means by some of its replies; the first rule that matches counts.
    ``local_hostname``: what EHLO says; ``ignore_extensions``: of SMTP, not used though the server offers them.
    ``max_recipients``: of an email in one transaction.
    ``composes``: whether its backend writes emails as bytes; ``None``: as its class tells.
    """

    rate: tuple[Rate, ...] = ()
    rates: Mapping[str, tuple[Rate, ...]] = field(default_factory=dict)
    connections: int | None = None
    max_recipients: int | None = None
    lifetime: float | None = None
    failover: tuple[str, ...] = ()
    replies: tuple[ReplyRule, ...] = ()
    composes: bool | None = None
    local_hostname: str | None = None
    ignore_extensions: frozenset[str] = frozenset()
    backend: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


NONE = MailerPolicy()


def policy_of(alias: str) -> MailerPolicy:
    """Return a mailer's policy. Raise ``InvalidSettings`` if anything in ``MAILRAIL["MAILERS"]`` is wrong, which checks
    report earlier."""
    global _built
    raw, policies = settings.mailers, _built[1]
    if _built[0] is not raw:
        policies, mistakes = read(raw)
        if not (mistakes.errors and is_in_check()):
            mistakes.raise_any(InvalidSettings)
            _built = raw, policies
    return policies.get(alias or "default", NONE)


_built: tuple[Mapping[str, Any] | None, Mapping[str, MailerPolicy]] = None, {}
"""The value of the setting, and the policies that were read from it, as every email asks."""


def lifetime_of(alias: str) -> float:
    """Return for how many seconds an email is tried that a server refuses for now."""
    lifetime = policy_of(alias).lifetime
    return settings.mail_lifetime if lifetime is None else lifetime


def build(raw: Mapping[str, Any]) -> dict[str, MailerPolicy]:
    """Read the policies. Raises ``InvalidSettings`` that names the settings, and says all that is wrong with them."""
    policies, mistakes = read(raw)
    mistakes.raise_any(InvalidSettings)
    return policies


def read(raw: Mapping[str, Any]) -> tuple[dict[str, MailerPolicy], Mistakes]:
    """Return the policies, of what is right in each, and what is wrong."""
    mistakes = Mistakes(InvalidSettings, TypeError, ValueError)
    policies = {
        alias: _policy(f"MAILRAIL['MAILERS'][{alias!r}]", options, mistakes) for alias, options in raw.items()
    }
    return policies, mistakes


def _policy(where: str, options: Any, mistakes: Mistakes) -> MailerPolicy:
    values: dict[str, Any] = {}
    if not isinstance(options, Mapping):
        mistakes.add(InvalidSettings(f"{where} must be a dictionary, not {options!r}."))
        options = {}
    for key, value in options.items():
        with mistakes.noted():
            if key not in _READ:
                raise InvalidSettings(f"{where} has no key {key!r}. It knows: {', '.join(sorted(_READ))}.")
            values[key.lower()] = _READ[key](f"{where}[{key!r}]", value)
    return MailerPolicy(**values)


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
    """Tell whether our SMTP client delivers for the backend of this dotted path: it does all that these classes do."""
    return import_watched(path) in (djangos.EmailBackend, ours.EmailBackend)


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


def backend_of(alias: str) -> tuple[str, str]:
    """Return the setting that defines a mailer, and the dotted path of its backend. Raise ``InvalidSettings``."""
    if not isinstance(alias, str):
        raise TypeError(f"A mailer is named by a string, its alias, not {alias!r}.")
    known = configured()
    if known is None:
        where, path = _without_mailers(alias)
        # Django's test runner puts its own backend into EMAIL_BACKEND, so that no test sends mail.
        return where, LOCMEM if email_backend() == LOCMEM else path
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
    return {} if alias_of(alias) == UNNAMED or email_backend() == LOCMEM else dict(policy_of(alias).options)


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


# -- one value of a policy each ---------------------------------------------------------------------------------------


def _rate(where: str, value: Any) -> tuple[Rate, ...]:
    """Read one rate or several, each over a time of its own. Return the shortest first."""
    parts = value.split(",") if isinstance(value, str) else [value]
    try:
        rates = [Rate.parse(part) for part in parts]
    except ValueError as error:
        raise InvalidSettings(
            f"{where} must be one rate or several, such as '10/s, 1000/h, 20000/d': {error}"
        ) from None
    if len({rate.seconds for rate in rates}) < len(rates):
        raise InvalidSettings(f"{where} has two rates over the same time, {value!r}. Leave the lower one.")
    return tuple(sorted(rates, key=lambda rate: rate.seconds))


def _rates(where: str, value: Any) -> dict[str, tuple[Rate, ...]]:
    if not isinstance(value, Mapping):
        raise InvalidSettings(
            f"{where} must be a dictionary of recipient domains, such as {{'gmail.com': '5/s'}}, not {value!r}."
        )
    rates: dict[str, tuple[Rate, ...]] = {}
    for domain, rate in value.items():
        if not isinstance(domain, str) or not 0 < len(domain) <= 253 or not domain.isprintable():
            raise InvalidSettings(f"{where} has a key that is no domain: {domain!r}.")
        if set(domain) & set("@* "):
            raise InvalidSettings(
                f"{where}[{domain!r}]: name one domain in each key, as it stands behind the @ of an address."
            )
        name = normal_domain(domain)
        if name in rates:
            raise InvalidSettings(f"{where} names the domain {name!r} twice, the second time as {domain!r}.")
        rates[name] = _rate(f"{where}[{domain!r}]", rate)
    return rates


def _failover(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(alias, str) and alias for alias in value):
        raise InvalidSettings(f"{where} must be a list of aliases of mailers, not {value!r}.")
    return tuple(value)


def _composes(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidSettings(
            f"{where} must be True or False, not {value!r}: does the backend call message() of what it sends?"
        )
    return value


def _backend(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidSettings(f"{where} must be the dotted path of an email backend, not {value!r}.")
    return value


def _options(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidSettings(f"{where} must be a dictionary of the backend's options, not {value!r}.")
    return value


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "RATE": _rate,
    "RATES": _rates,
    "CONNECTIONS": partial(checked.whole_number, most=1000),
    "MAX_RECIPIENTS": checked.whole_number,
    "LIFETIME": partial(checked.seconds, above_zero=True),
    "FAILOVER": _failover,
    "REPLIES": read_replies,
    "COMPOSES": _composes,
    "LOCAL_HOSTNAME": check_local_hostname,
    "IGNORE_EXTENSIONS": check_extensions,
    "BACKEND": _backend,
    "OPTIONS": _options,
}
