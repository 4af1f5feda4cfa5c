"""The baseline of ``latency``, a process of its own: notices a new row as soon as polling every 20 ms can."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

from django.conf import settings

EVERY = 0.02
NEW = "SELECT rowid, content FROM benchmarks_row WHERE rowid > ? ORDER BY rowid"


def main() -> None:
    stamps = Path(os.environ["BENCHMARKS_STAMPS"])
    connection = sqlite3.connect(settings.DATABASES["default"]["NAME"], isolation_level=None)
    version, last = None, 0
    while True:
        found = connection.execute("PRAGMA data_version").fetchone()
        if found != version:
            version = found
            for rowid, content in connection.execute(NEW, (last,)).fetchall():
                last = rowid
                started_at = time.time()
                with stamps.open("a") as file:
                    file.write(f"{json.loads(content)['n']} {started_at}\n")
        time.sleep(EVERY)


if __name__ == "__main__":
    main()
