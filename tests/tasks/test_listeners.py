"""Signals that nobody notices cost nothing, and nobody who listens misses one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mailrail import testing
from mailrail.tasks import ChannelBackend
from mailrail.tasks.compat import signals, task_enqueued, task_finished, task_started
from mailrail.tasks.listeners import is_heard

from . import defined

LEVELS = [(task_enqueued, logging.DEBUG), (task_started, logging.INFO), (task_finished, logging.INFO)]
LOG: logging.Logger = signals.logger
TASKS = [defined.do, defined.do_async, defined.send_alone, defined.send_alone_async]


@pytest.fixture
def set_level() -> Iterator[Callable[[int], None]]:
    """Set the level of Django's log of tasks, until the end of the test."""
    usual = LOG.level
    yield LOG.setLevel
    LOG.setLevel(usual)


@pytest.fixture
def told() -> Iterator[list[tuple[Any, str]]]:
    """What a receiver of the project is told: signals, and the statuses of the results."""
    found: list[tuple[Any, str]] = []

    def note(*, signal: Any, task_result: Any, **facts: Any) -> None:
        found.append((signal, str(task_result.status)))

    for signal, _ in LEVELS:
        signal.connect(note, sender=ChannelBackend)
    yield found
    for signal, _ in LEVELS:
        signal.disconnect(note, sender=ChannelBackend)


@pytest.mark.parametrize(("signal", "level"), LEVELS)
def test_djangos_own_receiver_hears_a_signal_if_its_log_has_the_level(
    signal: Any, level: int, set_level: Callable[[int], None]
) -> None:
    set_level(level)
    assert is_heard(signal)
    set_level(level + 1)
    assert not is_heard(signal)


@pytest.mark.parametrize(("signal", "level"), LEVELS)
def test_a_receiver_of_the_project_hears_a_signal_whatever_the_level(
    signal: Any, level: int, set_level: Callable[[int], None], told: list[Any]
) -> None:
    set_level(level + 1)
    assert is_heard(signal)


@pytest.mark.django_db
@pytest.mark.parametrize("task", TASKS)
def test_receivers_are_told_of_tasks_that_djangos_log_leaves_out(
    task: Any, set_level: Callable[[int], None], told: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    set_level(logging.WARNING)
    task.enqueue("nothing")
    testing.drain()
    states = [(task_enqueued, "READY"), (task_started, "RUNNING"), (task_finished, "SUCCESSFUL")]
    assert told == states
    assert not [record for record in caplog.records if record.name == LOG.name]


@pytest.mark.django_db
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_djangos_log_has_what_its_level_lets_pass(
    level: int, task: Any, set_level: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    set_level(level)
    task.enqueue("nothing")
    task.enqueue("raise")
    testing.drain(raise_errors=False)
    levels = [record.levelno for record in caplog.records if record.name == LOG.name]
    of_each = [logging.DEBUG, logging.INFO, logging.INFO, logging.DEBUG, logging.INFO, logging.ERROR]
    assert sorted(levels) == sorted(each for each in of_each if each >= level)
