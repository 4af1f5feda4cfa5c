"""A backlog of emails to a server that is near and fast."""

from __future__ import annotations

import os

from ..figures import Plan, Ratio, Result, Series, Target
from ..sink import sink
from .peers import CELERY, POST_OFFICE, rate_of, rate_of_bare
from .watching import COUNTER, UNIT, of_the_queue

EMAILS = 10_000
OF_PEERS = 2_000
BARE = "no queue: 2 processes, pipelined, each email built by Django"
TIMES = {POST_OFFICE.name: 7.0, CELERY.name: 20.0, BARE: 2.0}
"""How many times as fast as these we want to be."""


def run(plan: Plan) -> Result:
    ours = Series("ours, 2 processes", UNIT)
    peers = {peer: Series(peer.name, UNIT) for peer in (POST_OFFICE, CELERY)}
    bare = Series(BARE, UNIT)
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        for _ in range(plan.rounds):
            ours.values.append(of_the_queue(plan.size(EMAILS)))
            bare.values.append(rate_of_bare(plan.size(EMAILS)))
            for peer, series in peers.items():
                series.values.append(rate_of(peer, plan.size(OF_PEERS)))
    ratios = [Ratio.of(ours, series) for series in (*peers.values(), bare)]
    return Result(
        f"Mail: a backlog of {plan.size(EMAILS):,} text emails, one recipient each",
        "From the first emails that `smtp-sink` accepts to the last; afterwards every record has to say so, and none "
        f"came twice. The queues of others do {plan.size(OF_PEERS):,}. post_office neither loads nor saves the "
        "invitation; Celery's task loads the row, builds the email, sends it by Django's backend and saves.",
        [ours, *peers.values(), bare],
        ratios,
        [
            Target(f">= {times:g} x {name}", f"{ratio.value:.1f} x", ratio.value >= times)
            for ratio, (name, times) in zip(ratios, TIMES.items(), strict=True)
        ],
    )
