"""Send the missing messages of records again (reconciliation).

A message that points at a record can be made again from that record, whatever happened to the layer's storage. The
cause may be a wiped Redis, a restored backup, or a send that never reached its server. An app says once which records
should have a message, in the module of their consumer:

    @reconcile("send-invite")
    def unsent(before):
        return Invitation.objects.filter(sent=None, created__lt=before)

and sends their messages with ``unique=True``, so that a record's message is known by its content. Workers look every
``MAILRAIL["RECONCILE_EVERY"]`` seconds, one of them at a time; ``manage.py channels reconcile`` looks now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from django.db.models import QuerySet

from . import options as checked
from .conf import settings
from .layers import DurableLayer, get_layer
from .log import logger_of
from .messages import Content, Message, Rate, check_channel_name, id_of_content
from .moments import from_now
from .terminal import counted

__all__ = ["Reconciler", "reconcile", "reconcilers", "take_turn"]

Find: TypeAlias = Callable[[datetime], QuerySet[Any]]
F = TypeVar("F", bound=Find)

PAGE_SIZE = 500
"""Records that one query reads."""
MAX_PAGES_PER_TURN = 40
"""Pages without a missing message that a worker reads in one turn; the next turn of its process goes on there. So a
long backlog keeps no worker busy, and missing messages are sent at full speed."""

logger = logger_of("mailrail.reconciliation")


def reconcile(
    channel: str,
    *,
    channel_of: Callable[[Any], str] | None = None,
    content: Callable[[Any], Content] | None = None,
    priority: Callable[[Any], int] | None = None,
    lane: Callable[[Any], str | tuple[str, int] | None] | None = None,
    older_than: float | timedelta = 300.0,
    layer: str | None = None,
) -> Callable[[F], F]:
    """Register a function that finds the records which should have a message on this channel.

    The function gets a moment (as ``timezone.now()`` gives them). It returns a ``QuerySet`` of the records that were
    made before that moment and are not done. ``content``: a function that makes the content of a record's message, the
    very one that is sent with ``unique=True``; by default ``{"id": record.pk}``. ``priority`` and ``lane``: functions
    that say those of a record's message. ``channel_of``: one that says its channel, where ``channel`` is a pattern.
    ``older_than``: seconds (or a ``timedelta``) that a record and its message are left alone. ``layer``: as for
    ``Channel``.

    A message is missing if it neither waits nor runs, is not dead, and its record, looked at once more, is still not
    done. Code that gives up on a message (``Discard``, ``channels cancel``, ``channels discard``) has to say so on the
    record. Otherwise the message is sent again.
    """
    if callable(channel):
        raise TypeError(f'reconcile() needs a channel, not {channel!r}: @reconcile("name").')
    if channel_of is None:
        check_channel_name(channel)
    seconds = checked.seconds("older_than", older_than)

    def register(find: F) -> F:
        new = Reconciler(channel, find, channel_of, content, priority, lane, seconds, layer)
        for old in [old for old in _registered if (old.channel, old.name) == (new.channel, new.name)]:
            _registered.remove(old)  # the module was imported again
        _registered.append(new)
        return find

    return register


@dataclass
class ScanPosition:
    """Hold the primary key after which the next scan of a process begins. ``None``: it begins at the first record."""

    after: Any = None


@dataclass(frozen=True)
class Reconciler:
    """Find the records of a channel whose message is missing, and send it."""

    channel: str
    find: Find
    channel_of: Callable[[Any], str] | None
    content: Callable[[Any], Content] | None
    priority: Callable[[Any], int] | None
    lane: Callable[[Any], str | tuple[str, int] | None] | None
    older_than: float
    layer: str | None

    @property
    def name(self) -> str:
        """Return the dotted path of the function, as its name for people."""
        return f"{self.find.__module__}.{self.find.__qualname__}"

    def run(
        self,
        older_than: float | None = None,
        go_on: Callable[[], bool] = lambda: True,
        place: ScanPosition | None = None,
    ) -> int:
        """Check all records, page by page while ``go_on()``, and return the number of messages sent.

        With a ``place``, check a part of them from there on, and move the place.
        """
        seconds = self.older_than if older_than is None else older_than
        records = self.find(from_now(-seconds))
        if not isinstance(records, QuerySet):
            raise TypeError(f"{self.name} must return a QuerySet of records, not {type(records).__name__}.")
        layer, sent, in_vain = get_layer(self.layer), 0, 0
        place, most = (ScanPosition(), float("inf")) if place is None else (place, MAX_PAGES_PER_TURN)
        for page in self._pages(records, place.after):
            if in_vain >= most or not go_on():
                break
            missing = self._missing(layer, records, page)
            if missing:
                layer.send_messages(missing)
            sent, in_vain = sent + len(missing), in_vain + (not missing)
            place.after = list(page)[-1]
        else:
            place.after = None
        if sent:
            logger.warning(
                "sent %s on %s again: their records had none", counted(sent, "message"), self.channel
            )
        return sent

    def _pages(self, records: QuerySet[Any], last: Any) -> Iterator[dict[Any, Message]]:
        """Yield pages of the messages that the records should have, by primary key."""
        ordered = records.order_by("pk")
        while page := self._page(ordered if last is None else ordered.filter(pk__gt=last)):
            yield page
            last = list(page)[-1]

    def _page(self, records: QuerySet[Any]) -> dict[Any, Message]:
        if not any((self.channel_of, self.content, self.priority, self.lane)):
            return {
                pk: self._message(self.channel, {"id": _plain(pk)})
                for pk in records.values_list("pk", flat=True)[:PAGE_SIZE]
            }
        return {record.pk: self._message_of(record) for record in records[:PAGE_SIZE]}

    def _message_of(self, record: Any) -> Message:
        content = {"id": _plain(record.pk)} if self.content is None else self.content(record)
        priority = 0 if self.priority is None else self.priority(record)
        channel = self.channel if self.channel_of is None else self.channel_of(record)
        return self._message(channel, content, priority, None if self.lane is None else self.lane(record))

    def _message(
        self, channel: str, content: Content, priority: int = 0, lane: str | tuple[str, int] | None = None
    ) -> Message:
        name, places = lane if isinstance(lane, tuple) else (lane, None)
        id = id_of_content(channel, content)
        return Message(channel, content, id, priority=priority, lane=name, places=places)

    def _missing(
        self, layer: DurableLayer, records: QuerySet[Any], page: dict[Any, Message]
    ) -> list[Message]:
        by_channel: dict[str, list[UUID]] = {}
        for message in page.values():
            by_channel.setdefault(message.channel, []).append(message.id)
        existing = {id for channel, ids in by_channel.items() for id in layer.existing_ids(channel, ids)}
        without = {pk: message for pk, message in page.items() if message.id not in existing}
        if not without:
            return []
        # A consumer may have finished since the page was read, so the records are read again after the messages.
        still = set(records.filter(pk__in=list(without)).order_by().values_list("pk", flat=True))
        return [message for pk, message in without.items() if pk in still]


_registered: list[Reconciler] = []


def reconcilers(layer: DurableLayer) -> list[Reconciler]:
    """Return the reconcilers whose messages this layer carries. The layer's routing has imported them."""
    return [reconciler for reconciler in _registered if get_layer(reconciler.layer) is layer]


def take_turn(layer: DurableLayer) -> bool:
    """Tell whether this process may scan now: one of the layer's workers may, every ``RECONCILE_EVERY`` seconds."""
    every = settings.reconcile_every
    return every is not None and layer.take("mailrail.reconcile", 1, Rate(1, every)).granted == 1


def _plain(pk: Any) -> Any:
    """Convert a primary key to a type of JSON."""
    return pk if isinstance(pk, int | str) else str(pk)
