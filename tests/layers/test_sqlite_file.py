"""A worker on a SQLite file that is replaced under it: ``rm db.sqlite3; manage.py migrate``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from mailrail.layers import DatabaseChannelLayer
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import IncomingMessage, Worker, leases

from ..processes import until


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any) -> Iterator[str]:
    """An entry in DATABASES with a file of the test's own."""
    entry = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": tmp_path / "own.sqlite3",
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"},
    }
    complete = connections.configure_settings({"default": entry})["default"]
    monkeypatch.setitem(connections.settings, "own", complete)
    with django_db_blocker.unblock():
        yield "own"
    connections["own"].close()
    del connections["own"]


def test_a_worker_and_its_consumers_go_on_with_the_file_that_took_the_place_of_theirs(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def consume(message: IncomingMessage) -> None:
        with connections[database].cursor() as cursor:
            cursor.execute("SELECT content FROM mailrail_message")
            seen.append(cursor.fetchone())

    def send_another() -> None:
        n = len(seen)
        layer.enqueue([Message("work", {"n": n})])
        connections[database].close()
        until(lambda: len(seen) == n + 1, 10)

    monkeypatch.setattr(leases, "HEARTBEAT_INTERVAL_S", 0.2)
    layer = DatabaseChannelLayer(using=database)
    seen: list[Any] = []
    call_command("migrate", "mailrail", database=database, verbosity=0)
    worker = Worker(layer, Routing([route("work", consume)]), threads=1)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        send_another()
        until(layer.workers, 10)
        connections[database].close()
        for file in Path(connections[database].settings_dict["NAME"]).parent.glob("own.sqlite3*"):
            file.unlink()
        call_command("migrate", "mailrail", database=database, verbosity=0)
        send_another()
        send_another()
        until(layer.workers, 10)
    finally:
        worker.stop(0)
        thread.join(20)
    assert seen == [('{"n":0}',), ('{"n":1}',), ('{"n":2}',)]
