"""Show samples one after the other, to people and to programs: ``manage.py channels --watch``."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from django.core.management.base import OutputWrapper

from .sampler import latest_aside
from .screen import Screen
from .text import Paint, facts_of, lines_of

INTERVAL_S = 1.0


def watch(out: OutputWrapper, alias: str | None, paint: Paint) -> None:
    """Redraw the samples of a layer on a terminal, until somebody interrupts (Ctrl-C)."""
    screen = Screen(out)
    try:
        with suppress(KeyboardInterrupt), screen.opened():
            while True:
                _show(screen, alias, paint)
    finally:
        screen.close()


def _show(screen: Screen, alias: str | None, paint: Paint) -> None:
    """Draw one sample, and again whenever the terminal changes before the next one is due."""
    sample = latest_aside(alias)
    due = time.monotonic() + INTERVAL_S
    while (left := due - time.monotonic()) > 0:
        columns, rows = screen.size
        # In the last column the cursor stays upon what it has written, and clearing would take that away.
        screen.draw(lines_of(sample, columns - 1, rows, paint))
        screen.wait(left)


def stream(out: OutputWrapper, alias: str | None) -> None:
    """Print the samples of a layer, each as JSON on a line of its own, until somebody interrupts."""
    with suppress(KeyboardInterrupt):
        while True:
            out.write(json.dumps(facts_of(latest_aside(alias))))
            out.flush()
            time.sleep(INTERVAL_S)
