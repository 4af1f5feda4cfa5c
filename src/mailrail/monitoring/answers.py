"""Keep what a layer has answered while a sample is taken, so that functions of apps need not ask it again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from ..layers import DurableLayer
from ..layers.history import HistoryRow, Series
from ..messages import ChannelStats

_answers: ContextVar[dict[Hashable, Any] | None] = ContextVar("mailrail_answers", default=None)

Answer = TypeVar("Answer")


@contextmanager
def kept() -> Iterator[None]:
    """Keep the answers while the block runs."""
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


def keep_stats(layer: DurableLayer, stats: Mapping[str, ChannelStats]) -> None:
    """Give ``stats_of`` this answer, however far it counts."""
    if (answers := _answers.get()) is not None:
        answers["stats", layer] = stats


def stats_of(layer: DurableLayer, most: int) -> Mapping[str, ChannelStats]:
    """Return the counts of the sample that is taken, or ask the layer to count to ``most``."""
    return _once(("stats", layer), lambda: layer.stats(most))


def recent_of(layer: DurableLayer, since: float) -> Mapping[Series, HistoryRow]:
    """Return the sums of the history since that moment; the layer is asked once for each sample."""
    return _once(("recent", layer, since), lambda: layer.recent(since))


def _once(key: Hashable, ask: Callable[[], Answer]) -> Answer:
    answers = _answers.get()
    if answers is None:
        return ask()
    if key not in answers:
        answers[key] = ask()
    return cast("Answer", answers[key])
