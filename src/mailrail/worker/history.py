"""Hand what a worker counted to its layer's history, with the heartbeat."""

from __future__ import annotations

from ..layers import DurableLayer
from ..layers.history import HistoryRow, TroubleRow
from ..monitoring.counters import Counters
from ..transient import Remedy, is_lock_timeout, remedy_for


def flush(layer: DurableLayer, counters: Counters) -> None:
    """Record what was counted since the last time; nothing, if nothing was.

    Where nobody knows whether it was stored, it is not stored again: a count is rather missing than doubled. Raise
    what the layer raises.
    """
    rows, troubles = counters.take()
    # Apart: a layer may store the ones and fail at the others.
    parts: list[tuple[list[HistoryRow], list[TroubleRow]]] = [(rows, []), ([], troubles)]
    while parts:
        try:
            layer.record(*parts[0])
        except Exception as error:
            for part in parts[int(_may_have_run(error)) :]:
                counters.give_back(*part)
            raise
        del parts[0]


def _may_have_run(error: Exception) -> bool:
    if is_lock_timeout(error):
        return False
    return getattr(error, "may_have_run", remedy_for(error) is not Remedy.REPEAT)
