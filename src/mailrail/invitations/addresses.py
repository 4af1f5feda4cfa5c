"""Email addresses: how they are stored, which ones can get mail, and lists of them as people paste them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.encoding import punycode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

LONGEST_ADDRESS = 254  # RFC 5321, 4.5.3.1.3: a path of 256 octets, less its angle brackets
LONGEST_LOCAL_PART = 64  # RFC 5321, 4.5.3.1.1
LONGEST_SHOWN = 60

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_SEPARATOR = re.compile(r"[,;]")


def normalise(address: str) -> str:
    """Return the address as it is stored: no space around it, the domain in lower case and in Unicode's NFC.

    What stands before the @ is left alone: only its own server knows whether case matters (RFC 5321, 2.4).
    """
    local, at, domain = address.strip().rpartition("@")
    return f"{local}{at}{unicodedata.normalize('NFC', domain.lower())}"


def in_ascii(address: str) -> str:
    """Return the address as it goes over SMTP, an international domain as ``xn--…``.

    Raises ``UnicodeError`` for a domain that has no such form.
    """
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{punycode(domain)}"


def identity(address: str) -> str:
    """Return what two spellings of one mailbox have in common: upper and lower case, ``ü`` and ``xn--…``."""
    return in_ascii(address).lower()


def validate_address(address: str) -> None:
    """Raise ``ValidationError`` unless mail can be sent to this address.

    Stricter than Django's ``validate_email``, which knows no limit of SMTP's, lets letters pass that only look
    like ASCII to a case-insensitive pattern (``ſ``), and quoted local parts, which Django's composing does not
    keep as they are.
    """
    local, _at, domain = address.rpartition("@")
    if not address.isprintable():
        raise ValidationError(gettext_lazy("It holds a line break or another control character."), "control")
    if "<" in address or ">" in address:
        raise ValidationError(
            gettext_lazy("Write the address alone, without a name or angle brackets."), "name"
        )
    if not local.isascii() or '"' in local:
        raise ValidationError(
            gettext_lazy("Before the @ there may be no accents, other scripts or quotes."), "local"
        )
    validate_email(address)
    if not domain.isascii():
        _validate_international(domain)
    if len(in_ascii(address)) > LONGEST_ADDRESS or len(local) > LONGEST_LOCAL_PART:
        raise ValidationError(gettext_lazy("It is too long for an email address."), "length")


def _validate_international(domain: str) -> None:
    """Refuse a domain that its encoding (IDNA 2003, as Django has it) turns into another one.

    ``faß.example`` becomes ``fass.example``, which others may own; ``＠`` becomes ``@``.
    """
    try:
        encoded = punycode(domain)
        decoded = encoded.encode("ascii").decode("idna")
    except UnicodeError as error:
        raise ValidationError(gettext_lazy("Its domain is not one that can exist."), "domain") from error
    if decoded != domain:
        raise ValidationError(
            gettext_lazy("Its domain is sent as %(domain)s. Write that, if it is the one you mean."),
            code="ambiguous",
            params={"domain": encoded},
        )


def clean(text: str) -> str:
    """Return the address a person wrote, as it is stored; ``ValidationError`` if it can get no mail."""
    address = normalise(text)
    validate_address(address)
    return address


class Entry(NamedTuple):
    """One address as pasted, and the line it stands on, counted from 1."""

    line: int
    text: str


def entries(text: str) -> Iterator[Entry]:
    """Split a pasted list: one address per line, or several with commas or semicolons; blanks do not count."""
    for number, line in enumerate(_LINE_BREAK.split(text), start=1):
        for part in _SEPARATOR.split(line):
            if part.strip():
                yield Entry(number, part.strip())


def read_list(pasted: list[Entry]) -> tuple[list[str], list[ValidationError]]:
    """Return the addresses that are good, as they are stored, and an error for each that is not.

    An address that was there before, in whatever spelling, is an error that names its first line.
    """
    first_lines: dict[str, int] = {}
    addresses: list[str] = []
    errors: list[ValidationError] = []
    for entry in pasted:
        try:
            address = clean(entry.text)
        except ValidationError as error:
            errors.append(_error(entry, error.messages[0]))
            continue
        mailbox = identity(address)
        if mailbox in first_lines:
            errors.append(
                _error(entry, _("It is already on line %(line)d.") % {"line": first_lines[mailbox]})
            )
        else:
            first_lines[mailbox] = entry.line
            addresses.append(address)
    return addresses, errors


def _error(entry: Entry, reason: str) -> ValidationError:
    return ValidationError(
        gettext_lazy("Line %(line)d, “%(entry)s”: %(reason)s"),
        code="line",
        params={"line": entry.line, "entry": _shown(entry.text), "reason": reason},
    )


def _shown(text: str) -> str:
    visible = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:LONGEST_SHOWN]
    )
    return f"{visible}…" if len(text) > LONGEST_SHOWN else visible
