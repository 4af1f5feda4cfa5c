"""Read the options of tasks: of a backend, of a task, and of one call.

An option is looked up in this order: ``task.using(…)``, the decorator, ``OPTIONS["TASKS"][dotted path]``, and
``OPTIONS`` of the backend. ``None`` means that the place does not say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from inspect import isclass, iscoroutinefunction
from typing import Any, TypeAlias

from django.utils.module_loading import import_string

from mailrail import InvalidSettings
from mailrail import options as checked
from mailrail.backoff import chance
from mailrail.conf import settings
from mailrail.moments import from_now
from mailrail.options import Lane, LimitPerValue, Mistakes
from mailrail.routing import Rate

Backoff: TypeAlias = float | timedelta | Sequence[float | timedelta] | Callable[[int], float] | str
Exceptions: TypeAlias = Sequence[type[BaseException] | str]
Concurrency: TypeAlias = LimitPerValue | tuple[int, Callable[..., Any] | str]

DEFAULT_ATTEMPTS = 1
"""Django's own backends try a task once, and so do we unless an option says otherwise."""
DEFAULT_RETENTION_S = {"SUCCESSFUL": 7 * 86400.0, "FAILED": 30 * 86400.0}
"""Seconds for which a result is kept after the end of its task, where ``retention`` does not say."""
OPTION_NAMES = (
    *("attempts", "backoff", "retry_on", "discard_on", "timeout", "lane", "key", "while_running", "expires"),
    *("rate", "concurrency", "atomic", "isolate", "results", "retention"),
)
"""The options that a task may have besides those of Django."""
RECORDED_OPTIONS = ("attempts", "backoff", "retry_on", "discard_on", "atomic", "retention")
"""Those that a record keeps if a call changes them. The others have done their work once the task is enqueued."""

UNRECORDED_OPTIONS = ("backoff", "retry_on", "discard_on", "atomic")
"""Those that a message without a record keeps if a call changes them. It has the number of attempts of its own."""


@dataclass(frozen=True)
class Effective:
    """Hold the options that apply to one call of a task, after all places were asked."""

    attempts: int = DEFAULT_ATTEMPTS
    backoff: Backoff | None = None
    retry_on: Exceptions | None = None
    discard_on: Exceptions = ()
    timeout: float | timedelta | None = None
    lane: str | Callable[..., str | None] | None = None
    key: str | Callable[..., str | None] | None = None
    while_running: bool = False
    concurrency: LimitPerValue | None = None
    expires: float | timedelta | datetime | None = None
    rate: str | None = None
    atomic: bool = False
    isolate: bool = False
    results: bool = True
    retention: float | timedelta | None = None

    def is_discarded(self, error: BaseException) -> bool:
        """Tell whether ``discard_on`` names the exception. Raises ``ImportError`` for a path that leads nowhere."""
        return isinstance(error, _classes(self.discard_on))

    def is_retried(self, error: BaseException) -> bool:
        """Tell whether ``retry_on`` allows another attempt after the exception."""
        return self.retry_on is None or isinstance(error, _classes(self.retry_on))

    def delay_after(self, failures: int) -> float:
        """Return the seconds to wait after so many failed attempts: exponential with full jitter by default."""
        backoff = import_string(self.backoff) if isinstance(self.backoff, str) else self.backoff
        if callable(backoff):
            return checked.seconds("backoff", backoff(failures))
        if isinstance(backoff, Sequence):
            return checked.seconds("backoff", backoff[min(failures, len(backoff)) - 1])
        first = settings.backoff if backoff is None else checked.seconds("backoff", backoff)
        return chance.uniform(0, min(settings.backoff_max, first * 2.0 ** min(failures - 1, 60)))

    @property
    def has_lane(self) -> bool:
        """Tell whether calls may have a lane, so that ``lane_of`` has to be asked."""
        return self.lane is not None or self.concurrency is not None

    def lane_of(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Lane | None:
        """Return the lane of a call of the task at a dotted path; with the number of its places, if it has several.

        Raises what a function given as ``lane`` or with ``concurrency`` raises, and errors about its value.
        """
        if self.concurrency is None:
            lane = self.lane(*args, **kwargs) if callable(self.lane) else self.lane
            return None if lane is None else checked.label("lane", lane)
        value = self.concurrency.lane_of(*args, **kwargs)
        return None if value is None else (_of_task(path, value), self.concurrency.count)

    def key_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Return the key of a call. Raises what a function given as ``key`` raises, and errors about its value."""
        key = self.key(*args, **kwargs) if callable(self.key) else self.key
        return None if key is None else checked.label("key", key)

    def limit(self) -> float | None:
        """Return the seconds that an attempt may take, or ``None`` for what the settings say."""
        return None if self.timeout is None else checked.seconds("timeout", self.timeout)

    def expires_at(self) -> datetime | None:
        """Return the moment after which the task is not started any more."""
        return None if self.expires is None else checked.moment_or_seconds("expires", self.expires)

    def kept_until(self, status: str) -> datetime:
        """Return the moment until which the result is kept if the task ends now."""
        seconds = (
            DEFAULT_RETENTION_S[status]
            if self.retention is None
            else checked.seconds("retention", self.retention)
        )
        return from_now(seconds)


def _of_task(path: str, value: str) -> str:
    """Return the name of a lane of one task, as tasks share channels."""
    name = f"{path}={value}"
    if len(name) <= checked.MAX_KEY_LENGTH:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=20).hexdigest()
    return f"{name[: checked.MAX_KEY_LENGTH - len(digest) - 1]}={digest}"


def _classes(named: Exceptions) -> tuple[type[BaseException], ...]:
    return tuple(import_string(each) if isinstance(each, str) else each for each in named)


# -- checking them ---------------------------------------------------------------------------------------------------


def _backoff(name: str, value: Any) -> Any:
    if isinstance(value, str) or callable(value):
        return value
    if isinstance(value, list | tuple) and value:
        return tuple(checked.seconds(name, wait) for wait in value)
    try:
        return checked.seconds(name, value)
    except TypeError:
        raise TypeError(
            f"{name} must be seconds, a timedelta, a list of them, a function of the number of failed attempts, or the "
            f"dotted path of one, not {value!r}."
        ) from None


def _exceptions(name: str, value: Any) -> Any:
    several = (value,) if isinstance(value, str) or isclass(value) else value
    if isinstance(several, list | tuple | set | frozenset) and all(map(_is_exception, several)):
        return tuple(several)
    raise TypeError(f"{name} must be exception classes, or dotted paths of them, not {value!r}.")


def _is_exception(value: Any) -> bool:
    return isinstance(value, str) or (isclass(value) and issubclass(value, BaseException))


def _expires(name: str, value: Any) -> Any:
    return checked.moment(name, value) if isinstance(value, datetime) else checked.seconds(name, value)


def _label(name: str, value: Any) -> Any:
    return value if callable(value) else checked.label(name, value)


def _rate(name: str, value: Any) -> str:
    try:
        Rate.parse(value)
    except ValueError:
        raise (ValueError if isinstance(value, str) else TypeError)(
            f'{name} must look like "10/s", "100/m", "1000/h" or "100/15m", not {value!r}.'
        ) from None
    return "".join(value.split())


def _concurrency(name: str, value: Any) -> LimitPerValue:
    limit = checked.concurrency(name, value)
    if isinstance(limit, int):
        raise TypeError(
            f"{name} of a task must be (number, function): at most so many at once, over all workers, for each value "
            f"of the function. Not {value!r}: how many run at once in a process is the --threads of its worker."
        )
    return limit


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}.")
    return value


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    "attempts": checked.whole_number,
    "backoff": _backoff,
    "retry_on": _exceptions,
    "discard_on": _exceptions,
    "timeout": lambda name, value: checked.seconds(name, value, above_zero=True),
    "lane": _label,
    "key": _label,
    "while_running": _flag,
    "concurrency": _concurrency,
    "expires": _expires,
    "rate": _rate,
    "atomic": _flag,
    "isolate": _flag,
    "results": _flag,
    "retention": checked.seconds,
}


def read_options(values: Mapping[str, Any], where: str = "{}") -> dict[str, Any]:
    """Return the options that are given, checked. ``where``: how errors call one, ``{}`` being its name.

    Raises ``TypeError`` or ``ValueError`` with all mistakes, one a line.
    """
    read: dict[str, Any] = {}
    mistakes = Mistakes()
    for name, value in values.items():
        with mistakes.noted():
            if name not in _READ:
                raise TypeError(
                    f"{where.format(name)}: there is no such option. Options are: {', '.join(_READ)}."
                )
            if value is not None:
                read[name] = _READ[name](where.format(name), value)
    mistakes.raise_any()
    return read


def atomic_mistake(layer: Any, database: str) -> str:
    """Return why tasks cannot be atomic on a layer with their records in a database, or an empty text."""
    if not layer.supports_atomic:
        return (
            "atomic=True needs a layer in the database: only there can a task's writes and the end of its message "
            "commit together. Use mailrail.layers.DatabaseChannelLayer, or leave atomic out."
        )
    if layer.using != database:
        return (
            f"atomic=True needs the records of tasks in the database of the layer, {layer.using!r}, and they are in "
            f"{database!r}. Leave DATABASE out of OPTIONS, or leave atomic out."
        )
    return ""


def conflicts(task: Any, effective: Effective) -> Iterator[str]:
    """Yield what is wrong with options of a task together, one sentence each."""
    if effective.lane is not None and effective.concurrency is not None:
        yield (
            "lane and concurrency=(number, function) do not go together, as a task waits in one lane. Leave one of "
            "them out."
        )
    if getattr(task, "while_running", None) and effective.key is None:
        yield "while_running=True needs a key, which it extends to the time while the task runs. Set key, too."
    if effective.atomic and iscoroutinefunction(task.func):
        yield (
            f"atomic=True needs a plain function: {task.func.__qualname__} is async, and Django's transactions are "
            "not. Leave atomic out, or write atomic=False for this task."
        )
    if effective.while_running and effective.key is not None and not effective.results:
        yield (
            "while_running=True needs a record, which says that the task runs, and the task has results=False. Leave "
            "one of the two out."
        )


class BackendOptions:
    """Hold ``OPTIONS`` of a backend.

    ``mistakes``: one sentence for each thing in them that cannot be followed; ``check`` raises them.
    """

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        where = f"TASKS[{alias!r}]['OPTIONS']"
        mistakes = Mistakes()
        self.database: str | None = None
        self._defaults: dict[str, Any] = {}
        self._by_task: dict[str, dict[str, Any]] = {}
        self._known: dict[str, tuple[Any, Effective]] = {}
        for name, value in options.items():
            with mistakes.noted():
                if name == "DATABASE":
                    self.database = _alias(f"{where}['DATABASE']", value)
                elif name == "TASKS":
                    self._read_tasks(f"{where}['TASKS']", value, mistakes)
                else:
                    self._defaults |= read_options({name: value}, where + "[{!r}]")
        self.mistakes = mistakes.texts

    def _read_tasks(self, where: str, tasks: Any, mistakes: Mistakes) -> None:
        if not isinstance(tasks, Mapping) or not all(isinstance(value, Mapping) for value in tasks.values()):
            raise TypeError(
                f'{where} must be a dictionary of options by dotted path: {{"shop.tasks.sync": {{…}}}}.'
            )
        for path, values in tasks.items():
            with mistakes.noted():
                self._by_task[path] = read_options(values, f"{where}[{path!r}][{{!r}}]")

    def check(self) -> None:
        """Raise ``InvalidSettings`` with all mistakes, if there are any."""
        if self.mistakes:
            raise InvalidSettings(*self.mistakes)

    def effective(self, task: Any, path: str) -> Effective:
        """Return what applies to a task: its own options, then those of settings. ``path``: its dotted path."""
        known = self._known.get(path)
        if known is None or known[0] is not task:  # as most often it is what the module holds
            known = self._known[path] = task, self._effective(task, path)
        return known[1]

    def _effective(self, task: Any, path: str) -> Effective:
        own = {name: value for name in OPTION_NAMES if (value := getattr(task, name, None)) is not None}
        if not own and not self._by_task:
            return self._of_backend
        return Effective(**{**self._defaults, **self._by_task.get(path, {}), **own})

    @property
    def results(self) -> bool:
        """Tell whether tasks have results, unless they say otherwise themselves."""
        return self._of_backend.results

    @property
    def names_atomic(self) -> bool:
        """Tell whether any of the settings asks for atomic tasks."""
        return any(options.get("atomic") for options in (self._defaults, *self._by_task.values()))

    @cached_property
    def _of_backend(self) -> Effective:
        return Effective(**self._defaults)


def _alias(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where} must be an alias in DATABASES, not {value!r}.")
    return value


# -- in the record, or the message -----------------------------------------------------------------------------------


def differing(task: Any, decorated: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the options by these names that a call has changed: those that differ from the decorated task's."""
    return {
        name: value
        for name in names
        if (value := getattr(task, name, None)) is not None and value != getattr(decorated, name, None)
    }


def to_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a record keeps them: functions and classes as dotted paths, lengths of time in seconds.

    Raises ``ValueError`` for a function that cannot be imported by its path.
    """
    return {name: _plain(name, value) for name, value in options.items()}


def from_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a record as a task holds them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if callable(value):
        path = f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', '?')}"
        if "<" in path or "?" in path:
            raise ValueError(
                f"{name}: {value!r} cannot be imported by a worker. Define it at the level of a module."
            )
        return path
    return value
