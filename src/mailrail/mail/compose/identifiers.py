"""Links, ids and addresses in headers: whole, and in ASCII.

RFC 2047 5 allows encoded words in such a header for phrases and comments only. A link that is not ASCII becomes the URI
that it stands for (RFC 3987 3.1), its domain an A-label.
"""

from __future__ import annotations

import re

from django.utils.encoding import iri_to_uri

from mailrail.addresses import InvalidDomain, ascii_domain, with_ascii_domains

from .addresses import MAILBOX_HEADERS
from .headers import encoded_words

_ids = re.compile(
    r"references|in-reply-to|supersedes|(?:resent|original)-message-id|content-id", re.IGNORECASE
)
_links = re.compile(r"list-.*|archived-at|content-(?:location|base)", re.IGNORECASE)
_in_brackets = re.compile(r"(<[^<>]*>)")
_link = re.compile(r"<([A-Za-z][A-Za-z0-9+.-]*:)(?://([^/?#:@\s]*))?([^\s<>]*)>")
_mailbox = re.compile(r"<([\x21-\x7e]+)@([^@\s]+)>")
_words = r"[^\s()<>\",;:\\]+"
_phrase = re.compile(rf'"([^"\\]*)"|{_words}(?: +{_words})*')


def in_ascii(name: str, value: str) -> str:
    """Return the value of a header of links, ids or addresses as ASCII, that of any other header as it is.

    The addresses are those that Django takes for text. Raises ``ValueError`` for an id or a mailbox that is not ASCII
    before its @. No other form means the same (RFC 5322 3.6.4, RFC 6531 3.2). Raises it for a domain that IDNA refuses,
    too.
    """
    if value.isascii():
        return value
    if _ids.fullmatch(name):
        raise ValueError(
            f"The header {name!r} holds ids, and {value!r} is none: an id is ASCII. Leave it out."
        )
    if name.lower() in MAILBOX_HEADERS:
        return _mailboxes(name, value)
    if not _links.fullmatch(name):
        return value
    if _link.fullmatch(f"<{value}>"):
        return _uri(name, f"<{value}>")[1:-1]
    parts = _in_brackets.split(value)
    parts[::2] = [_phrase.sub(_encoded, part) for part in parts[::2]]
    parts[1::2] = [_uri(name, part) for part in parts[1::2]]
    return "".join(parts)


def _mailboxes(name: str, value: str) -> str:
    try:
        value = with_ascii_domains(value)
    except InvalidDomain as error:
        raise ValueError(f"The header {name!r} names a domain that is none: {error}") from None
    parts = _in_brackets.split(value)
    bare = [match[0] for part in parts[::2] for match in _phrase.finditer(part) if match[1] is None]
    for mailbox in (*parts[1::2], *(text for text in bare if "@" in text)):
        if not mailbox.isascii():
            raise ValueError(
                f"The header {name!r} names the mailbox {mailbox!r}, which is not ASCII before its @: nothing else "
                "means the same. Name another one."
            )
    parts[::2] = [_phrase.sub(_encoded, part) for part in parts[::2]]
    return "".join(parts)


def _uri(name: str, bracketed: str) -> str:
    try:
        if match := _link.fullmatch(bracketed):
            scheme, host, rest = match.groups()
            authority = "" if host is None else f"//{ascii_domain(host)}"
            return f"<{scheme}{authority}{iri_to_uri(rest)}>"
        if match := _mailbox.fullmatch(bracketed):
            return f"<{match[1]}@{ascii_domain(match[2])}>"
    except InvalidDomain:
        raise ValueError(f"The header {name!r} names a domain that is none: {bracketed!r}.") from None
    return bracketed


def _encoded(match: re.Match[str]) -> str:
    return match[0] if match[0].isascii() else encoded_words(match[1] or match[0])
