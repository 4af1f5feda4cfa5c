"""A routing with several mistakes, each in a line of its own, beside a route without one."""

from __future__ import annotations

from typing import Any

from mailrail.routing import include, route
from tests.routes import first


def without_arguments() -> None: ...


def with_two(message: Any, user: Any) -> None: ...


channel_routing: list[Any] = [
    route("no spaces", print),
    route("fine", first),
    route("one", first, attempts=0, timeout=-1),
    route("two", without_arguments),
    route("three", with_two),
    route("four", "tests.routes.missing"),
    include("tests.nowhere"),
    include("tests.mistaken_routes_too.more_routing"),
]
