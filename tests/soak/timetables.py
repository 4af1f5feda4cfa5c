"""Compare when cron expressions are due with what a clock shows, at random, wherever clocks are changed."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import cache
from importlib.resources import files
from random import Random

import tzdata

from mailrail.schedule.times import Cron
from mailrail.schedule.zones import load_zone

from ..schedule import clocks

ZONES = files(tzdata).joinpath("zones").read_text().split()


@cache
def changes(name: str) -> list[clocks.Change]:
    return list(clocks.changes(load_zone(name)))


def field(chance: Random, low: int, high: int) -> str:
    """A field that matches often enough: everything, steps, a range, or a list."""
    start, end = sorted((chance.randint(low, high), chance.randint(low, high)))
    numbers = sorted({chance.randint(low, high) for _ in range(chance.randint(1, 12))})
    return chance.choice(["*", f"*/{chance.randint(1, 12)}", f"{start}-{end}", ",".join(map(str, numbers))])


def difference(seed: int, seconds: float) -> str:
    """Compare for so long, and return the first difference, or nothing."""
    chance, end = Random(seed), time.monotonic() + seconds
    compared = 0
    while time.monotonic() < end:
        name = chance.choice(ZONES)
        for change in changes(name):
            expression = (
                f"{field(chance, 0, 59)} {field(chance, 0, 23)} * * {chance.choice(['*', '*', '0-3'])}"
            )
            begin = change.at - change.margin + timedelta(minutes=chance.randint(0, 60))
            until = change.at + change.margin
            found = list(Cron(expression, name).ticks(begin, until))
            if found != (due := clocks.due(expression, load_zone(name), begin, until)):
                return f"{expression!r} in {name} after {begin}: {found} and not {due}"
            compared += 1
    print(f"cron expressions: {compared:,} compared with clocks that are changed")
    return ""
