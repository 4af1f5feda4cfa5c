"""Register what apps know of the flow of mail and of long work: functions that yield facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from .facts import FlowFacts, OperationFacts, WorkFacts

Flows: TypeAlias = Callable[[], Iterable[FlowFacts]]
"""Yields the facts of each mailer. It counts a bounded number of emails, as somebody may ask every second."""
Work: TypeAlias = Callable[[], Iterable[WorkFacts]]
"""Yields the long work that is not done, likewise."""

Operations: TypeAlias = Callable[[], Iterable[OperationFacts]]
"""Yields the operations that are open, and those that have ended lately, likewise."""

_flows: list[Flows] = []
_work: list[Work] = []
_operations: list[Operations] = []


def register_flows(flows: Flows) -> Flows:
    """Add the flows of an app's mailers to each sample; used as a decorator, in ``AppConfig.ready``.

    A database error or Mailrail error that the function raises becomes a problem of the sample's health.
    """
    if flows not in _flows:
        _flows.append(flows)
    return flows


def register_work(work: Work) -> Work:
    """Add an app's long work to each sample, as ``register_flows``."""
    if work not in _work:
        _work.append(work)
    return work


def registered_flows() -> tuple[Flows, ...]:
    """Return the functions that yield flows."""
    return tuple(_flows)


def register_operations(operations: Operations) -> Operations:
    """Add what people have asked for to each sample, as ``register_flows``."""
    if operations not in _operations:
        _operations.append(operations)
    return operations


def registered_operations() -> tuple[Operations, ...]:
    """Return the functions that yield operations."""
    return tuple(_operations)


def registered_work() -> tuple[Work, ...]:
    """Return the functions that yield long work."""
    return tuple(_work)
