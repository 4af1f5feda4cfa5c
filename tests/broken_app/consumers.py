"""Consumers with mistakes: a wrong option, signatures that take no message, and no channel."""

from __future__ import annotations

from typing import Any

from mailrail.routing import consumer


@consumer("broken", attempts=0)
def broken(message: Any) -> None: ...


@consumer("takes-nothing")
def takes_nothing() -> None: ...


@consumer  # type: ignore[arg-type]
def without_a_channel(message: Any) -> None: ...
