"""How fast the admin's pages are on PostgreSQL, at 1,000,000 rows, beside Django's own change list.

The pages are asked for in a process of their own: they need apps that no other benchmark has (``admin_pages.py``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from .figures import Plan, Ratio, Result, Series, Target
from .processes import ROOT

ROWS = 1_000_000
MOST = 300.0
UNIT = "ms"
BASELINE = "Django's change list, first page"


def run(plan: Plan) -> Result:
    """Of queued email."""
    return measure(plan, "emails", "mailq and a chunk of prunemail likewise, without a page")


def measure(plan: Plan, what: str, more: str = "") -> Result:
    """The pages of one kind of records. ``more``: what else is measured."""
    count = plan.size(ROWS)
    measured = subprocess.run(
        [sys.executable, "-m", "benchmarks.admin_pages", what, str(count), str(plan.rounds)],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "benchmarks.admin_settings"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, list[float]] = json.loads(measured.stdout)
    series = {name: Series(name, UNIT, values) for name, values in figures.items()}
    baseline = series.pop(BASELINE)
    pages = list(series.values())
    slowest = max(pages, key=lambda each: each.median)
    return Result(
        f"The admin at {count:,} {what}",
        "The median of 5 requests by Django's test client, template and all, for each round, after one to warm up"
        f"{f'; {more}' if more else ''}. The baseline is a plain ModelAdmin on this table, with like columns, search "
        "and filters.",
        [*pages, baseline],
        [Ratio.of(series["first page"], baseline)],
        [
            Target(
                f"every page <= {MOST:.0f} ms",
                f"{slowest.median:.0f} ms: {slowest.name}",
                slowest.median <= MOST,
            )
        ],
    )
