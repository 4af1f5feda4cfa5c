"""A backlog of emails to a relay that is far away."""

from __future__ import annotations

import os
from statistics import median

from ..figures import Plan, Ratio, Result, Series, Target
from ..sink import relay
from .peers import CELERY_THREADS, POST_OFFICE, SAQ, rate_of
from .watching import COUNTER, UNIT, of_the_queue

TIMES = {500: 3.2, 5_000: 5.0}
"""How many times as fast as the best of the others we want to be, by the number of emails."""
OF_PEERS = 1_000
ONE_BY_ONE = 2_000
FAR = 0.02
"""Seconds until the relay answers a write."""
GAIN = 1.6


def run(plan: Plan) -> Result:
    ours = {
        count: Series(f"ours, 2 processes of 20 connections, {plan.size(count):,}", UNIT) for count in TIMES
    }
    one_by_one = Series("ours, no PIPELINING", UNIT)
    peers = {peer: Series(peer.name, UNIT) for peer in (POST_OFFICE, SAQ, CELERY_THREADS)}
    for _ in range(plan.rounds):
        with relay(FAR, pipelining=True, counter=COUNTER) as port:
            os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
            for count, series in ours.items():
                series.values.append(of_the_queue(plan.size(count)))
            for peer, series in peers.items():
                series.values.append(rate_of(peer, plan.size(OF_PEERS)))
        with relay(FAR, pipelining=False, counter=COUNTER) as port:
            os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
            one_by_one.values.append(of_the_queue(plan.size(ONE_BY_ONE)))
    best = max(peers.values(), key=lambda series: median(series.values))
    ratios = {count: Ratio.of(series, best) for count, series in ours.items()}
    most = ours[max(TIMES)]
    gain = Ratio.of(most, one_by_one)
    return Result(
        "Mail: a relay that takes 20 ms to answer a write",
        "From the first emails that the relay accepts to the last. The queues of others do "
        f"{plan.size(OF_PEERS):,}, ours without PIPELINING {plan.size(ONE_BY_ONE):,}.",
        [*ours.values(), one_by_one, *peers.values()],
        [*(Ratio.of(most, series) for series in peers.values()), ratios[min(TIMES)], gain],
        [
            *(
                Target(
                    f"{plan.size(count):,} emails: >= {times:g} x the best of the others, {best.name}",
                    f"{ratios[count].value:.1f} x",
                    ratios[count].value >= times,
                )
                for count, times in TIMES.items()
            ),
            Target(
                f">= {GAIN} x without PIPELINING, 20 connections",
                f"{gain.value:.2f} x",
                gain.value >= GAIN,
            ),
        ],
    )
