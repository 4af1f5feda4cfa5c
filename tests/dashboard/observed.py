"""Facts as the live page gets them, for tests of what it makes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from typing import Any

from mailrail.dashboard.viewers import VIEW, Viewer
from mailrail.health import Problem, Readiness
from mailrail.monitoring.facts import ChannelFacts
from mailrail.monitoring.sample import Sample

NOW = 1_796_050_000.0
HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\x1b[2J"


def observed(*channels: ChannelFacts, problems: tuple[Problem, ...] = (), **facts: Any) -> tuple[Sample, ...]:
    """Return what the sampler would: one sample, of the default layer."""
    sample = Sample(NOW, "default", Readiness(problems), channels)
    changes: Any = {name: tuple(found) for name, found in facts.items()}
    return (replace(sample, **changes),)


def viewer(*permissions: str, language: str = "en") -> Viewer:
    return Viewer(frozenset((VIEW, *permissions)), language, UTC)
