"""Redraw text in place on a terminal, without flicker, and leave the terminal as it was.

The sequences are those of ECMA-48 and of xterm, which terminals of today have in common ("XTerm Control Sequences").
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from django.core.management.base import OutputWrapper

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""Use the alternate screen, hide the cursor, and cut long lines off rather than wrap them."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_TO_END_OF_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
FATAL_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def is_terminal(out: Any) -> bool:
    """Return whether text can be redrawn there. ``TERM=dumb`` is what editors say that show no sequences."""
    return bool(out.isatty()) and os.environ.get("TERM") not in (None, "", "dumb")


class Screen:
    """Draw frames on a terminal, and wait between them until the next one is due or the terminal has changed."""

    def __init__(self, out: OutputWrapper) -> None:
        self._out: Any = out
        self._signalled, self._signal_end = os.pipe()

    @property
    def size(self) -> tuple[int, int]:
        """Return the columns and lines of the terminal as they are now."""
        try:
            columns, lines = os.get_terminal_size(self._out.fileno())
        except OSError:
            columns, lines = 80, 24
        return columns or 80, lines or 24  # some terminals over a serial line say zero

    def draw(self, lines: Sequence[str]) -> None:
        """Draw a frame over the last one. It is written at once, and nothing is cleared before, so nothing flickers."""
        rows = self.size[1]
        text = "\n".join(line + CLEAR_TO_END_OF_LINE for line in lines[:rows])
        self._write(HOME + text + CLEAR_BELOW)

    def wait(self, seconds: float) -> None:
        """Return after some seconds, or when the terminal has another size or is back after ``SIGTSTP``."""
        readable, _, _ = select.select([self._signalled], [], [], seconds)
        if readable:
            os.read(self._signalled, 1024)

    @contextmanager
    def opened(self) -> Iterator[Screen]:
        """Use the alternate screen in the block. Whatever ends the block, the terminal is as before."""
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGWINCH: lambda number, frame: None,
            signal.SIGTSTP: lambda number, frame: self._stop(),
            **dict.fromkeys(FATAL_SIGNALS, _exit),
        }
        with _handled(handlers, self._signal_end):
            try:
                self._write(ENTER)
                yield self
            finally:
                with suppress(OSError, ValueError):  # the terminal is gone
                    self._write(LEAVE)

    def close(self) -> None:
        """Close what ``wait`` waits on."""
        os.close(self._signalled)
        os.close(self._signal_end)

    def _stop(self) -> None:
        """Leave the terminal to the shell while this process is stopped (Ctrl-Z)."""
        self._write(LEAVE)
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self._write(ENTER)

    def _write(self, text: str) -> None:
        self._out.write(text, ending="")
        self._out.flush()


def _exit(number: int, frame: FrameType | None) -> None:
    """End with the code that shells report for the signal, by way of what restores the terminal."""
    sys.exit(128 + number)


@contextmanager
def _handled(
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]], wakeup: int
) -> Iterator[None]:
    """Handle these signals in the block, and write each signal into ``wakeup``, so that ``select`` returns."""
    os.set_blocking(wakeup, False)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    descriptor = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
