"""Hand what a worker counted to its layer's history, with the heartbeat."""

from __future__ import annotations

from ..layers import DurableLayer
from ..layers.history import HistoryRow, TroubleRow
from ..messages import Message
from ..monitoring.counters import BURIED, EXPIRED, RETRIED, Counters, trouble_of
from ..transient import Remedy, is_lock_timeout, remedy_for


def note(counters: Counters, claim: Message, what: int, run: float | None, error: str) -> None:
    """Count the end of a claim. The first run of a message also tells when that was sent.

    ``run``: seconds, if its consumer has begun. ``error``: why it has failed.
    """
    is_first = claim.attempt == (0 if what == EXPIRED else 1)
    counters.note(claim.channel, what, claim.waited, run, claim.sent_at if is_first else None)
    if error and what in (RETRIED, BURIED):
        counters.note_trouble("channel", claim.channel, trouble_of(error), 1, int(what == BURIED))


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
