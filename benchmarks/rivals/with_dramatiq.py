"""dramatiq on Valkey, with the middleware it comes with but for the metrics server."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from .tally import count_one

broker = RedisBroker(url=os.environ["BENCHMARKS_VALKEY"])
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.send(n)
