"""Compare email addresses by one normal form, and write their domains in the form that servers take.

An international domain has two spellings, ``exämple.com`` and ``xn--exmple-cua.com`` (RFC 5890, U-label and A-label).
They are one domain, so all that looks an address up does it by ``normal_form``. The library ``idna`` converts by IDNA
2008 (RFC 5891), after the mapping of UTS 46. Python's own codec and Django's ``punycode`` know IDNA 2003 only. They
turn ``faß.de`` into ``fass.de``, a domain of somebody else.
"""

from __future__ import annotations

import re
from email.utils import parseaddr
from functools import lru_cache
from typing import NamedTuple

import idna

__all__ = ["bare", "normal_form"]

MAX_DOMAIN_LENGTH = (
    253  # RFC 1035 2.3.4: 255 octets on the wire, where each label has one more, and the root is one
)
MAX_CACHED_DOMAINS = 16_384
"""Domains and labels whose conversion a process caches: a list of 10,000 addresses needs each several times."""

_PLAIN = re.compile(r"[A-Za-z0-9_+.-]+@[A-Za-z0-9.-]*[A-Za-z0-9-]")
"""An address where lower case is all that is left to do: most are, and a parser takes as long as composing an email."""
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
"""What divides labels: the full stop and those of other scripts (UTS 46 4, RFC 3490 3.1)."""
_DOMAIN_IN_TEXT = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"                 # a quoted name or local part: no domain is inside
    | \((?:[^()\\]|\\.)*\)            # a comment
    | (?P<at>@\s*)(?P<domain>[^\s@<>()\[\],;:"\\]+)
    """,
    re.VERBOSE | re.DOTALL,
)


class InvalidDomain(UnicodeError):
    """Report a domain that cannot be sent to a server. The text says why, and what to write instead."""


def ascii_domain(domain: str) -> str:
    """Return the domain as servers take it: ASCII unchanged, any other domain as its A-labels.

    Raises ``InvalidDomain`` for a domain that IDNA 2008 has no A-labels for, such as one with a symbol.
    """
    return domain if domain.isascii() else _converted(domain).in_ascii


class _Converted(NamedTuple):
    in_ascii: str
    in_unicode: str


@lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _converted(domain: str) -> _Converted:
    try:
        return _by_labels(domain) or _as_a_whole(domain)
    except UnicodeError as error:
        raise InvalidDomain(
            f"{domain!r} is no domain by IDNA 2008: {error}. If it is registered all the same, write it as xn--…"
        ) from None


def _by_labels(domain: str) -> _Converted | None:
    """Convert a domain label by label, each label cached. Return ``None`` where only the whole domain can be judged.

    The rules of IDNA 2008 and the mapping of UTS 46 look at one label at a time; the length alone is the domain's.
    """
    names, at_the_end = _DOTS.split(domain), ""
    if not names[-1] and len(names) > 1:
        del names[-1]
        at_the_end = "."
    if len(domain) > MAX_DOMAIN_LENGTH or not all(names):
        return None
    try:
        labels = [_label(name) for name in names]
    except UnicodeError:
        return None
    in_ascii = ".".join([label.in_ascii for label in labels])
    if len(in_ascii) > MAX_DOMAIN_LENGTH:
        return None
    return _Converted(in_ascii + at_the_end, ".".join([label.in_unicode for label in labels]) + at_the_end)


@lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _label(name: str) -> _Converted:
    """Convert a label. Raises ``UnicodeError`` for an invalid label, also if the mapping leaves none, or several."""
    mapped = idna.uts46_remap(name, std3_rules=True)
    encoded = idna.alabel(mapped).decode("ascii")
    if mapped.startswith("xn--"):
        return _Converted(encoded, _u_label(encoded))
    if encoded != mapped:
        _remember(encoded, mapped)
    return _Converted(encoded, mapped)


_u_labels: dict[str, str] = {}
"""By A-label. A list asks for both directions, and decoding takes longer than encoding did."""


def _remember(a_label: str, u_label: str) -> None:
    if len(_u_labels) >= MAX_CACHED_DOMAINS:
        _u_labels.clear()
    _u_labels[a_label] = u_label


def _u_label(label: str) -> str:
    """Return the U-label of an A-label, and other ASCII unchanged. Raises ``UnicodeError`` for an invalid label."""
    cached = _u_labels.get(label)
    if cached is None:
        cached = idna.ulabel(label)
        _remember(label, cached)
    return cached


def _as_a_whole(domain: str) -> _Converted:
    """Convert a domain of any length and shape. Raises ``UnicodeError`` that names the position of the mistake."""
    encoded = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    return _Converted(encoded, idna.decode(encoded))


def unicode_domain(domain: str) -> str:
    """Return the domain as people read it: its U-labels in lower case.

    Raises ``InvalidDomain`` as ``ascii_domain`` does. Invalid A-labels are returned unchanged.
    """
    if not domain.isascii():
        return _converted(domain).in_unicode
    domain = domain.lower()
    return _decoded(domain) if "xn--" in domain else domain


@lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _decoded(domain: str) -> str:
    """Decode a lower-case domain. An invalid domain, or one that is too long, is returned unchanged."""
    labels = domain.removesuffix(".").split(".")
    if len(domain) - domain.endswith(".") > MAX_DOMAIN_LENGTH:
        return domain
    try:
        decoded = ".".join([_u_label(label) for label in labels])
    except UnicodeError:
        return domain
    return f"{decoded}." if domain.endswith(".") else decoded


def normal_domain(domain: str) -> str:
    """Return the domain as it is compared: its A-labels in lower case, without a dot at its end.

    An invalid domain is returned in lower case, so comparing never raises.
    """
    domain = domain.strip().rstrip(".")
    if domain.isascii():
        return domain.lower()
    try:
        return _converted(domain).in_ascii.lower().rstrip(".")
    except InvalidDomain:
        return domain.lower()


def normal_form(address: str) -> str:
    """Return the form that all spellings of a mailbox share. ``address`` has no display name; ``bare`` removes one.

    Servers may distinguish upper and lower case before the @ (RFC 5321 2.4). No known server does, so case is ignored.
    """
    return address.lower() if address.isascii() and _PLAIN.fullmatch(address) else _normal_form(address)


@lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _normal_form(address: str) -> str:
    local, at, domain = address.strip().rpartition("@")
    return f"{_lower(local)}{at}{normal_domain(domain)}"


def _lower(local: str) -> str:
    """Lower the case, but turn no other character into ASCII: the Kelvin sign is another mailbox than ``k``."""
    if local.isascii():
        return local.lower()
    return "".join(char if not char.isascii() and char.lower().isascii() else char.lower() for char in local)


def bare(address: str) -> str:
    """Return the normal form of an address that may have a display name: ``Ann <Ann@Example.com>``."""
    return address.lower() if _PLAIN.fullmatch(address) else _bare(address)


@lru_cache(maxsize=1024)
def _bare(address: str) -> str:
    return normal_form(parseaddr(address)[1] or address)


def spellings(address: str) -> list[str]:
    """Return how an address of this mailbox may be stored, in lower case: its normal form and its U-label form."""
    mailbox = normal_form(address)
    return [mailbox] if "xn--" not in mailbox else list(dict.fromkeys((mailbox, _in_unicode(mailbox))))


@lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _in_unicode(mailbox: str) -> str:
    local, at, domain = mailbox.rpartition("@")
    return f"{local}{at}{unicode_domain(domain)}"


def with_ascii_domains(text: str) -> str:
    """Return a text of addresses, with or without display names, with each domain as its A-labels.

    Raises ``InvalidDomain`` as ``ascii_domain`` does.
    """
    return text if text.isascii() else _DOMAIN_IN_TEXT.sub(_with_ascii_domain, text)


def _with_ascii_domain(match: re.Match[str]) -> str:
    return f"{match['at']}{ascii_domain(match['domain'])}" if match["at"] else match[0]
