"""Normalize and validate email addresses, and read lists of them as people paste them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mailrail.addresses import InvalidDomain, ascii_domain, normal_form, unicode_domain
from mailrail.conf import settings

from .pasted import extract, split_line

MAX_ADDRESS_LENGTH = 254  # RFC 5321, 4.5.3.1.3: a path of 256 octets, less its angle brackets
MAX_LOCAL_PART_LENGTH = 64  # RFC 5321, 4.5.3.1.1
MAX_SHOWN_LENGTH = 60
LOCAL_DOMAINS = ("localhost", "localdomain", "local", "internal", "home.arpa", "invalid", "onion")
"""Names of the machine and of its network: RFC 6761 6.3, RFC 6762 3, RFC 8375. ICANN has reserved ``internal``. Public
DNS never has ``invalid`` (RFC 6761 6.4) and ``onion`` (RFC 7686). Mail for them, or for a machine's number, would let
strangers reach servers that only the site can reach. ``test`` is left to people who try things out."""

_LOCAL = tuple(f".{name}" for name in LOCAL_DOMAINS)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_LATIN = re.compile("[a-z]")
_BEYOND_ALPHABETS = re.compile("[\u2e80-\U0003ffff]")


def normalise(address: str) -> str:
    """Return the address as it is stored: without space around it, the domain in lower case and as U-labels.

    The local part is unchanged: only its own server knows whether case matters (RFC 5321, 2.4). A domain in ASCII
    stays in ASCII, also if it has A-labels, because the key of an invitation depends on the stored address.
    """
    local, at, domain = address.strip().rpartition("@")
    if domain.isascii():
        return f"{local}{at}{domain.lower()}"
    try:
        return f"{local}{at}{unicode_domain(domain)}"
    except InvalidDomain:  # validate_address reports it
        return f"{local}{at}{unicodedata.normalize('NFC', domain.lower())}"


def validate_address(address: str) -> None:
    """Raise ``ValidationError`` unless mail can be sent to this address.

    The check is stricter than Django's ``validate_email``, which ignores the length limits of SMTP. Django's also
    accepts letters that only look like ASCII to a case-insensitive pattern (``ſ``). It accepts quoted local parts, too,
    which Django changes when it composes the email.
    """
    local, _at, domain = address.rpartition("@")
    if not address.isprintable():
        raise ValidationError(gettext_lazy("It holds a line break or another control character."), "control")
    if not {"<", ">", " "}.isdisjoint(address) and "@" in address and '"@' not in address:
        raise ValidationError(
            gettext_lazy("Write the address alone, without a name or angle brackets."), "name"
        )
    if not local.isascii() or '"' in local:
        raise ValidationError(
            gettext_lazy("The part before the @ may have no accents, other scripts or quotes."), "local"
        )
    try:
        in_ascii = f"{local}@{ascii_domain(domain)}"
    except InvalidDomain as error:
        raise ValidationError(gettext_lazy("Such a domain cannot exist."), "domain") from error
    if not domain.isascii() and _is_word_and_name(domain):
        raise ValidationError(gettext_lazy("Such a domain cannot exist."), "domain")
    validate_email(in_ascii)
    if settings.invitation_domains == "public" and _is_local(in_ascii):
        raise ValidationError(
            gettext_lazy(
                "Its domain is one of a local network. Only people with a public address can be invited."
            ),
            "private",
        )
    if len(in_ascii) > MAX_ADDRESS_LENGTH or len(local) > MAX_LOCAL_PART_LENGTH:
        raise ValidationError(gettext_lazy("It is too long for an email address."), "length")


def _is_local(address: str) -> bool:
    domain = address.rpartition("@")[2].lower()
    return domain.startswith("[") or domain.endswith(_LOCAL) or f".{domain}" in _LOCAL


def _is_word_and_name(domain: str) -> bool:
    """Tell whether a name follows the address, as in ``a@qq.com张三``: no top-level domain mixes these scripts."""
    last = domain.rpartition(".")[2]
    return bool(_LATIN.search(last) and _BEYOND_ALPHABETS.search(last))


def understand(text: str) -> str:
    """Return the address in a text, normalized; if the text is ambiguous, return the text."""
    return normalise(extract(text))


def clean(text: str) -> str:
    """Return the address in a text, normalized. Raises ``ValidationError`` if it is ambiguous or cannot get mail."""
    address = understand(text)
    validate_address(address)
    return address


class Entry(NamedTuple):
    """Hold one address as pasted, and its line, counted from 1."""

    line: int
    text: str


class Reading(NamedTuple):
    """Hold a normalized address. ``written``: the original text, if it differs by more than case."""

    line: int
    text: str
    written: str = ""


def entries(text: str) -> Iterator[Entry]:
    """Split a pasted list: one or more addresses per line, with names or without; skip blank lines."""
    for number, line in enumerate(_LINE_BREAK.split(text), start=1):
        for part in split_line(line.strip()):
            yield Entry(number, part)


class LineProblem(NamedTuple):
    """Describe why a line of a list invites nobody.

    ``kind``: ``wrong``, ``duplicate``, ``invited``, ``suppressed`` or ``limit``.
    """

    line: int
    text: str
    why: str
    kind: str


def read_list(entries: Iterable[Entry]) -> tuple[list[Reading], list[LineProblem]]:
    """Return the valid addresses, and a problem for each other entry.

    A repeated address, in any spelling, is a problem that names its first line.
    """
    first_lines: dict[str, int] = {}
    good: list[Reading] = []
    problems: list[LineProblem] = []
    for entry in entries:
        try:
            address = clean(entry.text)
        except ValidationError as error:
            problems.append(LineProblem(entry.line, shown(entry.text), error.messages[0], "wrong"))
            continue
        mailbox = normal_form(address)
        if mailbox in first_lines:
            reason = _("It is already on line %(line)d.") % {"line": first_lines[mailbox]}
            problems.append(LineProblem(entry.line, shown(entry.text), reason, "duplicate"))
        else:
            first_lines[mailbox] = entry.line
            is_as_written = address.lower() == entry.text.lower()
            good.append(Reading(entry.line, address, "" if is_as_written else shown(entry.text)))
    return good, problems


def shown(text: str) -> str:
    """Return a text short enough for a page, without control characters."""
    visible = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:MAX_SHOWN_LENGTH]
    )
    return f"{visible}…" if len(text) > MAX_SHOWN_LENGTH else visible
