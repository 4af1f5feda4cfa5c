"""Where the admin finds messages: the layers of ``CHANNEL_LAYERS``, and their outboxes, each under a name.

All that the pages know of a layer is its contract, so every layer looks the same, and a page needs no table.
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
"""Channels that are offered for choice, and that one page looks at together."""


class Address(NamedTuple):
    """What a message goes by: in links, in forms, and in the admin's log."""

    source: str
    channel: str
    id: UUID

    def __str__(self) -> str:
        return f"{self.source}/{self.channel}/{self.id}"

    @classmethod
    def read(cls, text: str) -> Address:
        """Raises ``Http404`` for what is none."""
        try:
            source, channel, id = text.rsplit("/", 2)
            return cls(source, check_channel_name(channel), UUID(id))
        except ValueError:
            raise Http404 from None


@dataclass(frozen=True)
class Source:
    """A layer, and the only one of its channels that is meant, if it is one: that of an outbox."""

    name: str
    layer: DurableLayer
    only: str | None = None


def sources() -> dict[str, Source]:
    """By name, the layer that carries messages when none is named before the others.

    Raises ``InvalidSettings`` for a layer that cannot be built.
    """
    first = default_alias()
    found: dict[str, Source] = {}
    for alias in sorted(durable_aliases(), key=lambda alias: (alias != first, alias)):
        layer = get_layer(alias)
        found[alias] = Source(alias, layer)
        if layer.outbox is not None:
            name = f"{alias} outbox"
            found[name] = Source(name, layer.outbox.store, layer.outbox.channel)
    return found


def source_of(name: str, channel: str) -> Source:
    """Raises ``Http404`` when there is none of this name, or it is an outbox and this is not its channel."""
    found = sources().get(name)
    if found is None or found.only not in (None, channel):
        raise Http404
    return found


class ListRequest:
    """Read what a request for a list asks for, once, and ask the storage for it once."""

    def __init__(self, request: HttpRequest) -> None:
        self._query = request.GET
        self.state = self._query.get("state", "")
        self.channel = self._query.get("channel", "")
        self.error_class = self._query.get("error")

    @classmethod
    def by(cls, request: HttpRequest) -> ListRequest:
        found: ListRequest | None = getattr(request, "_mailrail_list_request", None)
        if found is None:
            found = request._mailrail_list_request = cls(request)  # type: ignore[attr-defined]
        return found

    @cached_property
    def sources(self) -> dict[str, Source]:
        return sources()

    @cached_property
    def source(self) -> Source:
        """The one that is asked for, or the first. Raises ``InvalidSettings`` if there is none."""
        if not self.sources:
            raise InvalidSettings("None of the CHANNEL_LAYERS keeps messages for named channels.")
        return self.sources.get(self._query.get("layer", ""), next(iter(self.sources.values())))

    @cached_property
    def in_use(self) -> list[str]:
        """The channels that hold something."""
        only = self.source.only
        return self.source.layer.list_channels() if only is None else [only]

    @cached_property
    def known(self) -> list[str]:
        """Those, and those that have a route."""
        return sorted({*self.in_use, *_routed(self.source)})

    @property
    def looked_at(self) -> list[str]:
        """The channels whose messages are listed."""
        if not self.channel:
            return self.in_use[:MAX_CHANNELS_LISTED]
        is_meant = self.source.only in (None, self.channel)
        return [self.channel] if is_meant and _is_name(self.channel) else []


def _routed(source: Source) -> Iterable[str]:
    if source.only is not None:
        return ()
    try:
        return Routing.of_layer(source.name).plans
    except InvalidSettings:  # `check` says so; what is stored can be looked at
        return ()


def _is_name(channel: str) -> bool:
    try:
        return bool(check_channel_name(channel))
    except ValueError:
        return False
