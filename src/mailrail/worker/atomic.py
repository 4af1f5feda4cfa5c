"""Let a consumer commit its writes together with the end of its message."""

from __future__ import annotations

from .consume import finishing as finishing
