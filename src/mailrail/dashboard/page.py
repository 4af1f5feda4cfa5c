"""Build the JSON of the live page from samples: the same object for polling, WebSocket and the first HTML.

Texts in it come from channels, workers, servers and exceptions: whoever shows them has to escape them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mailrail.layers import default_alias, durable_aliases
from mailrail.monitoring import latest
from mailrail.monitoring.sample import Sample

from . import channels_section, mail_section, trouble_section, work_section, workers_section
from .health import health_of
from .queries import PageQuery
from .viewers import Viewer

INTERVAL_S = 2
"""Seconds between two polls of a page."""
MAX_VARIANTS = 500
"""Pages kept of one sample, one for each group of equal viewers with the same search."""

Build: TypeAlias = Callable[[Sequence[Sample], Viewer, PageQuery], dict[str, Any] | None]

SECTIONS: dict[str, Build] = {
    "channels": channels_section.build,
    "mail": mail_section.build,
    "workers": workers_section.build,
    "work": work_section.build,
    "troubles": trouble_section.build,
}
"""Functions that build the sections; one that returns ``None`` leaves its section out."""


@dataclass(frozen=True, slots=True)
class Page:
    """Hold a page as an object and as JSON. Pages with equal tags differ in their moment alone."""

    content: dict[str, Any]
    body: bytes
    etag: str


def samples() -> tuple[Sample, ...]:
    """Return a sample of each layer that keeps messages, the default one first."""
    first = default_alias()
    return tuple(
        latest(alias) for alias in sorted(durable_aliases(), key=lambda alias: (alias != first, alias))
    )


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> Page:
    """Build the page of these samples, in the viewer's language."""
    with viewer.reading():
        sections = {name: function(samples, viewer, query) for name, function in SECTIONS.items()}
        content = {
            "health": health_of(samples, viewer),
            "sections": {name: section for name, section in sections.items() if section is not None},
        }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    etag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    at = max((sample.at for sample in samples), default=0.0)
    body = f'{{"at":{at:.3f},"interval":{INTERVAL_S},{text[1:]}'.encode()
    return Page({"at": at, "interval": INTERVAL_S, **content}, body, etag)


class Pages:
    """Keep the pages of the last samples, so that many open pages cost one build a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: tuple[Sample, ...] = ()
        self._built: dict[tuple[Viewer, PageQuery], Page] = {}

    def get(self, samples: tuple[Sample, ...], viewer: Viewer, query: PageQuery) -> Page:
        """Return the page of these samples, built once for equal viewers and queries."""
        with self._lock:
            if len(self._built) >= MAX_VARIANTS or not _are_same(samples, self._samples):
                self._samples, self._built = samples, {}
            page = self._built.get((viewer, query))
            if page is None:
                page = self._built[viewer, query] = build(samples, viewer, query)
            return page


def _are_same(some: Sequence[Sample], others: Sequence[Sample]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


pages = Pages()


def page_for(viewer: Viewer, query: PageQuery) -> Page:
    """Return the page as it is now."""
    return pages.get(samples(), viewer, query)
