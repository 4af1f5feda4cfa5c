"""Find the layers of ``CHANNEL_LAYERS`` and their outboxes for the admin, each by a name.

The pages use the contract of a layer only. So they look the same for every layer, and need no table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

from django.http import Http404, HttpRequest

from mailrail.errors import InvalidSettings
from mailrail.layers import DurableLayer, default_alias, durable_aliases, get_layer
from mailrail.messages import check_channel_name
from mailrail.routing import Routing

MAX_CHANNELS_LISTED = 200
"""Channels that the filter offers, and that one page lists together."""


class Address(NamedTuple):
    """Identify a message in links, in forms, and in the admin's log."""

    source: str
    channel: str
    id: UUID

    def __str__(self) -> str:
        return f"{self.source}/{self.channel}/{self.id}"

    @classmethod
    def read(cls, text: str) -> Address:
        """Read an address. Raises ``Http404`` for an invalid one."""
        try:
            source, channel, id = text.rsplit("/", 2)
            return cls(source, check_channel_name(channel), UUID(id))
        except ValueError:
            raise Http404 from None


@dataclass(frozen=True)
class Source:
    """Name a layer. ``only`` restricts it to one channel: that of an outbox."""

    name: str
    layer: DurableLayer
    only: str | None = None


def sources() -> dict[str, Source]:
    """Return the sources by name, the default layer first.

    Raises ``InvalidSettings`` for a layer that cannot be built.
    """
    first = default_alias()
    by_name: dict[str, Source] = {}
    for alias in sorted(durable_aliases(), key=lambda alias: (alias != first, alias)):
        layer = get_layer(alias)
        by_name[alias] = Source(alias, layer)
        if layer.outbox is not None:
            name = f"{alias} outbox"
            by_name[name] = Source(name, layer.outbox.store, layer.outbox.channel)
    return by_name


def source_of(name: str, channel: str) -> Source:
    """Return the source of this name. Raises ``Http404`` for an unknown name, or a channel not in this outbox."""
    source = sources().get(name)
    if source is None or source.only not in (None, channel):
        raise Http404
    return source


class ListRequest:
    """Read the parameters of a list once, and query the layer once, for each request."""

    def __init__(self, request: HttpRequest) -> None:
        self._query = request.GET
        self.state = self._query.get("state", "")
        self.channel = self._query.get("channel", "")
        self.error_class = self._query.get("error")

    @classmethod
    def by(cls, request: HttpRequest) -> ListRequest:
        list_request: ListRequest | None = getattr(request, "_mailrail_list_request", None)
        if list_request is None:
            list_request = request._mailrail_list_request = cls(request)  # type: ignore[attr-defined]
        return list_request

    @cached_property
    def sources(self) -> dict[str, Source]:
        return sources()

    @cached_property
    def source(self) -> Source:
        """Return the requested source, or the first one. Raises ``InvalidSettings`` if there is none."""
        if not self.sources:
            raise InvalidSettings("None of the CHANNEL_LAYERS keeps messages for named channels.")
        return self.sources.get(self._query.get("layer", ""), next(iter(self.sources.values())))

    @cached_property
    def in_use(self) -> list[str]:
        """Return the channels that hold messages."""
        only = self.source.only
        return self.source.layer.list_channels() if only is None else [only]

    @cached_property
    def known(self) -> list[str]:
        """Return the channels that hold messages or have a route."""
        return sorted({*self.in_use, *_routed(self.source)})

    @property
    def looked_at(self) -> list[str]:
        """Return the channels whose messages are listed."""
        if not self.channel:
            return self.in_use[:MAX_CHANNELS_LISTED]
        is_meant = self.source.only in (None, self.channel)
        return [self.channel] if is_meant and _is_name(self.channel) else []


def _routed(source: Source) -> Iterable[str]:
    if source.only is not None:
        return ()
    try:
        return Routing.of_layer(source.name).plans
    except InvalidSettings:  # a system check reports it; stored messages can still be listed
        return ()


def _is_name(channel: str) -> bool:
    try:
        return bool(check_channel_name(channel))
    except ValueError:
        return False
