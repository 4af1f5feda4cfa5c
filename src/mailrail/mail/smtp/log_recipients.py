"""How logs name recipients: as ``MAILRAIL["MAIL_LOG_RECIPIENTS"]`` says, also where a server's reply quotes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import parseaddr

from mailrail.conf import settings
from mailrail.terminal import ADDRESS, counted, single_line, without_addresses

MAX_NAMED = 20
"""Recipients of an email that are named."""
_CODES = re.compile(r"\d{3}(?:[ -]\d\.\d{1,3}\.\d{1,3})?(?=\s|$)")
"""The code that a reply begins with, and its enhanced one (RFC 5321 4.2, RFC 3463 2)."""
_WITH_DIGIT = re.compile(r"[^\s<>()\[\]]*\d[^\s<>()\[\]]*")
_PLAIN = re.compile(r"[\w.+-]+@[\w.-]+")
_SEPARATOR = re.compile(r'[\s,"]')
"""What ends a field of a line, or an address in it."""


def named(addresses: Sequence[str]) -> str:
    """Return these addresses as the log may name them, on one line: without names, which anybody may choose."""
    if settings.mail_log_recipients == "none":
        return counted(len(addresses), "recipient")
    shown = dict[str, None]()
    for address in addresses[:MAX_NAMED]:
        bare = address if _PLAIN.fullmatch(address) else parseaddr(address)[1] or address
        name = masked(bare)
        shown[repr(name) if _SEPARATOR.search(name) else name] = (
            None  # in quotes what would be read as several
        )
    more = len(addresses) - MAX_NAMED
    return single_line(",".join(shown)) + (f",and {more} more" if more > 0 else "")


def masked(text: str) -> str:
    """Return the text with the addresses in it as the log may name them."""
    how = settings.mail_log_recipients
    if how == "full" or "@" not in text:
        return text
    return ADDRESS.sub(r"…@\2", text) if how == "domain" else without_addresses(text)


def without_details(text: str, addresses: Sequence[str] = ()) -> str:
    """Return what replies or errors that say the same have in common: codes, no addresses, "#" for words with digits.

    ``addresses``: of recipients, whose mailboxes a server may name without their domains.
    """
    codes = _CODES.match(text)
    begin = codes.end() if codes else 0
    rest = without_addresses(text[begin:])
    for mailbox in {address.partition("@")[0] for address in addresses[:MAX_NAMED]}:
        rest = re.sub(rf"(?<![\w.-]){re.escape(mailbox)}(?![\w.-])", "…", rest) if mailbox else rest
    return text[:begin] + _WITH_DIGIT.sub("#", rest)
