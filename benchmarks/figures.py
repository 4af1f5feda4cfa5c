"""What a benchmark returns: series of figures, ratios between them, and how they stand to the targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Plan:
    """How much to run. ``quick`` is for looking whether a benchmark works: its figures mean little."""

    rounds: int = 3
    quick: bool = False

    def size(self, full: int) -> int:
        return max(1, full // 10) if self.quick else full


@dataclass
class Series:
    """One figure of one contender, once per round. ``unit``: of a value, ``"messages/s"`` or ``"ms"``."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' own ratios: a load that changes between rounds changes both sides of one."""

    name: str
    value: float

    @classmethod
    def of(cls, ours: Series, baseline: Series, name: str = "") -> Ratio:
        each = [a / b for a, b in zip(ours.values, baseline.values, strict=True)]
        return cls(name or f"{ours.name} / {baseline.name}", median(each))


@dataclass(frozen=True)
class Target:
    """``text`` says the target, ``found`` what was measured; a miss is printed, and fails nothing."""

    text: str
    found: str
    met: bool


@dataclass
class Result:
    """``how``: what was measured from when to when, so that the figures can be doubted."""

    title: str
    how: str
    series: list[Series]
    ratios: list[Ratio] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)


def seconds_of(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]
