"""How many tasks have run, in all processes: the size of a file that each of them adds a byte to."""

from __future__ import annotations

import os

_file = -1


def count_one() -> None:
    """One write, about a microsecond."""
    global _file
    if _file < 0:
        _file = os.open(os.environ["BENCHMARKS_TALLY"], os.O_WRONLY | os.O_APPEND)
    os.write(_file, b".")
