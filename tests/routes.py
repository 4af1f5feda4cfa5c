"""Routings that tests name by their dotted path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailrail.routing import include, route

called: list[tuple[str, Any, dict[str, Any]]] = []


def first(message: Any, **arguments: Any) -> None:
    called.append(("first", message, arguments))


def second(message: Any, **arguments: Any) -> None:
    called.append(("second", message, arguments))


async def later(message: Any, **arguments: Any) -> None:
    called.append(("later", message, arguments))


def generator(message: Any) -> Any:
    yield message


not_callable = 7

channel_routing = [route("one", first), route("two", "tests.routes.second")]
nested_routing = [include("tests.routes.channel_routing"), [route("three", first)], (route("four", later),)]
shadowing_routing = [route("send-invite", first), route("noop", first)]
a_tuple = tuple(channel_routing)
a_single_route = route("alone", first)
no_list = 7
a_dict = {"one": first}
a_list_of_pairs = [("one", first)]
not_importable = [route("one", "tests.routes.missing")]
missing_module = [route("one", "no.such.module")]
routes_a_generator = [route("one", "tests.routes.generator")]
routes_a_number = [route("one", "tests.routes.not_callable")]
disagreeing = [route("one", first, lease=5), route("one", second, lease=6)]
atomic_async = [route("one", later, atomic=True)]
atomic = [route("one", first, atomic=True)]
on_redis = [route(name, f"tests.project.consumers.{name}") for name in ("noop", "ledger", "slow")]
reserved = [route("mailrail.anything", first), route("tasks.default", first)]
shadowed = [route("one", first), route("one", second), route("two", first, kind="x"), route("two", second)]
filtered = [route("one", first, kind="paid"), route("one", second, kind="refunded"), route("one", later)]
long_lease = [
    route("one", first, lease=7200),
    route("two", first, lease=0.5),
    route("three", first, lease=60),
]


def outer(consume: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(message: Any, **arguments: Any) -> Any:
        called.append(("outer", message, arguments))
        return consume(message, **arguments)

    return wrapped


def inner(consume: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(message: Any, **arguments: Any) -> Any:
        called.append(("inner", message, arguments))
        return consume(message, **arguments)

    return wrapped


redis_routing = [
    route("noop", "tests.project.consumers.noop"),
    route("ledger", "tests.project.consumers.ledger"),
    route("slow", "tests.project.consumers.slow"),
    route("held", "tests.project.consumers.held", lease=1.0),
    route("behave", "tests.project.consumers.behave", attempts=3, backoff=[0.01]),
    route("rated", "tests.project.consumers.rated", rate="20/s"),
    route("in-lanes", "tests.project.consumers.in_lanes", attempts=3, backoff=[0.0]),
]
