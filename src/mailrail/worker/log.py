"""The worker's log."""

from __future__ import annotations

from ..log import logger_of

logger = logger_of("mailrail.worker")
