"""How long an email takes from ``send_mail()`` to the server's acceptance when nothing else is going on."""

from __future__ import annotations

import os
import random
import time

from django.core.mail import send_mail

from ..figures import Plan, Ratio, Result, Series, Target, percentile
from ..latency import SPACING, insert, waits
from ..processes import running, runworker
from ..sink import accepted, sink
from .watching import COUNTER, empty

SENDS = 200
MOST_MORE = 30.0
"""Milliseconds more than the baseline."""
POLL_INTERVAL_S = 0.0005
TIMEOUT_S = 60.0
SHARES = {"p50": 0.5, "p99": 0.99}


def run(plan: Plan) -> Result:
    count = plan.size(SENDS)
    ours = {name: Series(f"send_mail() to acceptance, {name}", "ms") for name in SHARES}
    baseline = {name: Series(f"bare LISTEN/NOTIFY, {name}", "ms") for name in SHARES}
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        for number in range(plan.rounds):
            empty()
            found = to_acceptance(count)
            bare = waits(number, count, ("benchmarks.poller",), insert)
            for name, share in SHARES.items():
                ours[name].values.append(percentile(found, share))
                baseline[name].values.append(percentile(bare, share))
    found_p99, most = ours["p99"].median, baseline["p99"].median + MOST_MORE
    return Result(
        f"Mail: idle, from send_mail() to the server's acceptance, {count} emails",
        f"One email every {SPACING * 1000:.0f} ms, give or take 40 %; from just before send_mail() to the moment at "
        "which the server has counted it, looked at every half millisecond. The baseline is an insert with a "
        "NOTIFY, and a bare loop in another process that LISTENs and selects the row.",
        [*ours.values(), *baseline.values()],
        [Ratio.of(ours[name], baseline[name]) for name in SHARES],
        [
            Target(
                f"p99 <= that of bare LISTEN/NOTIFY + {MOST_MORE:.0f} ms",
                f"{found_p99:.1f} of {most:.1f} ms",
                found_p99 <= most,
            )
        ],
    )


def to_acceptance(count: int) -> list[float]:
    """Milliseconds of each; the first one, which waits for the worker to start, is not counted."""
    with running(*runworker("mailrail.mail")):
        return [_one() for _ in range(count + 1)][1:]


def _one() -> float:
    before, begun = accepted(COUNTER), time.monotonic()
    send_mail("Hello", "Text", "plants@example.com", ["guest@example.com"])
    while accepted(COUNTER) == before:
        if time.monotonic() > begun + TIMEOUT_S:
            raise RuntimeError("The email did not come.")
        time.sleep(POLL_INTERVAL_S)
    took = time.monotonic() - begun
    time.sleep(SPACING * random.uniform(0.6, 1.4))
    return took * 1000
