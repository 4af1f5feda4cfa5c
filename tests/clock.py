"""Django's command line in a process whose clocks are wrong, by what a file says at any moment.

``python -m tests.clock FILE runworker …``: what a jump of the clock, or a sleep of the machine, does to one process.
(libfaketime does the same to C code, but makes ``time.sleep`` fail after a jump backwards.)
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clocks:
    """What is wrong, told to the processes through a file."""

    path: Path

    def set(self, wall: float = 0.0, slept: float = 0.0) -> None:
        """Seconds that the wall clock is ahead, and that the machine has slept: CLOCK_BOOTTIME counts those."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{wall} {slept}")
        new.rename(self.path)

    def read(self) -> tuple[float, float]:
        wall, slept = self.path.read_text().split()
        return float(wall), float(slept)

    @property
    def command(self) -> tuple[str, ...]:
        """How to start such a process."""
        return (sys.executable, "-m", "tests.clock", str(self.path))

    def install(self) -> None:
        """From here on this process believes the file. The monotonic clock is right: it is by definition."""
        usual_time, usual_gettime = time.time, time.clock_gettime

        def clock_gettime(clock: int) -> float:
            wall, slept = self.read()
            wrong = {time.CLOCK_REALTIME: wall, time.CLOCK_BOOTTIME: slept}
            return usual_gettime(clock) + wrong.get(clock, 0.0)

        time.time = lambda: usual_time() + self.read()[0]
        time.time_ns = lambda: int(time.time() * 1e9)
        time.clock_gettime = clock_gettime


if __name__ == "__main__":
    Clocks(Path(sys.argv.pop(1))).install()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
