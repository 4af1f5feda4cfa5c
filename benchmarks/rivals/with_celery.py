"""Celery on Valkey: early acknowledgement and no results, as it comes."""

from __future__ import annotations

import os

from celery import Celery

from .tally import count_one

app = Celery("rival", broker=os.environ["BENCHMARKS_VALKEY"])
app.conf.update(
    task_ignore_result=True, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False
)


@app.task
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.delay(n)
