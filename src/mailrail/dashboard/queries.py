"""Read what a browser asks the live page for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mailrail.storable import storable

MAX_SEARCH_LENGTH = 200
MAX_PAGE = 1_000_000


class PageQuery(NamedTuple):
    """Say which channels are shown: those whose name contains ``q``, and which page of them."""

    q: str = ""
    page: int = 1

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> PageQuery:
        """Read a query from parameters; the first page stands for anything that is no number."""
        try:
            page = int(parameters.get("page") or 1)
        except (TypeError, ValueError, OverflowError):
            page = 1
        q = parameters.get("q")
        text = (
            storable(q.strip()[:MAX_SEARCH_LENGTH]) if isinstance(q, str) else ""
        )  # JSON has halves of pairs
        return cls(text, min(max(page, 1), MAX_PAGE))
