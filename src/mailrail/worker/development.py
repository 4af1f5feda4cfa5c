"""The worker inside ``runserver``: a child process, or a thread where messages live in this process."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from typing import Any

from ..errors import InvalidSettings
from ..layers import get_layer
from ..routing import Routing
from .worker import Worker

GRACE = 2.0
"""Seconds a consumer gets to end when the server stops or reloads; then its message is released."""
RELEASE = 7.0
"""Seconds to release it; the supervisor itself kills workers that cannot after 5."""


class DevelopmentWorker:
    """A context: the worker runs while the server does. Problems are said, and leave the server alone."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DevelopmentWorker:
        try:
            layer, routing = get_layer(), Routing.of_layer()
        except InvalidSettings as error:
            self._say(f"No worker: {error}")
            return self
        if not routing.plans and not routing.patterns:
            self._say(
                'No worker: no channel is routed. @consumer("name") in an app\'s consumers.py routes one.'
            )
            return self
        if layer.is_shared:
            self._start_process()
        else:
            if names := routing.with_isolate:
                self._say(
                    f"isolate=True has no effect on {', '.join(names)}: the in-memory layer has no other process. "
                    "Use the database layer (leave CHANNEL_LAYERS out) to try it."
                )
            self._worker = Worker(layer, routing)
            self._thread = threading.Thread(target=self._worker.run, name="mailrail-worker", daemon=True)
            self._thread.start()
        # The autoreloader ends its process by sys.exit() in the main thread, while the server runs in another.
        atexit.register(self.stop)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start_process(self) -> None:
        self._process = subprocess.Popen(
            # -P: the current directory comes first only if it does so here
            [sys.executable, "-P", "-m", "django", "runworker", "--skip-checks", "-v2", "--lifeline", "0"],
            env=_environment(),
            stdin=subprocess.PIPE,  # however this process ends, the pipe ends with it
        )

    def stop(self) -> None:
        """Stop the worker: what it cannot finish shortly is released."""
        atexit.unregister(self.stop)
        if self._worker is not None and self._thread is not None:
            self._worker.stop(GRACE)
            self._thread.join(GRACE + 1)
        if self._process is not None:
            _stop_process(self._process)


def _environment() -> dict[str, str]:
    """Ours, with what can be imported here: manage.py, --pythonpath and the like may have added to it.

    Python's own directories stay out: they would break another Python that a consumer starts.
    """
    own = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    path = os.pathsep.join(entry for entry in sys.path if entry and not entry.startswith(own))
    # RUN_MAIN: what apps start in the process that serves (schedulers, debuggers) must not start twice.
    return {name: value for name, value in os.environ.items() if name != "RUN_MAIN"} | {"PYTHONPATH": path}


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    for number, timeout in ((signal.SIGTERM, GRACE), (signal.SIGTERM, RELEASE), (signal.SIGKILL, GRACE)):
        process.send_signal(number)  # nothing happens if it has ended
        try:
            process.wait(timeout)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.stdin is not None
    process.stdin.close()
