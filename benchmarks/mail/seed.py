"""The seed's consumer, which sends one email and knows of no mail queue, beside other task queues."""

from __future__ import annotations

import os
from statistics import median

from ..figures import Plan, Ratio, Result, Series, Target
from ..sink import sink
from .peers import CELERY, DRAMATIQ, HUEY, rate_of
from .watching import COUNTER, UNIT, of_the_consumer

EMAILS = 3_000
OF_PEERS = 2_000
TIMES = 2.0


def run(plan: Plan) -> Result:
    ours = Series("ours, 2 processes, by mailrail.mail.smtp.EmailBackend", UNIT)
    peers = {peer: Series(peer.name, UNIT) for peer in (HUEY, CELERY, DRAMATIQ)}
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        for _ in range(plan.rounds):
            ours.values.append(of_the_consumer(plan.size(EMAILS)))
            for peer, series in peers.items():
                series.values.append(rate_of(peer, plan.size(OF_PEERS)))
    best = max(peers.values(), key=lambda series: median(series.values))
    ratio = Ratio.of(ours, best)
    return Result(
        "Mail: a consumer that loads the row, builds one email, send(), saves",
        f"From the first emails that `smtp-sink` accepts to the last; {plan.size(EMAILS):,} by ours, "
        f"{plan.size(OF_PEERS):,} by each other queue. The others send by Django's own backend.",
        [ours, *peers.values()],
        [Ratio.of(ours, series) for series in peers.values()],
        [Target(f">= {TIMES:g} x the best, {best.name}", f"{ratio.value:.1f} x", ratio.value >= TIMES)],
    )
