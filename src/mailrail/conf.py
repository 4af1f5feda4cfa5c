"""Read the settings: one frozen object, built from ``MAILRAIL = {…}`` in the project's settings.

Use ``from mailrail.conf import settings`` and read attributes: ``settings.attempts``. Tests may use Django's
``override_settings(MAILRAIL={…})``; the object is rebuilt.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from . import options as checked
from .errors import InvalidSettings
from .options import Mistakes


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold the values of ``MAILRAIL``. Each key is the attribute's name in capitals. Times are in seconds."""

    layer: str = "default"
    """Alias in ``CHANNEL_LAYERS`` of the layer that carries messages when none is named."""
    namespace: str = ""
    """Separates this project's channels and records from those of other projects on the same database or Redis: up to
    20 lower-case letters, digits and hyphens. Empty: it has none."""
    max_message_bytes: int = 1024 * 1024
    """Largest content of a message, as JSON in UTF-8."""
    attempts: int = 5
    """How often a message is tried before it is buried, unless its route says otherwise."""
    unrouted: str = "keep"
    """What a send does on a channel that has no consumer in this project. ``"keep"``: the message waits for one.
    ``"raise"``: the send raises ``NoRoute``, for development and tests."""
    backoff: float = 15.0
    """Upper bound of the wait before the second attempt; doubled before each later one, with full jitter."""
    backoff_max: float = 3600.0
    """The doubling stops here."""
    lease: float = 15.0
    """How long a claim lasts without renewal: after it a dead worker's messages are claimed by others."""
    timeout: float | None = None
    """Limit for one run of a consumer, unless its route says otherwise. ``None``: no limit."""
    threads: int = 8
    """Sync consumers that run at once in one worker process, and the default concurrency of a channel."""
    processes: int = 1
    """Worker processes that ``runworker`` starts."""
    max_messages: int | None = None
    """Messages that a worker process runs before it is replaced; up to a tenth fewer, at random. ``None``: no limit."""
    max_memory: int | None = None
    """Bytes of memory, or a size like ``"300M"``, above which a worker process is replaced; up to a tenth less, at
    random."""
    shutdown_timeout: float = 25.0
    """How long a worker told to stop waits for running consumers before it releases their messages."""
    reconcile_every: float | None = 60.0
    """How often workers look for records whose message is missing. ``None``: only ``channels reconcile`` does."""
    ready_oldest_due: float | None = 300.0
    """How long a message or an email may have been due, or a mailer out, before ``/readyz`` and ``channels check``
    report it. The latter reports an outage at once, unless ``--here`` is given. ``None``: for any time; ``/readyz``
    then needs no workers either."""
    history: float = 14 * 86400.0
    """How long the history of channels and mailers is kept, for people on call: by minutes for two days at most, then
    by hours."""
    release: str = ""
    """Names the version of the project's code that a process runs, such as the hash of a commit: up to 100 characters.
    Workers that run another one than the rest are marked."""
    redact: tuple[str, ...] = (
        *("password", "passwd", "passphrase", "secret", "token", "authorization"),
        *("api_key", "private_key", "credential", "cookie"),
    )
    """Keys whose values nobody sees in contents, headers and arguments, in the admin and in commands. A key is meant if
    an entry stands in it, whatever their case, hyphens and underscores."""
    consumer_middleware: tuple[str, ...] = ()
    """Dotted paths of functions ``wrap(consume) -> consume``, the first one outermost."""
    deliver_with: str = "django.core.mail.backends.smtp.EmailBackend"
    """Dotted path of the email backend that delivers what ``mailrail.mail`` has queued, in a project without
    ``MAILERS``."""
    mail_max_bytes: int = 25 * 1024 * 1024
    """Largest email that is queued, as it would be sent."""
    mail_storage: str | None = None
    """Alias in ``STORAGES`` where attachments are kept. ``None``: in the database."""
    mail_on_ambiguous: str = "resend"
    """When nobody knows whether an email was sent: ``"resend"`` it with the same Message-ID, or ``"hold"`` it."""
    mail_log_recipients: str = "full"
    """How the log names the recipients of an email: ``"full"`` addresses, ``"domain"``, or ``"none"``."""
    mail_lifetime: float = 3 * 86400.0
    """How long an email that a server refuses for now is tried again, unless its mailer says otherwise."""
    mail_sensitive: str = "mailrail.mail.is_sensitive"
    """Dotted path of a function ``(message) -> bool``, asked when an email is queued: may only its recipients read it?
    The admin shows the content of such an email to nobody."""
    mail_message_id_domain: str | None = None
    """The domain of a Message-ID, such as ``"example.com"``. ``None``: the name of the machine."""
    mailers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Rates, connections, recipients at once, lifetime, failover and the meaning of replies of each mailer, by its
    alias (``mailrail.mail.mailers.config``)."""
    mail_keep_bodies: float | None = None
    """How long the content of an email is kept after it was sent or ended otherwise, before ``prunemail`` removes it.
    ``None``: as long as the record."""
    mail_keep_records: float | None = None
    """How long the record of such an email is kept before ``prunemail`` deletes it. ``None``: for ever."""
    base_url: str | None = None
    """Where the site is reached from outside, for links in email: ``https://example.com``."""
    invitation_model: str = "mailrail_invitations.Invitation"
    """``app_label.Model`` of a subclass of ``mailrail.invitations.models.AbstractInvitation``."""
    invitation_lifetime: float | None = 7 * 86400.0
    """How long the link of an invitation is valid. ``None``: for ever."""
    invitations_per_sender: int | None = 10_000
    """Invitations that one sender may mail within 24 hours. ``None``: no limit."""
    invitations_per_day: int | None = None
    """Invitations that all senders together may mail within 24 hours. ``None``: no limit."""
    invitations_per_recipient: int | None = 5
    """Invitations that are mailed to one address within 24 hours, whoever sends them. ``None``: no limit."""
    invitation_may_invite: str = "mailrail.invitations.rights.is_active"
    """Dotted path of a function ``(sender, invitation) -> bool``, asked when somebody invites, and again when the
    invitation is accepted."""
    invitation_accept: str = "email"
    """Who accepts: ``"email"``, a logged-in user who has the invited address; ``"link"``, whoever has the link."""
    invitation_emails_of: str = "mailrail.invitations.accepting.email_of"
    """Dotted path of a function ``(user) -> addresses``: those that are known to belong to the user."""
    invitation_signup: str | None = "mailrail_invitations:sign-up"
    """Name or path of the page where invited people sign up. ``None``: they cannot."""
    invitation_domains: str = "public"
    """Which addresses may be invited: those of ``"public"`` domains, or of ``"any"``. The latter includes names of a
    local network, such as ``localhost``, and addresses of machines, such as ``[127.0.0.1]``."""


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "tuple[str, ...]": (tuple,),
    "Mapping[str, Any]": (Mapping,),
}
_KIND_NAMES = {
    "str": "a string",
    "str | None": "a string or None",
    "tuple[str, ...]": "a list of dotted paths",
    "Mapping[str, Any]": "a dictionary",
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([KMG]?)", re.IGNORECASE | re.ASCII)
_DOMAIN = re.compile(r"(?=.{1,190}$)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9-]{,19}|")
MAX_RELEASE_LENGTH = 100
"""Characters of the name of a release."""
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_ONE_OF = {
    "UNROUTED": ("keep", "raise"),
    "MAIL_ON_AMBIGUOUS": ("resend", "hold"),
    "MAIL_LOG_RECIPIENTS": ("full", "domain", "none"),
    "INVITATION_ACCEPT": ("email", "link"),
    "INVITATION_DOMAINS": ("public", "any"),
}
_MAY_BE_ZERO = {"BACKOFF", "BACKOFF_MAX", "SHUTDOWN_TIMEOUT"}


def _read(key: str, kind: str, value: Any) -> Any:
    """Convert and check a value: lists become tuples, sizes bytes, and times (also a ``timedelta``) seconds.

    Raises ``InvalidSettings``, ``TypeError`` or ``ValueError``, naming the key.
    """
    where, kind_of_value = f"MAILRAIL[{key!r}]", kind.removesuffix(" | None")
    if value is None and kind != kind_of_value:
        return None
    if kind_of_value == "float":
        return checked.seconds(where, value, above_zero=key not in _MAY_BE_ZERO)
    if kind_of_value == "int":
        return checked.whole_number(where, _in_bytes(key, value))
    value = tuple(value) if isinstance(value, list) and key != "MAILERS" else value
    _check(key, kind, value)
    return value


def _check(key: str, kind: str, value: Any) -> None:
    name = "a list of parts of keys" if key == "REDACT" else _KIND_NAMES[kind]
    if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
        raise InvalidSettings(f"MAILRAIL[{key!r}] must be {name}, not {value!r}.")
    if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
        raise InvalidSettings(f"MAILRAIL[{key!r}] must be {name}, not {list(value)!r}.")
    if key in _ONE_OF and value not in _ONE_OF[key]:
        raise InvalidSettings(
            f"MAILRAIL[{key!r}] must be {' or '.join(map(repr, _ONE_OF[key]))}, not {value!r}."
        )
    if key == "MAIL_MESSAGE_ID_DOMAIN" and value is not None and not _DOMAIN.fullmatch(str(value)):
        raise InvalidSettings(
            f"MAILRAIL['MAIL_MESSAGE_ID_DOMAIN'] must be a domain in ASCII, such as 'example.com', not {value!r}."
        )
    if key == "RELEASE" and not (len(str(value)) <= MAX_RELEASE_LENGTH and str(value or "-").isprintable()):
        raise InvalidSettings(
            f"MAILRAIL['RELEASE'] must be printable text of up to {MAX_RELEASE_LENGTH} characters, such as "
            f"'2026.11.3' or the hash of a commit, not {value!r}."
        )
    if key == "NAMESPACE" and not _NAMESPACE.fullmatch(str(value)):
        raise InvalidSettings(
            "MAILRAIL['NAMESPACE'] must be 1 to 20 lower-case ASCII letters, digits or hyphens, the first one no "
            f"hyphen, such as 'shop', or empty for none, not {value!r}."
        )
    if key == "BASE_URL" and value and not str(value).startswith(("https://", "http://")):
        raise InvalidSettings(
            f"MAILRAIL['BASE_URL'] must be an address that begins with https:// or http://, not {value!r}."
        )


def size(text: str) -> int:
    """Return the bytes of a size such as ``"300M"`` or ``"1.5G"``. Raises ``ValueError`` with the rule as its text."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or (number := int(float(match[1]) * _UNITS[match[2].upper()])) < 1:
        raise ValueError("a number of bytes, or of K, M or G, such as 300M or 1.5G")
    return number


def _in_bytes(key: str, value: Any) -> Any:
    if key == "MAX_MEMORY" and isinstance(value, str):
        try:
            return size(value)
        except ValueError as error:
            raise InvalidSettings(f"MAILRAIL[{key!r}] must be {error}, not {value!r}.") from None
    return value


def build(raw: Any) -> Settings:
    """Build the settings from the dictionary a project wrote.

    Raises ``InvalidSettings`` that lists all mistakes: unknown keys, and values of a wrong type.
    """
    values, mistakes = _read_all(raw)
    mistakes.raise_any(InvalidSettings)
    return Settings(**values)


def _read_all(raw: Any) -> tuple[dict[str, Any], Mistakes]:
    """Return the valid values by attribute, and the mistakes. Raises ``InvalidSettings`` unless ``raw`` is a dict."""
    if not isinstance(raw, Mapping):
        raise InvalidSettings(f"MAILRAIL must be a dictionary, not {raw!r}.")
    fields = {field.name.upper(): field for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    mistakes = Mistakes(InvalidSettings, TypeError, ValueError)
    for key, value in raw.items():
        with mistakes.noted():
            if key not in fields:
                raise InvalidSettings(f"MAILRAIL has no key {key!r}. It knows: {', '.join(sorted(fields))}.")
            values[fields[key].name] = _read(key, str(fields[key].type), value)
    return values, mistakes


_in_check: ContextVar[bool] = ContextVar("mailrail.conf", default=False)


@contextmanager
def read_for_checks() -> Iterator[None]:
    """Let system checks read the valid keys of ``settings`` although others are wrong; used as a decorator.

    So one run of the checks reports all mistakes. A wrong key still raises ``InvalidSettings``, which mailrail.E001
    reports.
    """
    token = _in_check.set(True)
    try:
        yield
    finally:
        _in_check.reset(token)


def is_in_check() -> bool:
    """Tell whether a system check runs inside ``read_for_checks``."""
    return _in_check.get()


class _LazySettings:
    """Build the ``Settings`` at first use, because Django's settings may not be ready at import."""

    _built: Settings | None = None

    def __getattr__(self, name: str) -> Any:
        if self._built is None:
            raw = getattr(django_settings, "MAILRAIL", {})
            values, mistakes = _read_all(raw)
            if mistakes.errors and is_in_check() and (name in values or name.upper() not in raw):
                return getattr(Settings(**values), name)
            mistakes.raise_any(InvalidSettings)
            self._built = Settings(**values)
            # From now on, they are found without this method.
            self.__dict__.update({f.name: getattr(self._built, f.name) for f in fields(Settings)})
        return getattr(self._built, name)

    def forget(self) -> None:
        self.__dict__.clear()


_lazy = _LazySettings()
settings: Settings = _lazy  # type: ignore[assignment]  # reads like the dataclass it builds


@receiver(setting_changed, dispatch_uid="mailrail.conf")
def _rebuild(*, setting: str, **kwargs: Any) -> None:
    if setting == "MAILRAIL":
        _lazy.forget()
