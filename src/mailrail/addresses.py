"""Email addresses: the one form in which they are compared, and the form in which a server is told their domains.

An international domain has two spellings, ``exämple.com`` and ``xn--exmple-cua.com`` (RFC 5890, U-label and A-label).
They are one domain, so all that looks an address up does it by ``normal_form``. The conversion is that of IDNA 2008
(RFC 5891) behind the mapping of UTS 46, by the library ``idna``: Python's own codec and Django's ``punycode`` know
IDNA 2003 alone, for which ``faß.de`` is ``fass.de``, a domain of somebody else.
"""

from __future__ import annotations

import re
from email.utils import parseaddr
from functools import lru_cache
from typing import NamedTuple

import idna

__all__ = ["bare", "normal_form"]

KEPT_DOMAINS = 16_384
"""Conversions that a process remembers: one takes 30 µs, and a list of 10,000 addresses needs each several times."""

_PLAIN = re.compile(r"[A-Za-z0-9_+.-]+@[A-Za-z0-9.-]*[A-Za-z0-9-]")
"""An address where lower case is all that is left to do: most are, and a parser takes as long as composing an email."""
_DOMAIN_IN_TEXT = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"                 # a quoted name or local part: no domain is inside
    | \((?:[^()\\]|\\.)*\)            # a comment
    | (?P<at>@\s*)(?P<domain>[^\s@<>()\[\],;:"\\]+)
    """,
    re.VERBOSE | re.DOTALL,
)


class InvalidDomain(UnicodeError):
    """A domain that cannot be told to a server. The text says why, and what to write instead."""


def ascii_domain(domain: str) -> str:
    """Return the domain as a server is told it: one in ASCII as it is, another one by its A-labels.

    Raises ``InvalidDomain`` for a domain that IDNA 2008 has no A-labels for, such as one with a symbol.
    """
    return domain if domain.isascii() else _converted(domain).in_ascii


class _Converted(NamedTuple):
    in_ascii: str
    in_unicode: str


@lru_cache(maxsize=KEPT_DOMAINS)
def _converted(domain: str) -> _Converted:
    try:
        encoded = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        mapped = idna.uts46_remap(
            domain, std3_rules=True
        )  # what has been encoded, where no label was an A-label
        return _Converted(encoded, idna.decode(encoded) if "xn--" in mapped else mapped)
    except UnicodeError as error:
        raise InvalidDomain(
            f"{domain!r} is no domain by IDNA 2008: {error}. If it is registered all the same, write it as xn--…"
        ) from None


def unicode_domain(domain: str) -> str:
    """Return the domain as people read it: by its U-labels, in lower case.

    Raises ``InvalidDomain`` as ``ascii_domain`` does. A-labels that stand for nothing are returned as they are.
    """
    if not domain.isascii():
        return _converted(domain).in_unicode
    domain = domain.lower()
    return _decoded(domain) if "xn--" in domain else domain


@lru_cache(maxsize=KEPT_DOMAINS)
def _decoded(domain: str) -> str:
    try:
        return idna.decode(domain)
    except UnicodeError:
        return domain


def normal_domain(domain: str) -> str:
    """Return the domain as it is compared: its A-labels in lower case, without a dot at its end.

    What cannot be a domain at all is compared in lower case: comparing raises nothing.
    """
    domain = domain.strip().rstrip(".")
    if domain.isascii():
        return domain.lower()
    try:
        return _converted(domain).in_ascii.lower().rstrip(".")
    except InvalidDomain:
        return domain.lower()


def normal_form(address: str) -> str:
    """Return what all spellings of a mailbox have in common. ``address``: without a name; ``bare`` takes one off.

    Servers may tell upper from lower case before the @ (RFC 5321 2.4), and none is known that does: both are one.
    """
    if _PLAIN.fullmatch(address):
        return address.lower()
    local, at, domain = address.strip().rpartition("@")
    return f"{_lower(local)}{at}{normal_domain(domain)}"


def _lower(local: str) -> str:
    """Of characters beyond ASCII none becomes one of ASCII: the Kelvin sign is another mailbox than ``k``."""
    if local.isascii():
        return local.lower()
    return "".join(char if not char.isascii() and char.lower().isascii() else char.lower() for char in local)


def bare(address: str) -> str:
    """Return the normal form of an address that may have a name: ``Ann <Ann@Example.com>``."""
    return address.lower() if _PLAIN.fullmatch(address) else _bare(address)


@lru_cache(maxsize=1024)
def _bare(address: str) -> str:
    return normal_form(parseaddr(address)[1] or address)


def spellings(address: str) -> list[str]:
    """Return how an address of this mailbox may be stored, in lower case: its normal form, and one by U-labels."""
    mailbox = normal_form(address)
    if "xn--" not in mailbox:
        return [mailbox]
    local, at, domain = address.strip().rpartition("@")
    written = unicode_domain(domain).rstrip(".")
    return list(dict.fromkeys((mailbox, f"{_lower(local)}{at}{written}")))


def with_ascii_domains(text: str) -> str:
    """Return the text of one or more addresses, with names or without, with its domains by their A-labels.

    Raises ``InvalidDomain`` as ``ascii_domain`` does.
    """
    return text if text.isascii() else _DOMAIN_IN_TEXT.sub(_with_ascii_domain, text)


def _with_ascii_domain(found: re.Match[str]) -> str:
    return f"{found['at']}{ascii_domain(found['domain'])}" if found["at"] else found[0]
