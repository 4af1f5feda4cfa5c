"""What the faults share: a ledger, a seed that is printed, and both databases, one after the other."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from mailrail.layers import DurableLayer, get_layer

from ..processes import Ledger, WorkerProcess, until


@pytest.fixture(params=["default", pytest.param("postgres", id="postgresql")])
def layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    """The layer that messages are sent to. Workers need ``on(layer)``."""
    backend = "mailrail.layers.DatabaseChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"using": request.param}}}
    yield get_layer()
    connections[request.param].close()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Consumers of "held" run until it exists."""
    return tmp_path / "gate"


@pytest.fixture
def seed() -> int:
    print(f"seed: {(seed := random.randrange(10**6))}")
    return seed


def on(layer: DurableLayer, *arguments: str) -> tuple[str, ...]:
    """Arguments of a worker on this layer."""
    return ("--layer", layer.using, *arguments)


def is_empty(layer: DurableLayer) -> bool:
    """Nothing waits, nothing runs. The dead do not count."""
    return all(s.ready + s.scheduled + s.claimed == 0 for s in layer.stats().values())


def recover(condition: Callable[[], Any], fault: str) -> None:
    """Wait until work goes on after a fault, and print how long that took."""
    begun = time.monotonic()
    until(condition, what=f"the recovery from {fault}")
    print(f"{fault}: work goes on after {time.monotonic() - begun:.2f} s")


def more(ledger: Ledger) -> Callable[[], bool]:
    """Is there more in the ledger than when this was made?"""
    before = ledger.total()
    return lambda: ledger.total() > before


def end(*running: WorkerProcess) -> None:
    until(lambda: all(worker.log for worker in running), what="the start of all workers")
    for worker in running:
        worker.signal(signal.SIGTERM)
    for worker in running:
        assert worker.wait() == 0, worker.log[-3000:]
