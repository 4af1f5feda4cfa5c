"""Entries of the schedule, for workers of tests that ask for ticks: every so many seconds, by the environment."""

from __future__ import annotations

import os

if pace := os.environ.get("MAILRAIL_TEST_TICKS"):
    from mailrail.schedule import periodic
    from mailrail.schedule.times import Every

    from ..tasks.defined import note
    from .consumers import ledger

    # every() asks for 10 seconds at least.
    periodic(Every(float(pace)), missed="all", overlap="allow", name="task")(note)
    periodic(Every(float(pace)), missed="all", overlap="allow", name="message", channel="ledger")(ledger)
