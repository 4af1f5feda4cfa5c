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

from django.utils.translation import gettext

from mailrail.layers import default_alias, durable_aliases
from mailrail.monitoring import alatest, latest
from mailrail.monitoring.sample import Sample

from . import (
    channels_section,
    mail_section,
    operations_section,
    trouble_section,
    work_section,
    workers_section,
)
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
    "operations": operations_section.build,
}
"""Functions that build the sections; one that returns ``None`` leaves its section out."""
OF_LAYERS = frozenset({"channels", "workers", "troubles"})
"""Sections of what layers alone know; apps know the others."""


@dataclass(frozen=True, slots=True)
class Page:
    """Hold a page as an object and as JSON. Pages with equal tags differ in their moment alone."""

    content: dict[str, Any]
    body: bytes
    etag: str


def samples() -> tuple[Sample, ...]:
    """Return a sample of each layer that keeps messages, the default one first."""
    return tuple(latest(alias) for alias in _aliases())


async def asamples() -> tuple[Sample, ...]:
    """Return what ``samples`` does, and let a thread ask."""
    return tuple([await alatest(alias) for alias in _aliases()])


def _aliases() -> list[str]:
    first = default_alias()
    return sorted(durable_aliases(), key=lambda alias: (alias != first, alias))


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> Page:
    """Build the page of these samples, in the viewer's language."""
    with viewer.reading():
        sections = {name: _section(name, samples, viewer, query) for name in SECTIONS}
        content = {
            "health": health_of(samples, viewer),
            "sections": {name: section for name, section in sections.items() if section is not None},
        }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    etag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    at = max((sample.at for sample in samples), default=0.0)
    body = f'{{"at":{at:.3f},"interval":{INTERVAL_S},{text[1:]}'.encode()
    return Page({"at": at, "interval": INTERVAL_S, **content}, body, etag)


def _section(name: str, samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any] | None:
    """Build a section. One without rows does not say that there are none where that could not be found out."""
    section = SECTIONS[name](samples, viewer, query)
    are_unknown = [s.has_unknown_layer if name in OF_LAYERS else s.is_incomplete for s in samples]
    if section is not None and not section["rows"] and any(are_unknown):
        section["empty"] = gettext("This cannot be found out now: the top of the page says why.")
    return section


class Pages:
    """Keep the pages of the last samples, so that many open pages cost one build a second."""

    def __init__(self) -> None:
        self._building = threading.Lock()
        self._kept: tuple[tuple[Sample, ...], dict[tuple[Viewer, PageQuery], Page]] = ((), {})

    def known(self, samples: tuple[Sample, ...], viewer: Viewer, query: PageQuery) -> Page | None:
        """Return the page of these samples if it is built already."""
        kept_samples, built = self._kept
        return built.get((viewer, query)) if _are_same(samples, kept_samples) else None

    def get(self, samples: tuple[Sample, ...], viewer: Viewer, query: PageQuery) -> Page:
        """Return the page of these samples, built once for equal viewers and queries."""
        with self._building:
            page = self.known(samples, viewer, query)
            if page is None:
                page = build(samples, viewer, query)
                kept_samples, built = self._kept
                is_full = len(built) >= MAX_VARIANTS
                if is_full or not _are_same(samples, kept_samples):
                    self._kept = (samples, {})
                self._kept[1][viewer, query] = page
            return page


def _are_same(some: Sequence[Sample], others: Sequence[Sample]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


pages = Pages()


def page_for(viewer: Viewer, query: PageQuery) -> Page:
    """Return the page as it is now."""
    taken = samples()
    return pages.known(taken, viewer, query) or pages.get(taken, viewer, query)
