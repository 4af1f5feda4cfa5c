"""Find addresses in pasted text: with names, brackets and quotes, in full width, several per line.

A text counts as an address only if it can mean no other one. ``zhang san@qq.com`` may be zhangsan's address with
a space too many, so it is refused. ``张三 san@qq.com`` is read: only ASCII stands before the @ of addresses here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

_PLAIN = re.compile(r"[A-Za-z0-9_+.-]+@[\w.-]*[^\W_]")
"""A plain address. Most lines are such, so they need no further parsing."""
_WIDTH: dict[int, str | None] = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width ASCII
    **dict.fromkeys(map(ord, "\u3000\u00a0\u202f"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\u00ad"), None),  # invisible, and left by copying
    **dict.fromkeys(map(ord, "《〈‹«"), "<"),
    **dict.fromkeys(map(ord, "》〉›»"), ">"),
    ord("﹫"): "@",
}
_MARKER = re.compile(r"\s*(?:\d{1,5}[、)）]|\d{1,5}[.．:：]\s|[-*+•·●–—]\s)\s*(?=\S)")
"""The marker of an item in a list: ``1.``, ``2)``, ``•``."""
_PIECE = re.compile(
    r"""(?:"[^"@]*"|“[^”@]*”|\([^()@]*\)|（[^（）@]*）|[^,;，；、|｜\t"“(（]+|["“(（])+|[,;，；、|｜\t]"""
)
_SEPARATORS = frozenset(",;，；、|｜\t")
_BRACKETS = frozenset("<>()[]")
_CELL_ENDS = frozenset("|｜\t")
_MAILTO = re.compile(r"\bmailto:([^\s<>?]*)(?:\?[^\s<>)]*)?", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"<([^<>]*@[^<>]*)>")
_ASIDE = re.compile(r'"[^"@]*"|\([^()@]*\)|\[[^]@[]*\]|【[^】@]*】')
_WORD = r'[^\s<>()\[\]{}"“”「」『』【】,:;\\]*'
_TOKEN = re.compile(rf"{_WORD}@{_WORD}")
_MAY_BELONG = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]")
"""A character of an address in ASCII (RFC 5322 3.2.3)."""
_OPENERS, _CLOSERS = ":(<[{“「『【", ")>]}”」』】:!?"
_QUOTES = ("''", "‘’", "``")


def split_line(line: str) -> Iterator[str]:
    """Cut a line into texts of one address each; a text without an @ is returned by itself.

    Names may stand between commas, in quotes, in brackets, or in another cell of a table.
    """
    if _PLAIN.fullmatch(line):
        yield line
        return
    if marker := _MARKER.match(line):
        line = line[marker.end() :]
    pieces = _PIECE.findall(line)
    in_cells = not _CELL_ENDS.isdisjoint(pieces) and _has_at(line)
    name = ""
    for n, piece in enumerate(pieces):
        if piece in _SEPARATORS or not piece.strip():
            continue
        if _has_at(piece):
            yield from _split_piece((name + piece).strip())
            name = ""
        elif _begins_a_name(pieces, n):
            name += piece + pieces[n + 1]
        elif not in_cells:
            yield (name + piece).strip()
            name = ""


def _has_at(text: str) -> bool:
    return "@" in text or "＠" in text or "﹫" in text


def _begins_a_name(pieces: list[str], n: int) -> bool:
    """Tell whether piece ``n`` is the ``Smith`` of ``Smith, Ann <a@example.com>``, as Outlook writes it."""
    after = pieces[n + 1 : n + 3]
    return (
        len(after) == 2
        and after[0] in ",，"
        and _has_at(after[1])
        and after[1].translate(_WIDTH).find("<") > 0
    )


def _split_piece(piece: str) -> Iterator[str]:
    """Cut a text with several addresses: after each bracket, or before the next name."""
    plain = piece.translate(_WIDTH)
    if plain.count("@") < 2 or "mailto:" in plain.lower():
        yield piece
        return
    if len(_IN_BRACKETS.findall(plain)) > 1:
        yield from (part for part in map(str.strip, re.split(r"(?<=[>＞》〉›»])", piece)) if part)
        return
    if not _BRACKETS.isdisjoint(plain):
        yield piece
        return
    words: list[str] = []
    texts: list[str] = []
    for word in piece.split():
        words.append(word)
        if _has_at(word):
            texts.append(" ".join(words))
            words = []
    if words:
        texts[-1] = " ".join([texts[-1], *words])
    yield from texts


def extract(text: str) -> str:
    """Return the address in a text, else the text itself, stripped, which validation rejects."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return text
    if not _has_at(text) or len(text.splitlines()) > 1:
        return text
    plain = _MAILTO.sub(lambda match: unquote(match[1]), text.translate(_WIDTH)).strip()
    address = _between_brackets(plain) if "<" in plain else _between_words(plain)
    return text if address is None else _tidy(address)


def _between_brackets(text: str) -> str | None:
    """Return the one address in ``<…>``, or ``None`` if there are others. The name may repeat the address."""
    inside = {_tidy(token) for token in _IN_BRACKETS.findall(text)}
    outside = {_tidy(token) for token in _TOKEN.findall(_IN_BRACKETS.sub(" ", text))}
    if not inside:  # only one of the two brackets
        return _between_words(text)
    return inside.pop() if len(inside) == 1 and outside <= inside else None


def _between_words(text: str) -> str | None:
    text = _ASIDE.sub(lambda found: found[0][0] + found[0][-1], text)
    tokens = list(_TOKEN.finditer(text))
    if len({_tidy(token[0]) for token in tokens}) != 1 or "@[" in text or tokens[0][0].startswith("@"):
        return None
    ends_apart = _stands_apart(text[: tokens[0].start()], text[tokens[-1].end() :])
    return tokens[0][0] if ends_apart else None


def _stands_apart(before: str, after: str) -> bool:
    """Tell whether no text around an address can belong to it, separated by a space or a quote."""
    before, after = before.rstrip('"'), after.lstrip('"')
    if before and not (before[-1].isspace() or before[-1] in _OPENERS):
        return False
    if after and not (after[0].isspace() or after[0] in _CLOSERS + "([【"):
        return False
    before, after = before.rstrip(), after.lstrip()
    return not (_MAY_BELONG.match(before[-1:]) or _MAY_BELONG.match(after[:1]))


def _tidy(address: str) -> str:
    """Remove a pair of quotes, and the punctuation that ends a sentence."""
    address = address.strip().rstrip(".。．｡!?…")
    if len(address) > 2 and address[0] + address[-1] in _QUOTES:
        address = address[1:-1].rstrip(".。．｡!?…")
    return address
