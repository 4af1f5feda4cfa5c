"""Noticing that the database's file was replaced (``rm db.sqlite3; manage.py migrate``, a backup moved into place)."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from ...errors import LayerUnavailable

LOOK_EVERY = 1.0
"""Seconds between two looks at the file, per thread."""


class FileWatch:
    """A connection goes on with the file it has opened, also when that has no name any more and nobody else sees it."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def check(self, connection: Any) -> None:
        """Raise ``LayerUnavailable`` where connecting anew would open another file. A missing one is waited for."""
        seen, now = self._of_thread, time.monotonic()
        file = str(connection.settings_dict["NAME"])
        if getattr(seen, "raw", None) is not connection.connection:
            seen.raw, seen.identity, seen.at = connection.connection, _identity(file), now
        elif now - seen.at >= LOOK_EVERY:
            seen.at, identity = now, _identity(file)
            if identity is not None and identity != seen.identity:
                raise LayerUnavailable(f"the database file {file} was replaced by another")


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = Path(file).stat()
    except OSError:  # or it is no file: ":memory:", a URI
        return None
    return found.st_dev, found.st_ino
