"""Tasks with steps, for tests.

Their steps are in functions that get the context, where system checks do not see them: these look at all tasks that are
imported, whatever layer a test has.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group

from mailrail.tasks import ChannelContext, task

body: Callable[..., Any] = print
"""What the tasks below do; a test sets it."""

STEPS = 20


@task(takes_context=True, attempts=3, backoff=0)
def run(context: ChannelContext, *args: Any) -> Any:
    return body(context, *args)


@task(takes_context=True, attempts=3, backoff=0)
async def run_async(context: ChannelContext, *args: Any) -> Any:
    return await body(context, *args)


@task(takes_context=True, timeout=3.0, attempts=2)
def outlive_the_limit(context: ChannelContext, gate: str) -> list[int]:
    """Hang behind a step in the first attempt."""
    return _outlive_the_limit(context, gate)


def _outlive_the_limit(context: ChannelContext, gate: str) -> list[int]:
    first: int = context.step("first", lambda: context.attempt)
    while context.attempt == 1 and not Path(gate).exists():
        time.sleep(0.01)
    return [first, context.attempt]


@task(takes_context=True, timeout=0.5)
def hang_in_an_atomic_step(context: ChannelContext, gate: str, using: str) -> None:
    _hang_in_an_atomic_step(context, gate, using)


def _hang_in_an_atomic_step(context: ChannelContext, gate: str, using: str) -> None:
    context.step("hangs", _write_and_hang, gate, using, atomic=True)


@task(takes_context=True, timeout=0.5)
async def hang_in_an_atomic_step_of_a_coroutine(context: ChannelContext, gate: str, using: str) -> None:
    await _hang_in_an_atomic_step_of_a_coroutine(context, gate, using)


async def _hang_in_an_atomic_step_of_a_coroutine(context: ChannelContext, gate: str, using: str) -> None:
    await context.astep("hangs", _write_and_hang, gate, using, atomic=True)


def _write_and_hang(gate: str, using: str) -> None:
    Group.objects.using(using).create(name="hung")
    while not Path(gate).exists():
        time.sleep(0.01)


@task(takes_context=True)
def die_between_steps(context: ChannelContext, seed: int, using: str, may_be_atomic: bool) -> int:
    """Add up what twenty steps return. The first two attempts are killed in one of the steps."""
    return _die_between_steps(context, seed, using, may_be_atomic)


def _die_between_steps(context: ChannelContext, seed: int, using: str, may_be_atomic: bool) -> int:
    total = 0
    for number in range(STEPS):
        is_atomic = may_be_atomic and number % 2 == 0
        effect = _row if is_atomic else _line
        total += context.step(
            f"step-{number}", _do_and_die, context, seed, number, effect, using, atomic=is_atomic
        )
    return total


def _do_and_die(
    context: ChannelContext, seed: int, number: int, effect: Callable[..., None], using: str
) -> int:
    effect(context.task_result.id, number, using)
    if number == dies_in(seed, context.attempt):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_in(seed: int, attempt: int) -> int | None:
    """Return the step in which an attempt is killed, between what it does and its record."""
    return random.Random(f"{seed} {attempt}").randrange(STEPS) if attempt <= 2 else None


def _row(id: str, number: int, using: str) -> None:
    Group.objects.using(using).create(name=f"{id} {number} {os.urandom(8).hex()}")


def _line(id: str, number: int, using: str) -> None:
    with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
        ledger.write(f"step-{number} {id} 0 0 {os.getpid()}\n")
