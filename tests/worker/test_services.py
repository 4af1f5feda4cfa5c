"""What apps do beside the work of a worker, and what becomes of it when it fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mailrail.layers import InMemoryChannelLayer
from mailrail.routing import Routing
from mailrail.worker import Worker, maintenance, register_service


@pytest.fixture(autouse=True)
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_services", {})
    monkeypatch.setattr(maintenance, "FIRST_SERVICE_BACKOFF_S", 0.001)


def worker(**options: Any) -> Worker:
    return Worker(InMemoryChannelLayer(), Routing([]), **options)


def test_a_service_that_fails_is_told_once_and_tried_again_and_keeps_no_other_from_its_looks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[str] = []
    is_over = threading.Event()

    def fail() -> float | None:
        looks.append("failing")
        if looks.count("failing") < 4:
            raise RuntimeError("not today")
        is_over.set()
        return None

    def look() -> float | None:
        looks.append("other")
        return 0.001 if looks.count("other") < 3 else None

    register_service("the failing one", fail)
    register_service("the other one", look)
    running = worker()
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert is_over.wait(20)
    finally:
        running.stop(5)
        thread.join(20)
    assert looks.count("failing") == 4 and looks.count("other") == 3
    assert caplog.text.count("the failing one has to wait, trying again: not today") == 1
    assert not [each for each in threading.enumerate() if each.name.startswith("mailrail-the ")]


def test_a_worker_that_drains_does_not_look() -> None:
    looks: list[str] = []
    register_service("the service", lambda: looks.append("look"))
    worker(drain=True).run()
    assert not looks
