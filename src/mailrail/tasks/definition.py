"""Define ``ChannelTask``: Django's ``Task`` with the options of Mailrail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from django.utils.module_loading import import_string

from mailrail.moments import as_django, from_now

from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    InvalidTask,
    Task,
    task_backends,
)
from .options import OPTION_NAMES, Backoff, Concurrency, Exceptions, read_options

FollowUp: TypeAlias = "Task | Sequence[Any]"  # type: ignore[type-arg,unused-ignore]
"""A task that is to follow, or ``(task, args)`` or ``(task, args, kwargs)``."""
_UNKNOWN: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTask(Task):  # type: ignore[misc,type-arg,unused-ignore]
    """A task with the options of Mailrail. ``None``: the settings decide.

    ``attempts``: how often it is tried (1). ``backoff``: seconds that bound the wait before the second attempt, doubled
    each time, with jitter. It may also be a list of waits, or a function of the number of failed attempts.
    ``retry_on``: exceptions after which it is tried again; all others fail it at once. ``discard_on``: exceptions that
    fail it at once. ``timeout``: seconds or a ``timedelta`` that an attempt may take. ``lane``: tasks of a lane run one
    at a time, in the order of enqueueing. ``concurrency``: ``(5, function)`` lets at most 5 run at once, over all
    workers, for each value that the function of its arguments returns. ``key``: while a call of this task with the same
    key waits in its queue, ``enqueue`` returns the result of that. ``while_running``: also while that one runs.
    ``expires``: seconds, a ``timedelta`` or a ``datetime`` after which it is not started any more. ``rate``: how often
    it starts over all workers, such as ``"100/m"``. ``atomic``: its writes and its end commit together. ``isolate``: it
    runs in a process of its own, which is killed at its time limit. ``results=False``: it is a message alone, and
    nothing is kept of it but failures, as dead messages. ``retention``: seconds or a ``timedelta`` for which its result
    is kept (7 days, and 30 if it failed). ``then``: a task that is enqueued once this one is successful, or
    ``(task, args, kwargs)``.

    Classes and functions may be dotted paths. ``lane`` and ``key`` may be functions of the task's arguments.
    """

    attempts: int | None = None
    backoff: Backoff | None = None
    retry_on: Exceptions | None = None
    discard_on: Exceptions | None = None
    timeout: float | timedelta | None = None
    lane: str | Callable[..., str | None] | None = None
    key: str | Callable[..., str | None] | None = None
    while_running: bool | None = None
    concurrency: Concurrency | None = None
    expires: float | timedelta | datetime | None = None
    rate: str | None = None
    atomic: bool | None = None
    isolate: bool | None = None
    results: bool | None = None
    retention: float | timedelta | None = None
    then: FollowUp | None = None

    def __post_init__(self) -> None:
        given = {name: value for name in OPTION_NAMES if (value := getattr(self, name)) is not None}
        try:
            read = read_options(given)
        except (TypeError, ValueError) as error:
            raise InvalidTask(str(error)) from error
        for name, value in read.items():
            object.__setattr__(self, name, value)
        if isinstance(self.run_after, timedelta):
            object.__setattr__(self, "run_after", _moment_after(self.run_after))
        elif isinstance(self.run_after, datetime):
            object.__setattr__(self, "run_after", as_django(self.run_after))
        Task.__post_init__(self)
        if self.then is not None:
            read_follow_up("then", self.then)
            if not hasattr(self.get_backend(), "task_options"):
                raise InvalidTask(
                    f"then needs a backend that is mailrail.tasks.ChannelBackend, and {self.backend!r} is another one."
                )

    def __reduce__(self) -> Any:
        decorated = find_task(self.module_path)
        changes = {
            field.name: value
            for field in fields(self)
            if field.name != "func"
            and (value := getattr(self, field.name)) != getattr(decorated, field.name, _UNKNOWN)
        }
        return _unpickle, (type(self), self.module_path, changes)

    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | timedelta | None = None,
        backend: str | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        retry_on: Exceptions | None = None,
        discard_on: Exceptions | None = None,
        timeout: float | timedelta | None = None,
        lane: str | Callable[..., str | None] | None = None,
        key: str | Callable[..., str | None] | None = None,
        while_running: bool | None = None,
        concurrency: Concurrency | None = None,
        expires: float | timedelta | datetime | None = None,
        rate: str | None = None,
        atomic: bool | None = None,
        isolate: bool | None = None,
        results: bool | None = None,
        retention: float | timedelta | None = None,
        then: FollowUp | None = None,
    ) -> ChannelTask:
        """Return a copy of the task with other options. ``run_after`` may be a ``timedelta`` from now."""
        changes = {name: value for name, value in locals().items() if name != "self" and value is not None}
        return replace(self, **changes)


def read_follow_up(name: str, value: Any) -> tuple[Any, Sequence[Any], Mapping[str, Any]]:
    """Return the task that is to follow, with its arguments. Raises ``InvalidTask`` for what is none."""
    match value:
        case Task():
            return value, (), {}
        case (Task() as follower, list() | tuple() as args):
            return follower, args, {}
        case (Task() as follower, list() | tuple() as args, dict() as kwargs):
            return follower, args, kwargs
    raise InvalidTask(f"{name} must be a task, (task, args) or (task, args, kwargs), not {value!r}.")


def _moment_after(wait: timedelta) -> datetime:
    try:
        return from_now(wait.total_seconds())
    except OverflowError:
        raise InvalidTask(
            f"run_after: {wait} from now is outside the calendar. Give a shorter time."
        ) from None


def task(
    function: Callable[..., Any] | None = None,
    *,
    priority: int = DEFAULT_TASK_PRIORITY,
    queue_name: str = DEFAULT_TASK_QUEUE_NAME,
    backend: str = DEFAULT_TASK_BACKEND_ALIAS,
    takes_context: bool = False,
    **options: Any,
) -> Any:
    """Make a task of a function, as ``django.tasks.task`` does, with the options of ``ChannelTask``.

    Django 6.1 passes other options on to the backend's class; Django 6.0 does not. With this decorator they are known
    everywhere, and they are without effect if the backend is another one, as in tests with ``ImmediateBackend``.
    """
    if "run_after" in options:
        raise TypeError(
            "run_after cannot be defined statically with the @task decorator. "
            "Use .using(run_after=...) to set it dynamically."
        )

    def decorate(decorated: Callable[..., Any]) -> Any:
        kind = task_backends[backend].task_class
        kind = kind if issubclass(kind, ChannelTask) else ChannelTask
        return kind(
            func=decorated,
            priority=priority,
            queue_name=queue_name,
            backend=backend,
            takes_context=takes_context,
            run_after=None,  # Django 6.0 has no default for it
            **options,
        )

    return decorate if function is None else decorate(function)


def _unpickle(kind: type[ChannelTask], path: str, changes: dict[str, Any]) -> ChannelTask:
    """Make a task of the one that a module holds, and what was different of the pickled one."""
    decorated = find_task(path)
    if decorated is None:
        raise ValueError(f"Expected {path!r} to point to a Task instance.")
    values = {field.name: getattr(decorated, field.name, None) for field in fields(kind)}
    return kind(**{**values, **changes})


# -- tasks by their dotted paths -------------------------------------------------------------------------------------


def find_task(path: str) -> Any | None:
    """Return the task at a dotted path, or ``None`` if there is none. Raises what importing its module raises."""
    try:
        found = import_by_path(path)
    except ImportError:
        return None
    return found if isinstance(found, Task) else None


_modules: dict[str, tuple[str, ModuleType, str]] = {}
"""Where tasks were found, by their dotted paths: the module's name, the module, and the name that it holds them by."""


def import_by_path(path: str) -> Any:
    """Return what Django's ``import_string`` does, and sooner for a task that was found before."""
    if (place := _modules.get(path)) is not None:
        module_name, module, name = place
        if sys.modules.get(module_name) is module and name in module.__dict__:
            return module.__dict__[name]
    found = import_string(path)
    module_name, _, name = path.rpartition(".")
    spec = getattr(sys.modules.get(module_name), "__spec__", None)
    # Another thread must not find a task whose module is still being imported by this one.
    if isinstance(found, Task) and not getattr(spec, "_initializing", True):
        _modules[path] = module_name, sys.modules[module_name], name
    return found


def imported_tasks(backend: str) -> list[Any]:
    """Return the tasks of a backend that modules hold which are imported by now, in the order of their paths."""
    found = {}
    for module in list(sys.modules.values()):
        if not issubclass(type(module), ModuleType):
            continue
        # Lazy modules are imported, and lazy objects made, by a usual look at one of their attributes.
        for value in list(object.__getattribute__(module, "__dict__").values()):
            if issubclass(type(value), Task) and value.backend == backend:
                found[value.module_path] = value
    return [found[path] for path in sorted(found)]


def check_importable(task: Any) -> Any:
    """Return the task that a worker will find at the dotted path of this one. Raises ``InvalidTask``."""
    path = task.module_path
    if task.func.__module__ == "__main__":
        raise InvalidTask(
            f"{path} cannot be imported by a worker, which has a __main__ of its own. Define the task in a module."
        )
    found = getattr(sys.modules.get(task.func.__module__), task.func.__qualname__, None)
    if not isinstance(found, Task):
        found = find_task(path)
    if found is None or found.func is not task.func:
        raise InvalidTask(
            f"A worker would not find the task by its path: {path} is {_kind_of(path)}. Decorate the function where it "
            "is defined, @task above all other decorators, and enqueue what the module holds."
        )
    return found


def _kind_of(path: str) -> str:
    try:
        return repr(import_string(path))[:200]
    except ImportError:
        return "not there"


def changed(task: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of a task with other values, past all validation.

    A result is readable although its queue or its backend is no longer in settings.
    """
    copy = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(copy, field.name, changes.get(field.name, getattr(task, field.name)))
    return copy


def missing_task(path: str, values: Mapping[str, Any]) -> ChannelTask:
    """Return a task that stands for one whose function is gone: its ``func`` raises, and so does ``enqueue``."""
    module, _, name = path.rpartition(".")

    def gone(*args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"There is no task at {path!r}.")

    function = FunctionType(gone.__code__, globals(), name, None, gone.__closure__)
    function.__module__, function.__qualname__ = module or "?", name
    function.__dict__["is_stand_in"] = True
    stand_in = object.__new__(ChannelTask)
    defaults = {
        "priority": 0,
        "run_after": None,
        "takes_context": False,
        "then": None,
        **dict.fromkeys(OPTION_NAMES),
    }
    for key, value in {**defaults, **values, "func": function}.items():
        object.__setattr__(stand_in, key, value)
    return stand_in


def is_stand_in(task: Any) -> bool:
    """Tell whether ``missing_task`` has made the task."""
    return hasattr(task.func, "is_stand_in")
