"""Read the options of a route: its policy and its filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from . import options as checked
from .messages import Rate
from .options import Mistakes

Backoff: TypeAlias = float | Sequence[float] | Callable[[int], float]


class LimitInContent:
    """Read the time limit of a message from a field of its content. It asks nobody, so it costs no thread."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __call__(self, message: Any) -> float | None:
        limit: float | None = message.get(self._field)
        return limit


@dataclass(frozen=True)
class Policy:
    """Hold the options of a route; ``None`` takes the value of the settings. Times are in seconds."""

    attempts: int | None = None
    backoff: Backoff | None = None
    timeout: float | Callable[[Any], float | None] | None = None
    atomic: bool = False
    isolate: bool = False
    # These belong to the channel: its routes must agree.
    concurrency: int | checked.LimitPerValue | None = None
    rate: Rate | None = None
    lease: float | None = None
    batch: int | None = None
    losses: int | None = None
    limiter: Callable[..., Any] | None = None
    known_channels: Callable[..., Any] | None = None
    prepare: Callable[..., Any] | None = None
    on_timeout: Callable[[Any, TimeoutError], float | None] | None = None


def read_policy(mistakes: Mistakes, **options: Any) -> Policy:
    """Return the policy of the valid options, and add the mistakes of the others."""
    values: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None or name in ("atomic", "isolate"):
            with mistakes.noted():
                values[name] = _READ[name](name, value)
    if callable(values.get("timeout")) and "batch" in values:
        mistakes.add(ValueError("timeout=function and batch=… do not go together: a batch has one limit."))
    if isinstance(values.get("concurrency"), checked.LimitPerValue) and "batch" in values:
        mistakes.add(
            ValueError(
                "concurrency=(number, function) and batch=… do not go together: a batch may hold messages of many "
                "values. Leave one of them out."
            )
        )
    if values.get("atomic") and "batch" in values:
        mistakes.add(
            ValueError("atomic=True and batch=… do not go together: a batch is settled message by message.")
        )
    if values.get("isolate") and "batch" in values:
        mistakes.add(
            ValueError(
                "isolate=True and batch=… do not go together: a process runs one message, so that it costs no other "
                "one an attempt. Leave one of them out."
            )
        )
    return Policy(**values)


def compile_filters(
    filters: Mapping[str, Any], is_batch: bool, mistakes: Mistakes
) -> dict[str, re.Pattern[str]]:
    """Compile the filters that are regular expressions, and add the mistakes of the others."""
    compiled = {}
    for name, pattern in filters.items():
        with mistakes.noted():
            compiled[name] = _compile(name, pattern)
    if is_batch and any(pattern.groupindex for pattern in compiled.values()):
        mistakes.add(
            ValueError("Named groups in a filter have nowhere to go when the consumer gets a batch.")
        )
    return compiled


def _compile(name: str, pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern.pattern if isinstance(pattern, re.Pattern) else pattern, str):
        options = ", ".join(f.name for f in fields(Policy))
        raise TypeError(
            f"route({name}={pattern!r}): a filter is a regular expression, as text. Options are: {options}."
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"route({name}={pattern!r}): not a regular expression: {error}.") from error


def _above_zero(name: str, value: Any) -> float:
    return checked.seconds(name, value, above_zero=True)


def _true_or_false(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}.")
    return value


def _backoff(name: str, value: Any) -> Backoff:
    if callable(value):
        function: Callable[[int], float] = value
        return function
    try:
        if not isinstance(value, list | tuple):
            return checked.seconds(name, value)
        if value:
            return [checked.seconds(name, wait) for wait in value]
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{name} must be seconds, a list of seconds, or a function of the attempt, not {value!r}."
    )


def _limiter(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{name} must be a subclass of mailrail.routing.Limiter, not {value!r}.")
    return value  # type: ignore[no-any-return]


def _function(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{name} must be a function that returns names of channels, not {value!r}.")
    return value  # type: ignore[no-any-return]


def _preparation(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{name} must be a function of a list of messages, not {value!r}.")
    return value  # type: ignore[no-any-return]


def _decision(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{name} must be a function of a message and its TimeoutError, not {value!r}.")
    return value  # type: ignore[no-any-return]


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "attempts": checked.whole_number,
    "concurrency": checked.concurrency,
    "batch": checked.whole_number,
    "losses": checked.whole_number,
    "timeout": lambda name, value: value if callable(value) else _above_zero(name, value),
    "lease": _above_zero,
    "backoff": _backoff,
    "rate": lambda name, value: Rate.parse(value),
    "limiter": _limiter,
    "known_channels": _function,
    "prepare": _preparation,
    "on_timeout": _decision,
    "atomic": _true_or_false,
    "isolate": _true_or_false,
}
