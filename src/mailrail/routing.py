"""Routing: which consumer handles what arrives on a channel, and how. Written like ``urls.py``.

    channel_routing = [
        route("send-invite", send_invite, attempts=8),
        route("orders", "shop.consumers.paid", kind=r"^paid$"),
        include("reports.routing.channel_routing"),
    ]

The list is named in ``CHANNEL_LAYERS[alias]["CONFIG"]["routing"]``. The ``consumers.py`` of every installed app is
imported as well. What ``@consumer("send-invite")`` registers there is routed on the default layer, and on each layer
without a list.
"""

from __future__ import annotations

import inspect
import os
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any, TypeAlias, TypeVar

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string, module_has_submodule

from .applications import run_application, serves
from .autoreload import IMPORT_MACHINERY, import_watched
from .conf import settings
from .errors import InvalidSettings, NoRoute
from .layers import default_alias, get_layer
from .log import logger_of
from .messages import Content, Message, check_channel_name
from .messages import Rate as Rate  # for ``route(…, rate=Rate(…))``, and for who takes from a layer's buckets
from .options import Mistakes
from .policy import Backoff, Policy, compile_filters, read_policy

__all__ = ["Rate", "consumer", "include", "route"]

logger = logger_of("mailrail")

Consumer: TypeAlias = Callable[..., Any]
Routes: TypeAlias = Iterable["Route | Routes"]
F = TypeVar("F", bound=Consumer)


MOST_LOSSES = 3
_OF_THE_CHANNEL = ("concurrency", "rate", "lease", "batch", "losses")


@dataclass(frozen=True, eq=False)  # a route is itself, and can be a key
class Route:
    """Channels, the consumer of what arrives there, filters on the content's fields, and a policy."""

    channels: tuple[str, ...]
    target: Consumer | str
    filters: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    @cached_property
    def function(self) -> Consumer:
        """The consumer itself. Raises ``InvalidSettings`` when a dotted path does not import."""
        if not isinstance(self.target, str):
            return self.target
        where = f"route({self.channels[0]!r}, {self.target!r})"
        try:
            function = _check_consumer(_import(self.target, where))
            _check_arguments(function, self.filters)
            return function
        except TypeError as error:
            raise InvalidSettings(f"{where}: {error}") from error

    @cached_property
    def consume(self) -> Consumer:
        """The consumer inside its middleware."""
        wrapped = self.function
        for path in reversed(settings.consumer_middleware):
            wrapped = import_string(path)(wrapped)
        return wrapped

    @property
    def name(self) -> str:
        """What people call the consumer: its dotted path."""
        function = self.function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{getattr(function, '__module__', '?')}.{name}"

    @cached_property
    def is_async(self) -> bool:
        return _is_async(self.function)

    def match(self, content: Content) -> dict[str, str] | None:
        """The keyword arguments for the consumer when every filter matches, else ``None``.

        A filter matches a field that is a string or a number (as text), from its beginning, as in Channels 1.
        """
        arguments: dict[str, str] = {}
        for name, pattern in self.filters.items():
            value = content.get(name)
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                return None
            if not (found := pattern.match(str(value))):
                return None
            arguments.update({k: v for k, v in found.groupdict().items() if v is not None})
        return arguments

    def attempts_for(self, message: Message) -> int:
        return message.max_attempts or self.policy.attempts or settings.attempts

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after this attempt failed (1 is the first): exponential with full jitter, by default."""
        backoff = settings.backoff if self.policy.backoff is None else self.policy.backoff
        if callable(backoff):
            return max(float(backoff(attempt)), 0.0)  # in this order, NaN stays NaN, for the worker to refuse
        if isinstance(backoff, Sequence):
            return float(backoff[min(attempt, len(backoff)) - 1])
        most = min(settings.backoff_max, backoff * 2.0 ** min(attempt - 1, 60))
        return random.uniform(0, most)


def route(
    channels: str | Iterable[str],
    consumer: Consumer | str,
    *,
    attempts: int | None = None,
    backoff: Backoff | timedelta | Sequence[float | timedelta] | None = None,
    concurrency: int | None = None,
    rate: str | Rate | None = None,
    timeout: float | timedelta | None = None,
    lease: float | timedelta | None = None,
    batch: int | None = None,
    losses: int | None = None,
    atomic: bool = False,
    **filters: str,
) -> Route:
    """Route one or several channels to a consumer (a function, sync or async, or a dotted path to one).

    ``attempts``: runs before the message is buried. ``backoff``: seconds that bound the wait before the second attempt
    (doubled each time, with jitter), a list of waits, or a function of the attempt. ``timeout``: seconds a run may
    take. ``atomic``: run it in a transaction on the layer's database that also finishes the message. Of the channel:
    ``concurrency`` per process, ``rate`` over all workers (``"100/m"``), ``lease`` in seconds. Also ``batch``: the
    consumer gets a list of up to so many messages. And ``losses``: how often a message may be lost with its process
    before it is buried (3). With ``losses``, a lost message runs among the others again until half of them are used,
    for consumers whose records say what was done. Without it, a lost message runs in a process of its own at once.

    Times may also be a ``timedelta``. Any other keyword is a filter: a regular expression for a field of the content;
    its named groups become keyword arguments of the consumer. Raises ``TypeError`` or ``ValueError`` that says all that
    cannot be followed.
    """
    if not isinstance(channels, Iterable):
        raise TypeError(f"route() needs a channel, or a list of them, not {channels!r}.")
    names = (channels,) if isinstance(channels, str) else tuple(channels)
    mistakes = Mistakes()
    if not names:
        mistakes.add(ValueError("route() needs a channel, or a list of them."))
    for name in names:
        with mistakes.noted():
            check_channel_name(name)
    if not isinstance(consumer, str):
        with mistakes.noted():
            _check_consumer(consumer)
    policy = read_policy(
        mistakes,
        attempts=attempts,
        backoff=backoff,
        timeout=timeout,
        atomic=atomic,
        concurrency=concurrency,
        rate=rate,
        lease=lease,
        batch=batch,
        losses=losses,
    )
    compiled = compile_filters(filters, policy.batch is not None, mistakes)
    if not isinstance(consumer, str):
        with mistakes.noted():
            _check_arguments(consumer, compiled)
    mistakes.raise_any()
    return Route(names, consumer, compiled, policy)


def include(target: str | Routes) -> list[Route]:
    """The routes of another list, or of the list at a dotted path (``"shop.routing.channel_routing"``)."""
    if not isinstance(target, str):
        return _flat(target, "include()")
    where = f"include({target!r})"
    return _flat(_import(target, where), where)


def consumer(channels: str | Iterable[str], **options: Any) -> Callable[[F], F]:
    """Register a function of an app's ``consumers.py``: ``@consumer("send-invite", attempts=5)``.

    The options are those of ``route``. The function itself stays as it is.
    """
    if callable(channels):
        raise TypeError(
            f'consumer() needs a channel, or a list of them, not {channels!r}: @consumer("name").'
        )

    def register(function: F) -> F:
        new = route(channels, function, **options)
        same = [old for old in _registered if old.channels == new.channels and old.name == new.name]
        if _built and not same:
            logger.warning(
                "@consumer(%r) on %s was imported after the consumers were looked for, so it is not routed. Workers "
                "import consumers.py of the installed apps: move it there, or import its module there.",
                *(channels, new.name),
            )
        for old in same:  # the module was imported again
            _registered.remove(old)
        _registered.append(new)
        return function

    return register


_registered: list[Route] = []


@dataclass(frozen=True)
class Plan:
    """A channel with its routes, and what they agreed on."""

    channel: str
    routes: tuple[Route, ...]
    concurrency: int | None
    rate: Rate | None
    lease: float
    batch: int | None
    losses: int | None = None

    @property
    def most_losses(self) -> int:
        """A message that was lost so often is buried."""
        return self.losses or MOST_LOSSES

    def is_suspect(self, message: Message) -> bool:
        """Was it lost so often that it has to run in a process of its own?"""
        return message.losses > (0 if self.losses is None else self.losses // 2)

    @property
    def is_async(self) -> bool:
        """Do all its consumers run on the event loop?"""
        return all(route.is_async for route in self.routes)

    def match(self, message: Message) -> tuple[Route, dict[str, str]] | None:
        """The first route that matches, with the consumer's keyword arguments."""
        for route in self.routes:
            arguments = route.match(message.content)
            if arguments is not None:
                return route, arguments
        return None


class Routing:
    """All routes of a layer. Raises ``InvalidSettings`` where they contradict each other or the layer.

    ``looked_for``: a clause that says where they come from.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        supports_atomic: bool = True,
        looked_for: str = "it has no other routes",
    ) -> None:
        by_channel: dict[str, list[Route]] = {}
        mistakes = Mistakes(InvalidSettings)
        for route in routes:
            with mistakes.noted():
                _ = route.function  # a dotted path that does not import is found out here, not by a message
                _check_atomic(route, supports_atomic)
                for channel in route.channels:
                    by_channel.setdefault(channel, []).append(route)
        self.plans: dict[str, Plan] = {}
        for channel, its in by_channel.items():
            with mistakes.noted():
                self.plans[channel] = _plan(channel, its)
        mistakes.raise_any(InvalidSettings)
        self.looked_for = looked_for

    def __contains__(self, channel: str) -> bool:
        return channel in self.plans

    def no_route_for(self, channel: str) -> str:
        """Return a sentence on a channel without a route: which have one, and where consumers are looked for."""
        similar = get_close_matches(channel, self.plans, n=1)
        meant = f" Is it {similar[0]!r}?" if similar else ""
        return (
            f"No route for channel {channel!r}. Routed: {', '.join(sorted(self.plans)) or 'none'}.{meant} "
            f"{self.looked_for[:1].upper()}{self.looked_for[1:]}."
        )

    def with_applications(self, channels: Iterable[str]) -> Routing:
        """The same, and those of the channels that have no route go to ``ASGI_APPLICATION``, as in Channels 4."""
        unrouted = [channel for channel in channels if channel not in self]
        extended = copy(self)
        extended.plans = self.plans | {c: _plan(c, [route(c, run_application)]) for c in unrouted}
        return extended

    @classmethod
    def of_layer(cls, alias: str | None = None) -> Routing:
        """The routing of a layer: its CONFIG's, or what the installed apps registered; ours always."""
        alias = alias or default_alias()
        if alias not in _built:
            layer = get_layer(alias)
            looked_for = where_consumers_are_looked_for(alias)
            _built[alias] = cls(_routes_of(alias, layer.routing), layer.supports_atomic, looked_for)
        return _built[alias]

    @classmethod
    def check_unbuilt(cls, alias: str, path: str | None, supports_atomic: bool) -> None:
        """Raise ``InvalidSettings`` for what is wrong with the routing of a layer that cannot be built itself."""
        cls(_routes_of(alias, path), supports_atomic)


_built: dict[str, Routing] = {}


def check_routed(channel: str, alias: str | None = None) -> None:
    """Refuse a channel that no consumer of this project takes: raise ``NoRoute``."""
    alias = alias or default_alias()
    routing = Routing.of_layer(alias)
    if channel in routing or serves(channel):
        return
    raise NoRoute(
        f"{routing.no_route_for(channel)} MAILRAIL['UNROUTED'] = 'raise' refuses to send there; with 'keep', the "
        "message would wait until a consumer comes."
    )


def where_consumers_are_looked_for(alias: str) -> str:
    """Return a clause for people who miss a consumer."""
    path = get_layer(alias).routing
    listed = f"in CHANNEL_LAYERS[{alias!r}]['CONFIG']['routing'] = {path!r}"
    registered = "in consumers.py of the installed apps (@consumer)"
    places = [listed] * (path is not None) + [registered] * (path is None or alias == default_alias())
    return f"consumers were looked for {' and '.join(places)}"


def _routes_of(alias: str, path: str | None) -> list[Route]:
    _import_consumers()
    if path is None:
        return list(_registered)
    where = f"CHANNEL_LAYERS[{alias!r}]['CONFIG']['routing'] = {path!r}"
    listed = _flat(_import(path, where), where)
    ours = [route for route in _registered if _is_ours(route.function.__module__)]
    if alias != default_alias():
        return listed + ours
    theirs = [route for route in _registered if route not in ours]
    _check_routed_once(listed, theirs, where)
    return listed + theirs + ours


def _check_routed_once(listed: list[Route], registered: list[Route], where: str) -> None:
    places = {channel: route for route in listed for channel in route.channels}
    for route in registered:
        for channel in route.channels:
            if channel in places:
                raise InvalidSettings(
                    f"Channel {channel!r} is routed in two places: to {places[channel].name} by {where}, and to "
                    f"{route.name} by its @consumer. Remove one of the two."
                )


def _import_consumers() -> None:
    """Import ``consumers.py`` of the installed apps; an app without one is passed over."""
    for config in apps.get_app_configs():
        if config.module and module_has_submodule(config.module, "consumers"):
            _import(f"{config.name}.consumers", f"{config.name}.consumers", import_module)


def _import(path: str, where: str, load: Callable[[str], Any] = import_string) -> Any:
    try:
        return import_watched(path, load)
    except Exception as error:  # a module may raise anything
        why = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise InvalidSettings(f"{where} cannot be imported: {why}{_at(error)}") from error


def _at(error: Exception) -> str:
    """Where a module raised: its file and line, for a text that has no traceback.

    What ``route()`` and ``@consumer`` refuse is said of the line that called them.
    """
    if isinstance(error, SyntaxError) or error.__traceback__ is None:
        return ""  # it names its own
    frames = extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    return f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""


_NOT_THEIRS = (f"{Path(__file__).parent}{os.sep}", *IMPORT_MACHINERY)


def _is_ours(module: str) -> bool:
    return module == "mailrail" or module.startswith("mailrail.")


def _flat(routes: Any, where: str) -> list[Route]:
    """Accept a list of routes that holds ``include(…)`` lists, to any depth."""
    if isinstance(routes, Route):
        return [routes]
    if isinstance(routes, str | Mapping) or not isinstance(routes, Iterable):
        raise InvalidSettings(f"{where} must be a list of route(…) and include(…), not {routes!r}.")
    return [route for item in routes for route in _flat(item, where)]


def _plan(channel: str, routes: list[Route]) -> Plan:
    agreed: dict[str, Any] = {}
    mistakes = Mistakes(InvalidSettings)
    for name in _OF_THE_CHANNEL:
        with mistakes.noted():
            agreed[name] = _agreed(name, channel, routes)
    mistakes.raise_any(InvalidSettings)
    agreed["lease"] = agreed["lease"] or settings.lease
    return Plan(channel, tuple(routes), **agreed)


def _agreed(name: str, channel: str, routes: list[Route]) -> Any:
    said = {getattr(route.policy, name) for route in routes}
    if name != "batch":
        said -= {None}  # unsaid is no contradiction, but a consumer that gets no list cannot take one
    if len(said) > 1:
        consumers = " and ".join(sorted({route.name for route in routes}))
        raise InvalidSettings(
            f"The routes of channel {channel!r} ({consumers}) disagree on {name}: "
            f"{', '.join(sorted(map(repr, said)))}. It belongs to the channel: give all of them the same."
        )
    return said.pop() if said else None


def _check_atomic(route: Route, supported: bool) -> None:
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


def _check_consumer(consumer: Any) -> Consumer:
    if not callable(consumer):
        raise TypeError(f"A consumer is a function, or a dotted path to one, not {consumer!r}.")
    forms = (consumer, getattr(consumer, "__call__", None))  # noqa: B004 - of an object that can be called
    if any(inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form) for form in forms):
        raise TypeError(f"{consumer!r} is a generator function (it has a yield): its body would never run.")
    return consumer  # type: ignore[no-any-return]


def _check_arguments(consumer: Consumer, filters: Mapping[str, re.Pattern[str]]) -> None:
    """Raise ``TypeError`` for a consumer that cannot be called as messages would call it."""
    groups = [group for pattern in filters.values() for group in pattern.groupindex]
    try:
        signature = inspect.signature(consumer)
    except (TypeError, ValueError):  # some functions written in C do not say
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


def _is_async(function: Consumer) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


@receiver(setting_changed, dispatch_uid="mailrail.routing")
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("CHANNEL_LAYERS", "MAILRAIL", "INSTALLED_APPS", "DATABASES"):
        _built.clear()
    if setting == "MAILRAIL":
        for route in _registered:
            route.__dict__.pop("consume", None)  # wrapped in the middleware of before
