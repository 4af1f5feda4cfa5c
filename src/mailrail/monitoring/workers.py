"""Describe the workers of a layer, those that were killed or fell silent among them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..layers import DurableLayer
from ..messages import WorkerInfo
from .facts import SlotFacts, WorkerFacts

SILENT_AFTER_S = 15.0
"""Seconds without a sign of life, three heartbeats, after which a worker is marked."""


def workers(layer: DurableLayer) -> list[WorkerFacts]:
    """Describe the workers by their ids; killed ones for ten minutes. Raises what the layer raises.

    A worker is silent after three missed heartbeats, or as soon as another one of its host says that it is gone.
    """
    infos = layer.workers(lost=True)
    usual, now = _usual_release(infos), time.time()
    return [_facts_of(worker, usual, now) for worker in infos]


def _usual_release(infos: list[WorkerInfo]) -> tuple[str, str] | None:
    """Return the versions of Mailrail and of the code that most living workers run; of as many, the newest one's."""
    living = [worker for worker in infos if not _is_silent(worker)]
    living.sort(key=lambda worker: _number(worker.info, "uptime") or 0.0)
    counts = Counter(map(_release, living))  # of equal counts, the first one found comes first
    return counts.most_common(1)[0][0] if counts else None


def _facts_of(worker: WorkerInfo, usual: tuple[str, str] | None, now: float) -> WorkerFacts:
    info, silent = worker.info, _is_silent(worker)
    version, release = _release(worker)
    uptime, memory, pid = _number(info, "uptime"), _number(info, "memory"), _number(info, "pid")
    return WorkerFacts(
        worker.id,
        _text(info, "host"),
        None if pid is None else int(pid),
        version,
        release,
        is_other_release=not silent and (version, release) != usual,
        age=worker.age,
        is_silent=silent,
        is_stopping=bool(info.get("stopping")),
        started_at=None if uptime is None else now - worker.age - uptime,
        memory=None if memory is None else int(memory),
        threads=int(_number(info, "threads") or 0),
        slots=tuple(_slots(info, now - worker.age)),
    )


def _slots(info: Mapping[str, Any], told_at: float) -> Iterator[SlotFacts]:
    slots = info.get("slots")
    for slot in slots if isinstance(slots, list) else ():
        if isinstance(slot, dict):
            yield SlotFacts(
                _text(slot, "channel"), _text(slot, "id"), told_at - (_number(slot, "seconds") or 0.0)
            )


def _is_silent(worker: WorkerInfo) -> bool:
    return worker.is_gone or worker.age >= SILENT_AFTER_S


def _release(worker: WorkerInfo) -> tuple[str, str]:
    return _text(worker.info, "version"), _text(worker.info, "release")


def _text(info: Mapping[str, Any], name: str) -> str:
    value = info.get(name)
    return value if isinstance(value, str) else ""


def _number(info: Mapping[str, Any], name: str) -> float | None:
    value = info.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)
