"""What people see or hear of a page or an email: its text, and the attributes that are text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

SPOKEN = ("alt", "aria-description", "aria-label", "placeholder", "title")
UNSEEN = ("script", "style")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.texts += [value for name, value in attributes if name in SPOKEN and value]

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if not set(UNSEEN) & set(self._open):
            self.texts.append(data)


def texts(html: str) -> list[str]:
    reader = _Reader()
    reader.feed(html.replace("<wbr>", ""))  # where a line may break is not seen
    reader.close()
    return [text.strip() for text in reader.texts if text.strip()]


def english(text: str, *known: str) -> list[str]:
    """The words in Latin letters, but for these."""
    for each in sorted(known, key=len, reverse=True):
        text = text.replace(each, " ")
    return WORD.findall(text)
