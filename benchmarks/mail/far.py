"""A backlog of emails to a relay that is far away."""

from __future__ import annotations

import os
from statistics import median

from ..figures import Plan, Ratio, Result, Series, Target
from ..sink import relay
from .peers import CELERY_THREADS, POST_OFFICE, SAQ, rate_of
from .watching import COUNTER, UNIT, of_the_queue

EMAILS = 5_000
OF_PEERS = 1_000
ONE_BY_ONE = 2_000
FAR = 0.02
"""Seconds until the relay answers a write."""
TIMES = 3.0
GAIN = 1.6


def run(plan: Plan) -> Result:
    ours = Series("ours, 2 processes of 20 connections, the defaults", UNIT)
    one_by_one = Series("ours, no PIPELINING", UNIT)
    peers = {peer: Series(peer.name, UNIT) for peer in (POST_OFFICE, SAQ, CELERY_THREADS)}
    for _ in range(plan.rounds):
        with relay(FAR, pipelining=True, counter=COUNTER) as port:
            os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
            ours.values.append(of_the_queue(plan.size(EMAILS)))
            for peer, series in peers.items():
                series.values.append(rate_of(peer, plan.size(OF_PEERS)))
        with relay(FAR, pipelining=False, counter=COUNTER) as port:
            os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
            one_by_one.values.append(of_the_queue(plan.size(ONE_BY_ONE)))
    best = max(peers.values(), key=lambda series: median(series.values))
    ratio, gain = Ratio.of(ours, best), Ratio.of(ours, one_by_one)
    return Result(
        f"Mail: a relay that takes 20 ms to answer a write, {plan.size(EMAILS):,} emails",
        "From the first emails that the relay accepts to the last. The queues of others do "
        f"{plan.size(OF_PEERS):,}, ours without PIPELINING {plan.size(ONE_BY_ONE):,}.",
        [ours, one_by_one, *peers.values()],
        [*(Ratio.of(ours, series) for series in peers.values()), gain],
        [
            Target(
                f">= {TIMES:g} x the best of the others, {best.name}",
                f"{ratio.value:.1f} x",
                ratio.value >= TIMES,
            ),
            Target(
                f">= {GAIN} x without PIPELINING, 20 connections",
                f"{gain.value:.2f} x",
                gain.value >= GAIN,
            ),
        ],
    )
