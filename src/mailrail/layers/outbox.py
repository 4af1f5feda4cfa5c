"""The outbox: sends kept in a database, in their caller's transaction, until they are relayed to the layer's server.

What waits here are messages of a database layer, on a channel of their own that nothing is routed on. A relay claims
messages, passes them on under their own ids and finishes them, so several relays may run at once. Relays are the sender
right after its commit, workers, and ``manage.py channels relay``. A crash between the two steps hands a message on
twice, which is harmless while the first one waits or is claimed.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from uuid import UUID

from channels.layers import channel_layers
from django.db import Error, connections, transaction

from ..errors import InvalidSettings, LayerUnavailable
from ..log import logger_of
from ..messages import ChannelStats, Message, check_channel_name, encode
from .base import COUNTED
from .database import DatabaseChannelLayer
from .layer import DurableLayer

logger = logger_of("mailrail.layers")

BATCH = 500
"""Messages that are relayed together. A sender relays no more than one batch; workers do the rest."""
LEASE = 30.0
"""Seconds after which others relay what a process that died had claimed."""
SENDERS_REST = 30.0
"""Seconds for which this process's senders leave it to the workers after they have found the server down."""

PARTS_REST = 5.0
"""Seconds after which a message is tried again whose part of the layer is away."""
MOST_IN_VAIN = 4
"""Batches in a row of which each message rests, until a relay gives up. The next one comes to those behind them."""

OUTAGES = (LayerUnavailable, InvalidSettings, Error, OSError)
"""What says something of the server, or the database, and nothing of a message."""

# What of a message travels in the headers of the row, if it is not the field's default. Its content, format version and
# priority are the row's own.
_CARRIED = (
    "headers",
    "lane",
    "places",
    "key",
    "due",
    "delay",
    "expires",
    "lifetime",
    "max_attempts",
    "attempt",
    "losses",
    "alone",
)
_DEFAULTS = {field.name: field.default for field in fields(Message)} | {"headers": {}}


class Outbox:
    """What a layer's senders have put into the database ``using``, for a while."""

    def __init__(self, layer: DurableLayer, using: str) -> None:
        self._layer = layer
        self._using = using
        try:
            self._store = DatabaseChannelLayer(using=using)
        except InvalidSettings as error:
            raise InvalidSettings(
                f"CONFIG['outbox'] = True keeps sends in the database {using!r} (CONFIG['using']) until they are "
                f"relayed, and that one cannot: {error}"
            ) from error
        self._of_thread = threading.local()
        self._is_down = False
        self._senders_rest_until = 0.0

    @property
    def channel(self) -> str:
        """Where the messages wait. Layers that share a database are told apart by their aliases."""
        alias = next(
            (alias for alias, layer in channel_layers.backends.items() if layer is self._layer), "default"
        )
        return f"mailrail.outbox.{re.sub('[^A-Za-z0-9._-]', '_', alias)[:60]}"

    @property
    def store(self) -> DurableLayer:
        """The layer on whose ``channel`` they wait."""
        return self._store

    # -- sending ------------------------------------------------------------------------------------------------

    def keep(self, messages: Sequence[Message]) -> list[UUID]:
        """Store the messages in the caller's transaction, and relay them right after its commit, if that works."""
        rows = [self._row_of(message, self.channel) for message in messages]
        try:
            self._store.enqueue(rows)
        except LayerUnavailable as error:
            raise LayerUnavailable(
                f"CONFIG['outbox'] = True keeps sends in the database {self._using!r}, and it cannot take this one: "
                f"{error}"
            ) from error
        self._relay_after_commit(len(messages))
        return [message.id for message in messages]

    def _row_of(self, message: Message, channel: str) -> Message:
        if message.headers:
            encode(message.headers, "headers")  # errors name their path in there
        carried = {name: getattr(message, name) for name in _CARRIED}
        changed = {name: value for name, value in carried.items() if value != _DEFAULTS[name]}
        return Message(
            channel=channel,
            content=message.content,
            id=self._other_id(message.id),
            headers={"channel": check_channel_name(message.channel), **changed},
            v=message.v,
            priority=message.priority,
            # The order of acceptance: a message of a lane is claimed when the one before it is handed on.
            lane=_lane_of(message) if message.lane and message.places is None else None,
        )

    def _other_id(self, id: UUID) -> UUID:
        """A row's id for a message's, and back. Not the same: the table may hold the messages of other layers, too."""
        digest = hashlib.blake2b(self.channel.encode(), digest_size=6).digest()
        lowest_bits = int.from_bytes(digest, "big")  # 48 of them: it keeps its place in time
        return UUID(int=id.int ^ lowest_bits)

    def _relay_after_commit(self, number: int) -> None:
        self._of_thread.fresh = getattr(self._of_thread, "fresh", 0) + number
        connection = connections[self._using]
        if connection.in_atomic_block or connection.get_autocommit():  # else it is committed by hand, unheard
            transaction.on_commit(self._relay_fresh, using=self._using, robust=True)

    def _relay_fresh(self) -> None:
        """After a commit: what this thread has sent. Once for all sends of a transaction, and at most one batch."""
        number, self._of_thread.fresh = getattr(self._of_thread, "fresh", 0), 0
        if not number or time.monotonic() < self._senders_rest_until:
            return
        try:
            self.relay(min(number, BATCH))
        except OUTAGES as error:
            self._senders_rest_until = time.monotonic() + SENDERS_REST
            logger.warning("sends wait in the outbox until workers can relay them: %s", error)

    # -- relaying -----------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """Is there something to relay? Cheap."""
        return self._store.poll([self.channel]) == 0

    def relay(self, most: int | None = None) -> int:
        """Hand on what waits, at most so many; returns how many. What cannot be handed on waits on.

        Raises ``LayerUnavailable`` when the server cannot be reached; the next relay then tries one message first. When
        only some hosts are down, it raises after the messages of the others were passed on.
        """
        channel, worker = self.channel, f"relay-{socket.gethostname()}-{os.getpid()}"
        done, handed_on = 0, list[Message]()
        away: dict[str, LayerUnavailable] = {}
        in_vain = 0
        while True:
            room = 1 if self._is_down else BATCH
            room = room if most is None else min(room, most - done)
            limits = {channel: room} if room > 0 and in_vain < MOST_IN_VAIN else {}
            claims = self._store.claim(worker, limits, LEASE, handed_on).claims
            if not claims:
                break
            handed_on = self._hand_on(claims, away)
            done += len(claims)
            in_vain = in_vain + 1 if away and not handed_on else 0
        if away:
            raise next(iter(away.values()))
        return done

    def _hand_on(self, claims: Sequence[Message], away: dict[str, LayerUnavailable]) -> list[Message]:
        """Give the messages to the server. Returns what is to be finished; what never can be is buried here.

        ``away``: channels that cannot be reached where others can.
        """
        read = [(claim, self._message_of(claim)) for claim in claims]
        good = [(claim, message) for claim, message in read if message is not None]
        try:
            handed_on = self._give([pair for pair in good if pair[1].channel not in away], away)
        except OUTAGES:
            self._is_down = True
            self._store.release([claim for claim, _ in good])
            raise
        self._is_down, self._senders_rest_until = False, 0.0
        done = {claim.id for claim in handed_on}
        resting = [claim for claim, message in good if message.channel in away and claim.id not in done]
        if resting:
            self._store.release(resting, PARTS_REST)  # behind the others
        return handed_on

    def _give(
        self, pairs: Sequence[tuple[Message, Message]], away: dict[str, LayerUnavailable]
    ) -> list[Message]:
        """Return the claims whose messages are on the server, or on those of several that can be reached."""
        if not self._layer.is_sharded:
            return self._enqueue(self._layer, pairs)
        handed_on: list[Message] = []
        for shard, channels in self._layer.shards({message.channel for _, message in pairs}).items():
            try:
                for channel in channels:  # apart, as each is stored as a whole or not at all
                    handed_on += self._enqueue(shard, [pair for pair in pairs if pair[1].channel == channel])
            except LayerUnavailable as error:
                away.update(dict.fromkeys(channels, error))
        return handed_on

    def _enqueue(self, layer: DurableLayer, pairs: Sequence[tuple[Message, Message]]) -> list[Message]:
        """Return the claims whose messages are on the server."""
        try:
            if pairs:
                layer.enqueue([message for _, message in pairs])
        except OUTAGES:
            raise
        except Exception:  # one of them is at fault: it is too large by now, say
            if len(pairs) > 1:
                return [claim for pair in pairs for claim in self._enqueue(layer, [pair])]
            self._bury(pairs[0][0], traceback.format_exc())
            return []
        return [claim for claim, _ in pairs]

    def _message_of(self, claim: Message) -> Message | None:
        """The message that a row holds. ``None``, and buried, if it holds none."""
        try:
            if claim.defect:
                raise ValueError(claim.defect)
            # On the database's clock, both.
            return self._read(claim, claim.claimed_until - LEASE - (claim.sent_at or 0.0))
        except (KeyError, TypeError, ValueError) as error:
            self._bury(claim, f"It cannot be relayed, as it is not a message of the outbox: {error}")
            return None

    def _read(self, row: Message, waited: float = 0.0) -> Message:
        """Times that count from the send become shorter by the seconds it has ``waited``."""
        carried = {name: row.headers[name] for name in _CARRIED if name in row.headers}
        for name in ("delay", "lifetime"):
            if carried.get(name) is not None:
                carried[name] = max(0.0, carried[name] - max(0.0, waited))
        return Message(
            channel=check_channel_name(row.headers["channel"]),
            content=row.content,
            id=self._other_id(row.id),
            v=row.v,
            priority=row.priority,
            **carried,
        )

    def _bury(self, claim: Message, reason: str) -> None:
        self._store.bury(claim, reason)
        logger.error("message %s of %s is buried there: %s", self._other_id(claim.id), claim.channel, reason)

    # -- operations ---------------------------------------------------------------------------------------------

    def waiting(self, channel: str, limit: int) -> list[Message]:
        """The messages for a channel that wait here, oldest first."""
        listed = self._store.list_messages([self.channel], limit)
        rows = self._store.get(self.channel, [summary.id for summary in listed])
        unclaimed = (row for row in rows if row.token is None and not row.defect)
        return [self._read(row) for row in unclaimed if row.headers.get("channel") == channel]

    def existing_ids(self, ids: Iterable[UUID]) -> set[UUID]:
        """Which of these messages wait here, or are buried here."""
        row_ids = self._store.existing_ids(self.channel, [self._other_id(id) for id in ids])
        return {self._other_id(id) for id in row_ids}

    def stats(self, most: int = COUNTED) -> Mapping[str, ChannelStats]:
        """How the outbox stands, if it holds anything."""
        return {name: stats for name, stats in self._store.stats(most).items() if name == self.channel}


def _lane_of(message: Message) -> str:
    """One lane here for each lane of each channel; the two names together may be too long for one."""
    return hashlib.blake2b(f"{message.channel}\0{message.lane}".encode(), digest_size=20).hexdigest()
