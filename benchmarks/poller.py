"""The baseline of ``latency``, a process of its own: notices a new row as soon as the database lets it.

On SQLite by polling every 20 ms, on PostgreSQL by LISTEN, on Redis by SUBSCRIBE.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

EVERY = 0.02


def main() -> None:
    django.setup()
    from .database import HOLE, bare
    from .settings import ON

    if ON == "redis":
        _subscribed(Path(os.environ["BENCHMARKS_STAMPS"]))
    stamps = Path(os.environ["BENCHMARKS_STAMPS"])
    new = f"SELECT due, content FROM benchmarks_row WHERE channel = 'noop' AND due > {HOLE} ORDER BY due"
    last = "" if ON == "sqlite" else "-infinity"
    with bare() as connection:
        for _ in _polled(connection) if ON == "sqlite" else _notified(connection):
            for due, content in connection.execute(new, [last]).fetchall():
                last = due
                started_at = time.time()
                with stamps.open("a") as file:
                    file.write(f"{json.loads(content)['n']} {started_at}\n")


def _subscribed(stamps: Path) -> None:
    """Until the process is told to stop."""
    from .database import bare

    with bare() as client, client.pubsub(ignore_subscribe_messages=True) as hints:
        hints.subscribe("benchmarks")
        while True:
            said = hints.get_message(timeout=None)
            if said is not None:
                started_at = time.time()
                with stamps.open("a") as file:
                    file.write(f"{int(said['data'])} {started_at}\n")


def _polled(connection: Any) -> Iterator[None]:
    """Whenever the file has changed."""
    version = None
    while True:
        found = connection.execute("PRAGMA data_version").fetchone()
        if found != version:
            version = found
            yield
        time.sleep(EVERY)


def _notified(connection: Any) -> Iterator[None]:
    connection.execute("LISTEN benchmarks")
    while True:
        yield
        list(connection.notifies(stop_after=1))


if __name__ == "__main__":
    main()
