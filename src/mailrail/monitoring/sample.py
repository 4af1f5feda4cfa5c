"""Take a sample of all that people on call watch: one question for each thing, however much there is of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TypeVar

from ..conf import settings
from ..health import Problem, Readiness
from ..health.readiness import LAYER_ERRORS, Observed, assess, observe, unusable
from ..health.rules import unknown
from ..layers import DurableLayer, default_alias, get_layer
from .answers import keep_stats, kept, recent_of
from .channels import Severity, by_need, channel_facts, severity
from .facts import ChannelFacts, FlowFacts, OperationFacts, TroubleFacts, WorkerFacts, WorkFacts
from .rates import Depths, begin_of_average, with_rates
from .registry import registered_flows, registered_operations, registered_work
from .workers import workers

MAX_COUNTED, MIN_COUNTED = 100, 10
"""Messages counted exactly per state and channel; larger numbers are estimates. Fewer where there are many channels."""
MAX_COUNTED_IN_ALL = 10_000
"""Messages of a state that are counted exactly on all channels together, where that leaves each enough."""
MAX_TROUBLES = 100
"""Groups of what went wrong: the last ones."""

Fact = TypeVar("Fact")


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold what was found out at a moment (Unix seconds), of the layer with this alias.

    Channels that need somebody come first. Where the layer cannot be used, ``health`` says so and there are none.
    """

    at: float
    layer: str
    health: Readiness
    channels: tuple[ChannelFacts, ...] = ()
    workers: tuple[WorkerFacts, ...] = ()
    flows: tuple[FlowFacts, ...] = ()
    work: tuple[WorkFacts, ...] = ()
    troubles: tuple[TroubleFacts, ...] = ()
    operations: tuple[OperationFacts, ...] = ()

    @property
    def late(self) -> frozenset[str]:
        """Return the names of the channels that are a problem."""
        return frozenset(problem.name for problem in self.health.problems if problem.kind == "channel")

    @property
    def has_unknown_layer(self) -> bool:
        """Tell whether the layer has not answered: there may be channels, workers and troubles that are not here."""
        return any(problem.kind == "layer" for problem in self.health.problems)

    @property
    def is_incomplete(self) -> bool:
        """Tell whether the layer or a function of an app has not answered, so that facts may be missing."""
        return any(problem.kind in ("layer", "unknown") for problem in self.health.problems)

    def severity(self, channel: ChannelFacts) -> Severity:
        """Tell how much one of the channels needs somebody."""
        return severity(channel, self.late)


def sample(layer_alias: str | None = None, most: int = MAX_COUNTED, depths: Depths | None = None) -> Sample:
    """Take a sample. Raises nothing that a layer or a database raises: the health says what cannot be found out.

    The health is that of ``channels check``: work is late after ``MAILRAIL["READY_OLDEST_DUE"]``, and outages count
    from their first second. A project with consumers needs a worker. Flows and long work are the same whatever the
    layer, so only the default one has them. ``depths``: those of the samples before, which this one is added to.
    """
    with kept():
        return _sample(layer_alias, most, depths or Depths())


def _sample(layer_alias: str | None, most: int, depths: Depths) -> Sample:
    at, alias = time.time(), layer_alias or default_alias()
    problems: list[Problem] = []
    health, channels, living, troubles = _of_layer(layer_alias, most, at, depths)
    flows: list[FlowFacts] = []
    work: list[WorkFacts] = []
    operations: list[OperationFacts] = []
    if alias == default_alias():
        flows = _gathered(registered_flows(), problems)
        work = _gathered(registered_work(), problems)
        operations = _gathered(registered_operations(), problems)
    health = Readiness((*health.problems, *problems), health.workers)
    late = {problem.name for problem in health.problems if problem.kind == "channel"}
    found = tuple(living), tuple(flows), tuple(work), tuple(troubles), tuple(operations)
    return Sample(at, alias, health, by_need(channels, late), *found)


def most_counted(channels: int) -> int:
    """Return how many messages of each state and channel are to be counted where there are so many channels."""
    return max(MIN_COUNTED, min(MAX_COUNTED, MAX_COUNTED_IN_ALL // max(1, channels)))


def _of_layer(
    alias: str | None, most: int, at: float, depths: Depths
) -> tuple[Readiness, list[ChannelFacts], list[WorkerFacts], list[TroubleFacts]]:
    try:
        layer = get_layer(alias)
        observed = observe(layer, most)
        keep_stats(layer, observed.stats)
        channels = _channels(layer, alias, most, observed, at, depths)
        health = assess(observed, alias, settings.ready_oldest_due, None, outages_from=0.0)
        troubles = [TroubleFacts(**asdict(row)) for row in layer.troubles(limit=MAX_TROUBLES)]
        return health, channels, workers(layer), troubles
    except LAYER_ERRORS as error:
        return unusable(alias, error), [], [], []


def _channels(
    layer: DurableLayer, alias: str | None, most: int, observed: Observed, at: float, depths: Depths
) -> list[ChannelFacts]:
    recent = recent_of(layer, begin_of_average(at))
    busy = [name for kind, name in recent if kind == "channel"]
    channels = channel_facts(layer, alias, observed.stats, most, busy)
    depths.record(at, channels)
    before = depths.at(begin_of_average(at))
    return [with_rates(channel, recent, at, before) for channel in channels]


def _gathered(functions: Iterable[Callable[[], Iterable[Fact]]], problems: list[Problem]) -> list[Fact]:
    """Return what functions of apps yield, and add to ``problems`` those that fail."""
    facts: list[Fact] = []
    for function in functions:
        try:
            facts += function()
        except LAYER_ERRORS as error:
            problems.append(unknown(function.__name__, error))
    return facts
