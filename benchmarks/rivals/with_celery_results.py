"""Celery on Valkey, with its results there, too."""

from __future__ import annotations

import os

from celery import Celery

from .tally import count_one

_url = os.environ["BENCHMARKS_VALKEY"]
app = Celery("rival", broker=_url, backend=_url)
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)


@app.task
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.delay(n)
