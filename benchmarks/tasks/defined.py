"""The tasks that workers under measurement run: they cost nothing, but for a byte that says that they ran."""

from __future__ import annotations

import os

from django.tasks import signals

from mailrail.tasks import enqueue_many, task

from ..rivals.tally import count_one

if "BENCHMARKS_SILENT" in os.environ:  # Django's own receivers, which write to its log
    signals.task_started.disconnect(signals.log_task_started)
    signals.task_finished.disconnect(signals.log_task_finished)


@task
def noop(n: int) -> None:
    count_one()


@task(results=False)  # type: ignore[untyped-decorator]
def noop_without_result(n: int) -> None:
    count_one()


def fill(count: int, without_results: bool = False) -> None:
    enqueue_many(noop_without_result if without_results else noop, [((n,), {}) for n in range(count)])
