"""Route channels to consumers; routings are written like ``urls.py``.

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

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeAlias, TypeVar, cast

from django.apps import apps
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import module_has_submodule

from .applications import run_application, serves
from .conf import settings
from .errors import InvalidSettings, NoRoute
from .importing import gathered, import_named, noted_or_raised
from .layers import DurableLayer, default_alias, get_layer
from .limiters import Allowance as Allowance  # for limiters of projects
from .limiters import Limiter as Limiter
from .log import logger_of
from .messages import Message, check_channel_name
from .messages import Rate as Rate  # for ``route(…, rate=Rate(…))``, and for users of a layer's buckets
from .options import LaneWithPlaces, Mistakes
from .policy import Backoff, compile_filters, read_policy
from .routes import Consumer, Plan, Route, check_arguments, check_atomic, check_consumer, plan_of

__all__ = ["Allowance", "Limiter", "Rate", "consumer", "include", "route"]

logger = logger_of("mailrail")

Routes: TypeAlias = Iterable["Route | Routes"]
F = TypeVar("F", bound=Consumer)

_NO_OPTIONS = ("channels", "consumer", "filters")


def route(
    channels: str | Iterable[str],
    consumer: Consumer | str,
    *,
    attempts: int | None = None,
    backoff: Backoff | timedelta | Sequence[float | timedelta] | None = None,
    concurrency: int | tuple[int, Callable[[Any], Any] | str] | None = None,
    rate: str | Rate | None = None,
    timeout: float | timedelta | Callable[[Any], float | None] | None = None,
    lease: float | timedelta | None = None,
    batch: int | None = None,
    losses: int | None = None,
    limiter: Callable[[str, DurableLayer], Limiter] | None = None,
    known_channels: Callable[[], Iterable[str]] | None = None,
    prepare: Callable[[Sequence[Any]], object] | None = None,
    on_timeout: Callable[[Any, TimeoutError], float | None] | None = None,
    atomic: bool = False,
    isolate: bool = False,
    **filters: str,
) -> Route:
    """Route one or several channels to a consumer (a function, sync or async, or a dotted path to one).

    ``attempts``: runs before the message is buried. ``backoff``: seconds that bound the wait before the second attempt
    (doubled each time, with jitter), a list of waits, or a function of the attempt. ``timeout``: seconds of a run, or
    a function of the message. ``atomic``: run it in a transaction on the layer's database that also finishes the
    message. ``isolate``: run it in a process, killed at the limit. ``concurrency=(5, function)``: at most 5 at once
    over all workers for each value of the function. Of the channel: ``concurrency`` of a process, ``rate`` over all
    workers (``"100/m"``), ``lease`` in seconds, ``limiter`` (see ``Limiter``). Also ``batch``: the consumer gets a
    list of up to so many messages. And ``losses``: how often a message may be lost with its process before it is
    buried (3). If given, lost ones run among the others until half are used; else in a process of their own. A channel
    ``"tenant.*"`` is a pattern: all of that prefix, those of ``known_channels()`` and those with messages.
    ``prepare``: called with the messages of a claim before they start. ``on_timeout``: called with a message and its
    ``TimeoutError``; returns the seconds until the next attempt, or ``None`` to bury it, or raises ``Discard``. Any
    other keyword is a filter: a regular expression for a field, its named groups become keyword arguments.
    """
    options = {name: value for name, value in locals().items() if name not in _NO_OPTIONS}
    try:
        return _read_route(channels, consumer, options, filters)
    except (TypeError, ValueError) as error:
        return Route((), consumer, mistakes=noted_or_raised(error))


def _read_route(
    channels: str | Iterable[str],
    consumer: Consumer | str,
    options: Mapping[str, Any],
    filters: Mapping[str, str],
) -> Route:
    if not isinstance(channels, Iterable):
        raise TypeError(f"route() needs a channel, or a list of them, not {channels!r}.")
    names = (channels,) if isinstance(channels, str) else tuple(channels)
    mistakes = Mistakes()
    if not names:
        mistakes.add(ValueError("route() needs a channel, or a list of them."))
    for name in names:
        with mistakes.noted():
            check_channel_name(name.removesuffix(".*") if isinstance(name, str) else name)
    if not isinstance(consumer, str):
        with mistakes.noted():
            check_consumer(consumer)
    policy = read_policy(mistakes, **options)
    compiled = compile_filters(filters, policy.batch is not None, mistakes)
    if not isinstance(consumer, str):
        with mistakes.noted():
            check_arguments(consumer, compiled)
    mistakes.raise_any()
    return Route(names, consumer, compiled, policy)


def include(target: str | Routes) -> list[Route]:
    """Return the routes of another list, or of the list at a dotted path (``"shop.routing.channel_routing"``)."""
    try:
        if not isinstance(target, str):
            return _flat(target, "include()")
        where = f"include({target!r})"
        return _flat(import_named(target, where), where)
    except InvalidSettings as error:
        return [Route((), "", mistakes=noted_or_raised(error))]


def consumer(channels: str | Iterable[str], **options: Any) -> Callable[[F], F]:
    """Register a function of an app's ``consumers.py``: ``@consumer("send-invite", attempts=5)``.

    The options are those of ``route``. The function itself stays as it is.
    """
    if callable(channels):
        error = TypeError(
            f'consumer() needs a channel, or a list of them, not {channels!r}: @consumer("name").'
        )
        _register(Route((), channels, mistakes=noted_or_raised(error)))
        return cast("Callable[[F], F]", channels)

    def register(function: F) -> F:
        new = route(channels, function, **options)
        is_new = _register(new)
        if _built and is_new:
            logger.warning(
                "@consumer(%r) on %s was imported after the consumers were looked for, so it is not routed. Workers "
                "import consumers.py of the installed apps: move it there, or import its module there.",
                *(channels, new.name),
            )
        return function

    return register


def _register(new: Route) -> bool:
    """Register a route in place of those registered before its module was imported again.

    Return whether there were none.
    """
    fields = (new.name, new.channels, new.mistakes)
    same = [old for old in _registered if (old.name, old.channels, old.mistakes) == fields]
    for old in same:
        _registered.remove(old)
    _registered.append(new)
    return not same


_registered: list[Route] = []


class Routing:
    """Hold all routes of a layer. Raises ``InvalidSettings`` if they contradict each other or the layer.

    ``looked_for``: a clause that says where the routes come from. ``mistakes``: those found while importing them.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        supports_atomic: bool = True,
        looked_for: str = "it has no other routes",
        mistakes: Mistakes | None = None,
    ) -> None:
        by_channel: dict[str, list[Route]] = {}
        mistakes = mistakes or Mistakes(InvalidSettings)
        for route in routes:
            with mistakes.noted():
                if route.mistakes:
                    raise InvalidSettings(*route.mistakes)
                _ = route.function  # an import error shows up here, not with the first message
                check_atomic(route, supports_atomic)
                for channel in route.channels:
                    by_channel.setdefault(channel, []).append(route)
        self.patterns = {
            name: by_channel.pop(name) for name in sorted(by_channel, reverse=True) if "*" in name
        }
        self.plans: dict[str, Plan] = {}
        for channel, channel_routes in by_channel.items():
            with mistakes.noted():
                self.plans[channel] = plan_of(channel, channel_routes)
        for pattern, pattern_routes in self.patterns.items():
            with mistakes.noted():
                self._add_known(plan_of(pattern, pattern_routes))
        mistakes.raise_any(InvalidSettings)
        self.looked_for = looked_for
        plans = [*self.plans.values(), *(plan_of(*pattern) for pattern in self.patterns.items())]
        self.has_limits = any(plan.limit_per_value for plan in plans)

    def place_of(self, message: Message) -> LaneWithPlaces | None:
        """Return the place of a message that is sent, as ``Plan.place_of``; ``None`` if its worker has to tell.

        Raises ``ValueError`` for a message with a lane of its own.
        """
        if message.channel not in self:
            return None
        plan = self.plan_for(message.channel)
        try:
            return plan.place_of(message)
        except Exception:
            if message.lane is not None:
                raise
            return None  # the worker buries it, with the error

    def _add_known(self, plan: Plan) -> None:
        """Add the channels of a pattern that its route knows."""
        for channel in plan.known_channels() if plan.known_channels else ():
            if not channel.startswith(plan.channel[:-1]):
                raise InvalidSettings(f"known_channels: {channel!r} does not belong to {plan.channel!r}.")
            try:
                self.plans.setdefault(check_channel_name(channel), replace(plan, channel=channel))
            except ValueError as error:
                raise InvalidSettings(f"known_channels of {plan.channel!r}: {error}") from error

    def __contains__(self, channel: str) -> bool:
        is_name = not channel.endswith(".*")
        return channel in self.plans or (is_name and any(channel.startswith(p[:-1]) for p in self.patterns))

    def plan_for(self, channel: str) -> Plan:
        """Return the plan of a routed channel: its own, or that of the longest pattern. Raises ``KeyError``."""
        if channel in self.plans:
            return self.plans[channel]
        for pattern, routes in self.patterns.items():  # the longest first
            if channel.startswith(pattern[:-1]):
                return plan_of(channel, routes)
        raise KeyError(channel)

    def pattern_of(self, name: str) -> str | None:
        """Return the pattern that a name stands for: ``"tenant"`` and ``"tenant.*"`` mean all of ``"tenant.*"``."""
        pattern = name if name.endswith(".*") else f"{name}.*"
        return pattern if pattern in self.patterns and name not in self.plans else None

    def no_route_for(self, channel: str) -> str:
        """Return a text for a channel without a route: the routed ones, and where consumers are looked for."""
        names = sorted({*self.plans, *self.patterns})
        similar = get_close_matches(channel, names, n=1)
        suggestion = f" Is it {similar[0]!r}?" if similar else ""
        return (
            f"No route for channel {channel!r}. Routed: {', '.join(names) or 'none'}.{suggestion} "
            f"{self.looked_for[:1].upper()}{self.looked_for[1:]}."
        )

    def with_applications(self, channels: Iterable[str]) -> Routing:
        """Return a copy that routes the unrouted of these channels to ``ASGI_APPLICATION``, as in Channels 4."""
        unrouted = [name for name in channels if name not in self and self.pattern_of(name) is None]
        extended = copy(self)
        extended.plans = self.plans | {c: plan_of(c, [route(c, run_application)]) for c in unrouted}
        return extended

    @property
    def with_isolate(self) -> list[str]:
        """Return the channels and patterns with a route of the project that has ``isolate``."""
        return self._with(lambda route: route.policy.isolate and not _is_own(route))

    @property
    def with_batches(self) -> list[str]:
        """Return the channels and patterns whose consumers take batches."""
        return self._with(lambda route: route.policy.batch is not None)

    def _with(self, matches: Callable[[Route], bool]) -> list[str]:
        routes: dict[str, Iterable[Route]] = {name: plan.routes for name, plan in self.plans.items()}
        routes |= self.patterns
        return sorted(name for name, own in routes.items() if any(map(matches, own)))

    def isolated(self) -> Routing:
        """Return a copy whose routes have ``isolate``, but for those of batches."""
        isolated = copy(self)
        isolated.plans = {channel: plan.isolated() for channel, plan in self.plans.items()}
        isolated.patterns = {
            name: [route.isolated() for route in routes] for name, routes in self.patterns.items()
        }
        return isolated

    @classmethod
    def of_layer(cls, alias: str | None = None) -> Routing:
        """Return the routing of a layer: that of its CONFIG, or of the installed apps, with Mailrail's own routes."""
        alias = alias or default_alias()
        if alias not in _built:
            layer = get_layer(alias)
            looked_for = where_consumers_are_looked_for(alias)
            mistakes = Mistakes(InvalidSettings)
            routes = _routes_of(alias, layer.routing, mistakes)
            _built[alias] = cls(routes, layer.supports_atomic, looked_for, mistakes)
        return _built[alias]

    @classmethod
    def check_unbuilt(cls, alias: str, path: str | None, supports_atomic: bool) -> None:
        """Raise ``InvalidSettings`` for mistakes in the routing of a layer that cannot be built itself."""
        mistakes = Mistakes(InvalidSettings)
        cls(_routes_of(alias, path, mistakes), supports_atomic, mistakes=mistakes)


_built: dict[str, Routing] = {}


def check_routed(channel: str, alias: str | None = None) -> None:
    """Raise ``NoRoute`` for a channel that no consumer of this project takes."""
    alias = alias or default_alias()
    routing = Routing.of_layer(alias)
    if channel in routing or serves(channel):
        return
    raise NoRoute(
        f"{routing.no_route_for(channel)} MAILRAIL['UNROUTED'] = 'raise' refuses to send there; with 'keep', the "
        "message would wait until a consumer comes."
    )


def routing_with_limits(alias: str | None) -> Routing | None:
    """Return a layer's routing, for senders, if a route limits how many run at once for a value.

    Only if this process has looked for consumers before. To look for them here would import the code of all consumers
    into each process that sends.
    """
    routing = _built.get(alias or settings.layer)
    return routing if routing is not None and routing.has_limits else None


def where_consumers_are_looked_for(alias: str) -> str:
    """Return a clause that says where the consumers of a layer were looked for."""
    path = get_layer(alias).routing
    listed = f"in CHANNEL_LAYERS[{alias!r}]['CONFIG']['routing'] = {path!r}"
    registered = "in consumers.py of the installed apps (@consumer)"
    places = [listed] * (path is not None) + [registered] * (path is None or alias == default_alias())
    return f"consumers were looked for {' and '.join(places)}"


def _routes_of(alias: str, path: str | None, mistakes: Mistakes) -> list[Route]:
    """Return the routes of a layer whose routing is ``path``, and add their mistakes."""
    where = f"CHANNEL_LAYERS[{alias!r}]['CONFIG']['routing'] = {path!r}"
    listed: list[Route] = []
    with gathered(mistakes):
        _import_consumers(mistakes)
        if path is not None:
            with mistakes.noted():
                listed = _flat(import_named(path, where), where)
    if path is None:
        return list(_registered)
    own_routes = [route for route in _registered if _is_own(route)]
    if alias != default_alias():
        return listed + own_routes
    project_routes = [route for route in _registered if route not in own_routes]
    _check_routed_once(listed, project_routes, where, mistakes)
    return listed + project_routes + own_routes


def _check_routed_once(listed: list[Route], registered: list[Route], where: str, mistakes: Mistakes) -> None:
    places = {channel: route for route in listed for channel in route.channels}
    for route in registered:
        for channel in set(route.channels) & places.keys():
            with mistakes.noted():
                raise InvalidSettings(
                    f"Channel {channel!r} is routed in two places: to {places[channel].name} by {where}, and to "
                    f"{route.name} by its @consumer. Remove one of the two."
                )


def _import_consumers(mistakes: Mistakes) -> None:
    """Import ``consumers.py`` of the installed apps; skip apps without one."""
    for config in apps.get_app_configs():
        if config.module and module_has_submodule(config.module, "consumers"):
            with mistakes.noted():
                import_named(f"{config.name}.consumers", f"{config.name}.consumers", import_module)


def _is_own(route: Route) -> bool:
    module = getattr(route.target, "__module__", None) or ""  # a built-in method has none
    return module == "mailrail" or module.startswith("mailrail.")


def _flat(routes: Any, where: str) -> list[Route]:
    """Flatten a list of routes that contains ``include(…)`` lists, to any depth."""
    if isinstance(routes, Route):
        return [routes]
    if isinstance(routes, str | Mapping) or not isinstance(routes, Iterable):
        raise InvalidSettings(f"{where} must be a list of route(…) and include(…), not {routes!r}.")
    return [route for item in routes for route in _flat(item, where)]


@receiver(setting_changed, dispatch_uid="mailrail.routing")
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("CHANNEL_LAYERS", "MAILRAIL", "INSTALLED_APPS", "DATABASES", "MAILERS", "TASKS"):
        _built.clear()
    if setting == "MAILRAIL":
        for route in _registered:
            route.__dict__.pop("consume", None)  # it was wrapped in the former middleware
