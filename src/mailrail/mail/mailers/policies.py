"""What ``MAILRAIL["MAILERS"]`` says of each mailer: how fast, how long, who stands in, what its replies mean.

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

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailrail import options as checked
from mailrail.addresses import normal_domain
from mailrail.conf import is_in_check, settings
from mailrail.errors import InvalidSettings
from mailrail.options import Mistakes
from mailrail.routing import Rate

from ..smtp.replies import Meaning, ReplyRule
from ..smtp.server import check_extensions, check_local_hostname
from .reply_presets import PRESETS

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


# -- one value each --------------------------------------------------------------------------------------------------


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


def _connections(where: str, value: Any) -> int:
    return checked.whole_number(where, value, most=1000)


def _max_recipients(where: str, value: Any) -> int:
    return checked.whole_number(where, value)


def _lifetime(where: str, value: Any) -> float:
    return checked.seconds(where, value, above_zero=True)


def _failover(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(alias, str) and alias for alias in value):
        raise InvalidSettings(f"{where} must be a list of aliases of mailers, not {value!r}.")
    return tuple(value)


def _replies(where: str, value: Any) -> tuple[ReplyRule, ...]:
    """Read rules, and names of presets, which stand for their rules."""
    if not isinstance(value, list | tuple):
        raise InvalidSettings(f"{where} must be a list of rules and names of presets, not {value!r}.")
    rules: list[ReplyRule] = []
    mistakes = Mistakes(InvalidSettings)
    for n, entry in enumerate(value):
        with mistakes.noted():
            rules += _preset(where, entry) if isinstance(entry, str) else [_rule(f"{where}[{n}]", entry)]
    mistakes.raise_any(InvalidSettings)
    return tuple(rules)


def _preset(where: str, name: str) -> tuple[ReplyRule, ...]:
    if name not in PRESETS:
        raise InvalidSettings(
            f"{where} names {name!r}, which is no preset. There are: {', '.join(sorted(PRESETS))}."
        )
    return PRESETS[name]


def _rule(where: str, value: Any) -> ReplyRule:
    if not isinstance(value, Mapping):
        raise InvalidSettings(
            f"{where} must be the name of a preset or a dictionary such as "
            f"{{'code': 554, 'text': 'quota exceeded', 'means': 'later'}}, not {value!r}."
        )
    if unknown := value.keys() - {"code", "enhanced", "text", "means"}:
        raise InvalidSettings(
            f"{where} has no key {min(map(str, unknown))!r}. It knows: code, enhanced, text, means."
        )
    if not value.keys() & {"code", "enhanced", "text"}:
        raise InvalidSettings(f"{where} would match every reply. Give at least one of: code, enhanced, text.")
    known = [str(meaning) for meaning in Meaning]
    if value.get("means") not in known:
        raise InvalidSettings(
            f"{where}['means'] must be one of {', '.join(map(repr, known))}, not {value.get('means')!r}."
        )
    return ReplyRule(
        Meaning(value["means"]), _code(where, value), _enhanced(where, value), _text(where, value)
    )


def _code(where: str, value: Mapping[str, Any]) -> int | None:
    code = value.get("code")
    if "code" in value and (not isinstance(code, int) or not 400 <= code <= 599):
        raise InvalidSettings(f"{where}['code'] must be a reply's code from 400 to 599, not {code!r}.")
    return code


def _enhanced(where: str, value: Mapping[str, Any]) -> str | None:
    enhanced = value.get("enhanced")
    if "enhanced" in value and not (
        isinstance(enhanced, str) and re.fullmatch(r"[45](\.[0-9]{1,3}){2}", enhanced)
    ):
        raise InvalidSettings(
            f"{where}['enhanced'] must be a status of RFC 3463, such as '5.1.90', not {enhanced!r}."
        )
    return enhanced


def _text(where: str, value: Mapping[str, Any]) -> re.Pattern[str] | None:
    if "text" not in value:
        return None
    try:
        if not value["text"]:
            raise ValueError("it is empty")
        return re.compile(value["text"], re.IGNORECASE)
    except (re.error, TypeError, ValueError) as error:
        raise InvalidSettings(
            f"{where}['text'] must be a regular expression, not {value['text']!r}: {error}"
        ) from None


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
    "CONNECTIONS": _connections,
    "MAX_RECIPIENTS": _max_recipients,
    "LIFETIME": _lifetime,
    "FAILOVER": _failover,
    "REPLIES": _replies,
    "COMPOSES": _composes,
    "LOCAL_HOSTNAME": check_local_hostname,
    "IGNORE_EXTENSIONS": check_extensions,
    "BACKEND": _backend,
    "OPTIONS": _options,
}
