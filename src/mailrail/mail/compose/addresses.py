"""Address headers: To, From and their kin.

Common is one mailbox in each entry: ``local@domain`` or ``Some Name <local@domain>`` or ``"Name, Some" <…>``. The
local part has no quotes, and is ASCII unless the server offers SMTPUTF8; name and domain may be of any script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from mailrail.addresses import ascii_domain

from .headers import check_characters, encoded_words, fold, fold_units
from .uncommon import Uncommon

_atom = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 3.2.3
_utf8_atom = (
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|(?![\x00-\x7f])\w)+"  # RFC 6531 3.3, of which letters are common
)
_label = r"(?:[^\W_]|-){1,63}"


def _forms(atom: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Bare, and behind a name."""
    address = rf"({atom}(?:\.{atom})*)@({_label}(?:\.{_label})*)"
    # A quoted name has no quotes or backslashes inside, one without quotes nothing that has a meaning there.
    return re.compile(address), re.compile(rf'(?:"([^"\\]+)"|([^][()<>@,:;"\\]+)) <{address}>')


_ascii_forms, _utf8_forms = _forms(_atom), _forms(_utf8_atom)
_word = re.compile(rf"{_atom}(?: {_atom})*")


def mailbox(text: str, smtputf8: bool = False) -> str:
    """Return an address as it stands in a header: the domain by IDNA, the name quoted or encoded where necessary.

    All of it is ASCII, but for a local part where ``smtputf8`` allows for others (RFC 6532 3.2).
    """
    bare, named = _utf8_forms if smtputf8 else _ascii_forms
    if (match := bare.fullmatch(text)) and "=?" not in text:
        return text if text.isascii() else f"{match[1]}@{ascii_domain(match[2])}"
    if not (match := named.fullmatch(text)):
        raise Uncommon("an address that takes a parser")
    quoted, unquoted, local, domain = match.groups()
    name = quoted or unquoted
    check_characters(name)
    if "=?" in local:
        raise Uncommon("an address that may hold an encoded word")
    return f"{_phrase(name)} <{local}@{ascii_domain(domain)}>"


repeated_mailbox = lru_cache(maxsize=256)(mailbox)
"""For From and Reply-To, which are the same in many messages."""


def addresses(name: str, entries: Sequence[str]) -> str:
    """Return the header ``name``, folded after commas where that is enough."""
    value = ", ".join(entries)
    if len(name) + 2 + len(value) <= 78:
        return f"{name}: {value}"
    if len(entries) == 1:
        return fold(name, value)
    return fold_units(name, [f"{entry}," for entry in entries[:-1]] + [entries[-1]])


def _phrase(name: str) -> str:
    if not name.isascii():
        return encoded_words(name)
    return name if _word.fullmatch(name) else f'"{name}"'
