"""Say what each action does: which ids are next, and what becomes of them, by verbs that repeat harmlessly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from django.db import router

from mailrail.cancelling import cancel_messages
from mailrail.errors import InvalidSettings
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Cursor, MessageSummary
from mailrail.moments import aware
from mailrail.routing import Routing
from mailrail.signals import channel_paused, channel_resumed

from .models import Operation

MESSAGES_PER_PART = 1_000
"""Messages of one call: so long do others wait for the layer's lock on SQLite, and for its server on Redis."""
EMAILS_PER_PART = 500


@dataclass(frozen=True, slots=True)
class Part:
    """Hold ids that are next in a unit, and where the ones behind them begin, as JSON."""

    ids: Sequence[UUID]
    behind: Any


@dataclass(slots=True)
class PartDone:
    """Count what was done, and what is left: not done, though it is still there."""

    done: int = 0
    left: int = 0


class OperationKind(Protocol):
    """Carry out the actions on one kind of thing, part by part."""

    def part(self, operation: Operation, unit: Any, behind: Any) -> Part | None:
        """Return what is next in a unit, or ``None`` if nothing is."""

    def carry_out(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> PartDone:
        """Act on these ids."""

    def settled(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> int:
        """Count which of these, whose outcome nobody has stored, are done."""

    def using(self, unit: Any) -> str | None:
        """Return the database whose transactions the acts of a unit are part of, if there is one."""


def layer_of(alias: str, channel: str) -> DurableLayer:
    """Return the layer that has this channel: also the store of an outbox, for the outbox's own."""
    layer = get_layer(alias)
    return layer.outbox.store if layer.outbox is not None and layer.outbox.channel == channel else layer


class _OfMessages:
    """Act on messages of a channel: a unit is ``[layer, channel]``, or ``[layer, channel, [id, …]]``."""

    def part(self, operation: Operation, unit: Any, behind: Any) -> Part | None:
        alias, channel, *chosen = unit
        if chosen:
            return Part([UUID(id) for id in chosen[0]], True) if behind is None else None
        layer = layer_of(alias, channel)
        while page := self._page(layer, channel, operation, _read_cursor(behind)):
            behind = _write_cursor(page[-1].cursor)
            if ids := self._meant(layer, channel, operation, page):
                return Part(ids, behind)
        return None

    def _page(
        self, layer: DurableLayer, channel: str, operation: Operation, cursor: Cursor | None
    ) -> list[MessageSummary]:
        """Return what the layer lists from there on."""
        raise NotImplementedError

    def _meant(
        self, layer: DurableLayer, channel: str, operation: Operation, page: Sequence[MessageSummary]
    ) -> list[UUID]:
        """Return which of a page were meant when the operation was asked for."""
        return [summary.id for summary in page]

    def using(self, unit: Any) -> str | None:
        layer = layer_of(unit[0], unit[1])
        return layer.using if layer.supports_atomic else None


class DeadMessages(_OfMessages):
    """Requeue or discard the messages that were dead at that moment, the last buried first.

    One that dies again meanwhile does so later, so that nobody meets it again.
    """

    def _page(
        self, layer: DurableLayer, channel: str, operation: Operation, cursor: Cursor | None
    ) -> list[MessageSummary]:
        begin = _until(operation), UUID(int=2**128 - 1)
        error_class = operation.filters.get("error_class")
        return layer.list_messages([channel], MESSAGES_PER_PART, "dead", cursor or begin, error_class)

    def carry_out(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> PartDone:
        layer = layer_of(unit[0], unit[1])
        verb = layer.requeue if operation.action == "requeue" else layer.discard
        return PartDone(len(verb(unit[1], ids)))  # the others are gone: somebody else was quicker

    def settled(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> int:
        dead = layer_of(unit[0], unit[1]).get(unit[1], ids, dead=True)
        return len(ids) - sum((message.buried_at or 0.0) <= _until(operation) for message in dead)


class WaitingMessages(_OfMessages):
    """Cancel messages that were sent before that moment and that no worker has claimed, soonest due first."""

    def _page(
        self, layer: DurableLayer, channel: str, operation: Operation, cursor: Cursor | None
    ) -> list[MessageSummary]:
        return layer.list_messages([channel], MESSAGES_PER_PART, operation.filters.get("state"), cursor)

    def _meant(
        self, layer: DurableLayer, channel: str, operation: Operation, page: Sequence[MessageSummary]
    ) -> list[UUID]:
        """Ids that begin with their time tell when a message was made; of others, the message has to be read."""
        until, ids = _until(operation), [summary.id for summary in page if summary.state != "claimed"]
        timeless = [id for id in ids if id.version != 7]
        later = {m.id for m in layer.get(channel, timeless) if (m.sent_at or 0.0) > until}
        return [id for id in ids if id not in later and (id.version != 7 or (id.int >> 80) / 1000 <= until)]

    def carry_out(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> PartDone:
        layer = layer_of(unit[0], unit[1])
        cancelled = cancel_messages(layer, unit[1], ids)
        others = {*ids} - {*cancelled}
        return PartDone(len(cancelled), len(layer.existing_ids(unit[1], others)) if others else 0)

    def settled(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> int:
        return len(ids) - len(layer_of(unit[0], unit[1]).existing_ids(unit[1], ids))


class Channels:
    """Pause or resume channels, and tell the apps whose records they are about. A unit is ``[layer, channel]``."""

    def part(self, operation: Operation, unit: Any, behind: Any) -> Part | None:
        return Part([operation.pk], True) if behind is None else None

    def carry_out(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> PartDone:
        alias, channel = unit
        layer = layer_of(alias, channel)
        with suppress(InvalidSettings):
            Routing.of_layer()  # imports what the signals are for: apps that keep records of pauses
        if operation.action == "pause":
            layer.pause(channel, operation.by, operation.reason)
            channel_paused.send_robust(channel, by=operation.by, reason=operation.reason)
        else:
            layer.resume(channel)
            channel_resumed.send_robust(channel)
        return PartDone(1)

    def settled(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> int:
        return 0

    def using(self, unit: Any) -> str | None:
        return None


class Mailers(Channels):
    """Pause or resume mailers. A unit is an alias."""

    def carry_out(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> PartDone:
        from mailrail import mail

        if operation.action == "pause":
            mail.pause(unit, reason=operation.reason, by=operation.by)
        else:
            mail.resume(unit)
        return PartDone(1)


class Emails:
    """Act on a mailer's emails that had a status at that moment, the oldest first. A unit is an alias as in records."""

    def part(self, operation: Operation, unit: Any, behind: Any) -> Part | None:
        from mailrail.mail.records.choosing import ids_of

        after = None if behind is None else UUID(behind)
        ids = ids_of(unit, operation.filters["status"], operation.until, after, EMAILS_PER_PART)
        return Part(ids, str(ids[-1])) if ids else None

    def carry_out(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> PartDone:
        from mailrail import mail

        verbs = {"requeue": mail.resend, "send_now": mail.send_now, "cancel": mail.cancel}
        changed = verbs[operation.action](ids)
        return PartDone(len(changed.done), len(changed.refused))

    def settled(self, operation: Operation, unit: Any, ids: Sequence[UUID]) -> int:
        from mailrail.mail import Email

        emails = Email.objects.using(router.db_for_write(Email))
        return emails.filter(pk__in=ids, changed_at__gt=operation.until).count()

    def using(self, unit: Any) -> str | None:
        from mailrail.mail import Email

        return router.db_for_write(Email)


KINDS: Mapping[str, OperationKind] = {
    "dead": DeadMessages(),
    "waiting": WaitingMessages(),
    "channels": Channels(),
    "mailers": Mailers(),
    "emails": Emails(),
}


def _until(operation: Operation) -> float:
    return aware(operation.until).timestamp()


def _write_cursor(cursor: Cursor) -> Any:
    return [repr(cursor[0]), str(cursor[1])]


def _read_cursor(stored: Any) -> Cursor | None:
    return None if stored is None else (float(stored[0]), UUID(stored[1]))
