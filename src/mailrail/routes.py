"""Define routes, and plans: the routes of a channel with the options that they share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

from asgiref.sync import iscoroutinefunction
from django.utils.module_loading import import_string

from .backoff import chance
from .conf import settings
from .errors import InvalidSettings
from .importing import import_named
from .layers import DurableLayer
from .limiters import Limiter
from .messages import Content, Message, Rate
from .options import LaneWithPlaces, LimitPerValue, Mistakes
from .policy import Policy

Consumer: TypeAlias = Callable[..., Any]

DEFAULT_MAX_LOSSES = 3
_OF_THE_CHANNEL = ("concurrency", "rate", "lease", "batch", "losses", "limiter", "known_channels")


@dataclass(frozen=True, eq=False)  # compared by identity, so it can be a key
class Route:
    """Hold channels, their consumer, filters on fields of the content, and a policy.

    ``mistakes``: sentences. A route with mistakes takes no message, and no routing is built with it.
    """

    channels: tuple[str, ...]
    target: Consumer | str
    filters: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    mistakes: tuple[str, ...] = ()

    @cached_property
    def function(self) -> Consumer:
        """Import the consumer. Raises ``InvalidSettings`` if its dotted path cannot be imported."""
        if not isinstance(self.target, str):
            return self.target
        where = f"route({self.channels[0]!r}, {self.target!r})"
        try:
            function = check_consumer(import_named(self.target, where))
            check_arguments(function, self.filters)
            return function
        except TypeError as error:
            raise InvalidSettings(f"{where}: {error}") from error

    @cached_property
    def consume(self) -> Consumer:
        """Return the consumer wrapped in its middleware."""
        wrapped = self.function
        for path in reversed(settings.consumer_middleware):
            wrapped = import_string(path)(wrapped)
        return wrapped

    @property
    def name(self) -> str:
        """Return the dotted path of the consumer, as its name for people."""
        function = self.function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{getattr(function, '__module__', '?')}.{name}"

    @cached_property
    def is_async(self) -> bool:
        return is_async_function(self.function)

    def isolated(self) -> Route:
        """Return the route with ``isolate``, unless its consumer takes batches."""
        return self if self.policy.batch else replace(self, policy=replace(self.policy, isolate=True))

    def match(self, content: Content) -> dict[str, str] | None:
        """Return the keyword arguments for the consumer if every filter matches, else ``None``.

        A filter matches a field that is a string or a number (as text), from its beginning, as in Channels 1.
        """
        arguments: dict[str, str] = {}
        for name, pattern in self.filters.items():
            value = content.get(name)
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                return None
            if not (match := pattern.match(str(value))):
                return None
            arguments.update({k: v for k, v in match.groupdict().items() if v is not None})
        return arguments

    def attempts_for(self, message: Message) -> int:
        return message.max_attempts or self.policy.attempts or settings.attempts

    def delay_after(self, attempt: int) -> float:
        """Return the seconds to wait after an attempt (1 is the first): exponential with full jitter by default."""
        backoff = settings.backoff if self.policy.backoff is None else self.policy.backoff
        if callable(backoff):
            # max() in this order keeps NaN, which the worker rejects.
            return max(float(backoff(attempt)), 0.0)
        if isinstance(backoff, Sequence):
            return float(backoff[min(attempt, len(backoff)) - 1])
        most = min(settings.backoff_max, backoff * 2.0 ** min(attempt - 1, 60))
        return chance.uniform(0, most)


@dataclass(frozen=True)
class Plan:
    """Hold a channel with its routes, and the options that they share."""

    channel: str
    routes: tuple[Route, ...]
    concurrency: int | None
    rate: Rate | None
    lease: float
    batch: int | None
    losses: int | None = None
    limiter: Callable[[str, DurableLayer], Limiter] | None = None
    known_channels: Callable[[], Iterable[str]] | None = None
    limit_per_value: LimitPerValue | None = None

    @property
    def max_losses(self) -> int:
        """Return the number of losses at which a message is buried."""
        return self.losses or DEFAULT_MAX_LOSSES

    def is_suspect(self, message: Message) -> bool:
        """Tell whether the message was lost so often that it must run in a process of its own."""
        return message.losses > (0 if self.losses is None else self.losses // 2)

    @cached_property
    def is_async(self) -> bool:
        """Tell whether all consumers of the channel run on the worker's event loop, not in processes of their own."""
        return all(route.is_async and not route.policy.isolate for route in self.routes)

    @cached_property
    def takes_thread(self) -> bool:
        """Tell whether each message takes a thread: not on the event loop, nor together with others of a batch."""
        return not self.is_async and not self.batch

    @cached_property
    def sole_route(self) -> Route | None:
        """Return the route that takes every message of the channel, if there is one: then nothing is matched."""
        takes_all = len(self.routes) == 1 and not self.routes[0].filters and self.limit_per_value is None
        return self.routes[0] if takes_all else None

    def isolated(self) -> Plan:
        """Return the plan with ``isolate`` for all routes, but for those of batches."""
        return replace(self, routes=tuple(route.isolated() for route in self.routes))

    def place_of(self, message: Message) -> LaneWithPlaces | None:
        """Return the lane, and its number of places, in which a message of no lane has to run, if there is a limit.

        Raises ``ValueError`` for a message that was sent with a lane of its own, and what ``LimitPerValue.lane_of``
        raises.
        """
        limit = self.limit_per_value
        if limit is None or message.places or (message.lane is not None and message.lane_seq == 0):
            return None
        if message.lane is not None:
            raise ValueError(
                f"It was sent with lane={message.lane!r}, and concurrency=({limit.count}, function) of its route would "
                "put it into another one. Send it without a lane, or leave the function out."
            )
        lane = limit.lane_of(message)
        return None if lane is None else (lane, limit.count)

    def match(self, message: Message) -> tuple[Route, dict[str, str]] | None:
        """Return the first route that matches, with the consumer's keyword arguments."""
        for route in self.routes:
            arguments = route.match(message.content)
            if arguments is not None:
                return route, arguments
        return None


def plan_of(channel: str, routes: list[Route]) -> Plan:
    agreed: dict[str, Any] = {}
    mistakes = Mistakes(InvalidSettings)
    for name in _OF_THE_CHANNEL:
        with mistakes.noted():
            agreed[name] = _agreed(name, channel, routes)
    mistakes.raise_any(InvalidSettings)
    agreed["lease"] = agreed["lease"] or settings.lease
    if isinstance(agreed["concurrency"], LimitPerValue):
        agreed["limit_per_value"], agreed["concurrency"] = agreed["concurrency"], None
    return Plan(channel, tuple(routes), **agreed)


def _agreed(name: str, channel: str, routes: list[Route]) -> Any:
    values = {getattr(route.policy, name) for route in routes}
    if name != "batch":
        # A missing option contradicts none, but a consumer of single messages cannot take a batch.
        values -= {None}
    if len(values) > 1:
        consumers = " and ".join(sorted({route.name for route in routes}))
        raise InvalidSettings(
            f"The routes of channel {channel!r} ({consumers}) disagree on {name}: "
            f"{', '.join(sorted(map(repr, values)))}. It belongs to the channel: give all of them the same."
        )
    return values.pop() if values else None


def check_atomic(route: Route, supported: bool) -> None:
    if route.policy.atomic and route.is_async:
        raise InvalidSettings(
            f"route({route.channels[0]!r}, …, atomic=True): {route.name} is async, and Django's transactions are not. "
            "Make it a plain function, or leave atomic out."
        )
    if route.policy.atomic and not supported:
        raise InvalidSettings(
            f"route({route.channels[0]!r}, …, atomic=True) needs the database layer: only there can a consumer's "
            "writes and its message's completion commit together."
        )


def check_consumer(consumer: Any) -> Consumer:
    if not callable(consumer):
        raise TypeError(f"A consumer is a function, or a dotted path to one, not {consumer!r}.")
    forms = (consumer, getattr(consumer, "__call__", None))  # noqa: B004 - of an object that can be called
    if any(inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form) for form in forms):
        raise TypeError(f"{consumer!r} is a generator function (it has a yield): its body would never run.")
    return consumer  # type: ignore[no-any-return]


def check_arguments(consumer: Consumer, filters: Mapping[str, re.Pattern[str]]) -> None:
    """Raise ``TypeError`` for a consumer whose signature does not accept a message and the filters' groups."""
    groups = [group for pattern in filters.values() for group in pattern.groupindex]
    try:
        signature = inspect.signature(consumer)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return
    try:
        signature.bind(None, **dict.fromkeys(groups))
    except TypeError as error:
        name = getattr(consumer, "__qualname__", repr(consumer))
        keywords = f" and the groups of its filters as keywords ({', '.join(groups)})" if groups else ""
        raise TypeError(
            f"{name}{signature} cannot be called with one argument, the message (a list of them where the route says "
            f"batch){keywords}: {error}."
        ) from None


def is_async_function(function: Consumer) -> bool:
    """Tell whether calling it returns a coroutine: an async function, or an object with such a ``__call__``."""
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
