"""Telling the layer what became of each claim, and then the world."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ..layers import DurableLayer
from ..messages import Claimed, Message
from .events import log_lost, log_outcome
from .incoming import IncomingMessage
from .leases import OUTAGES, LeaseKeeper, clock, is_outage
from .log import logger
from .outcomes import EFFECTS, Outcome, OutcomeKind

PATIENCE = 5.0
"""Seconds that one look spends on telling parts of a layer that do not answer."""


@dataclass(slots=True, eq=False)
class _Open:
    message: IncomingMessage
    outcome: Outcome
    unanswered_until: float = (
        0.0  # by clock(): a try before may have worked, and nobody else had the message so long
    )

    @property
    def claim(self) -> Message:
        return self.message.claim


class Settler:
    """Holds outcomes until the layer has taken them: an outage loses none.

    Finished messages wait for the next ``claim``, which settles them in the same round trip. Released ones get a round
    trip of their own, as a worker that stops may hold thousands. The others are few, and are settled one by one.
    """

    def __init__(self, layer: DurableLayer, keeper: LeaseKeeper) -> None:
        self._layer = layer
        self._keeper = keeper
        self._finished: list[_Open] = []
        self._others: deque[_Open] = deque()
        self._away: Exception | None = None  # why some of the others are left

    @property
    def has_work(self) -> bool:
        return bool(self._finished or self._others)

    @property
    def finished(self) -> list[_Open]:
        """What the next ``claim`` is to settle. Give its result to ``finished_by_claim``."""
        return self._finished

    def add(self, message: IncomingMessage) -> None:
        """Take in a message with its outcome; a second time (a batch's early one) changes nothing."""
        outcome = message.outcome
        if outcome is None or message.taken:
            return
        message.taken = True
        entry = _Open(message, outcome)
        if outcome.settled or outcome.kind == OutcomeKind.ISOLATED:
            self._close(entry)
        elif outcome.kind in (OutcomeKind.FINISHED, OutcomeKind.DISCARDED):
            self._finished.append(entry)
        else:
            self._others.append(entry)

    def decide(self, claim: Message, outcome: Outcome) -> None:
        """Take in a claim that no consumer is to see."""
        message = IncomingMessage(claim)
        message.decide(outcome)
        self.add(message)

    def settle(self) -> None:
        """Settle all but the finished. What the layer cannot take now stays for the next time.

        Where only a part of the layer is away, the others are told; ``check`` raises what was not raised here.
        """
        self._away = None
        self._release_together()
        away: set[str] = set()
        until = clock() + PATIENCE
        for _ in range(len(self._others)):
            entry = self._others[0]
            if entry.claim.channel not in away:
                try:
                    self._settle(entry)
                except OUTAGES as error:
                    if not self._layer.is_sharded:
                        raise
                    away.add(entry.claim.channel)
                    self._away = error
                else:
                    self._others.popleft()
                    continue
            self._others.rotate(-1)
            if clock() >= until:
                break

    def _settle(self, entry: _Open) -> None:
        try:
            lost = settle_one(self._layer, entry.claim, entry.outcome)
        except Exception as error:
            if is_outage(error):
                self._note_unanswered(entry)
                raise
            self._set_aside(entry, error)
        else:
            self._close(entry, () if clock() < entry.unanswered_until else lost)

    def check(self) -> None:
        """Raise what keeps the last ``settle`` from having told all."""
        if self._away is not None:
            raise self._away

    def _release_together(self) -> None:
        """Where that cannot be, they are tried one by one."""
        by_delay: dict[float, list[_Open]] = {}
        for entry in self._others:
            if entry.outcome.kind == OutcomeKind.RELEASED:
                by_delay.setdefault(entry.outcome.delay, []).append(entry)
        for delay, entries in by_delay.items():
            if len(entries) > 1:
                self._release(entries, delay)

    def _release(self, entries: list[_Open], delay: float) -> None:
        try:
            lost = self._layer.release([entry.claim for entry in entries], delay)
        except Exception as error:
            if not is_outage(error):
                return
            for entry in entries:
                self._note_unanswered(entry)
            if self._layer.is_sharded:
                return  # which of them is away is found out one by one
            raise
        settled = set(entries)
        self._others = deque(entry for entry in self._others if entry not in settled)
        now = clock()
        for entry in entries:
            self._close(entry, () if now < entry.unanswered_until else lost)

    def _note_unanswered(self, entry: _Open) -> None:
        entry.unanswered_until = self._keeper.safe_until(entry.claim) or entry.unanswered_until

    def _set_aside(self, entry: _Open, error: Exception) -> None:
        """The layer refuses this one, and will again: its lease lapses, so that it holds nobody else up."""
        self._keeper.forget(entry.claim)
        logger.error(
            "%r cannot be %s; it will count as lost", entry.message, entry.outcome.kind, exc_info=error
        )

    def finish_apart(self, error: Exception) -> None:
        """Take in that the ``claim`` that was to settle ``finished`` has failed.

        The cause may be one part of the layer, or one message that is refused. The next ``claim`` must not fail for it
        again, so these messages are settled one by one.
        """
        if self._layer.is_sharded or not is_outage(error):
            for entry in self._finished:
                entry.unanswered_until = self._keeper.safe_until(entry.claim)
            self._others.extend(self._finished)
            self._finished = []

    def finished_by_claim(self, claimed: Claimed) -> None:
        """The last ``claim`` has settled ``finished``."""
        for entry in self._finished:
            self._close(entry, claimed.lost)
        self._finished = []

    def _close(self, entry: _Open, lost: Sequence[Message] = ()) -> None:
        self._keeper.forget(entry.claim)
        if EFFECTS[entry.outcome.kind].level is None:
            return  # its own process has logged the outcome, or died
        if lost and any((claim.id, claim.token) == (entry.claim.id, entry.claim.token) for claim in lost):
            log_lost(entry.message)
        else:
            log_outcome(entry.message, entry.outcome)


def settle_one(layer: DurableLayer, claim: Message, outcome: Outcome) -> list[Message]:
    """Settle one claim in the layer. Return it if it was lost."""
    settle = EFFECTS[outcome.kind].settle
    assert settle is not None, outcome
    return settle(layer, claim, outcome)
