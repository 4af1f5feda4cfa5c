"""The worker inside ``runserver``: a child process, or a thread where messages live in this process."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..errors import InvalidSettings
from ..layers import get_layer
from ..routing import Routing
from .worker import Worker

GRACE = 2.0
"""Seconds a consumer gets to end when the server stops or reloads; then its message is released."""


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
        if not routing.plans:
            return self  # nothing to consume
        if layer.is_shared:
            self._start_process()
        else:
            self._worker = Worker(layer, routing)
            self._thread = threading.Thread(target=self._worker.run, name="mailrail-worker", daemon=True)
            self._thread.start()
        # The autoreloader ends its process by sys.exit() in the main thread, while the server runs in another.
        atexit.register(self.stop)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start_process(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "django", "runworker", "--skip-checks", "-v2", "--lifeline", "0"],
            env=environment,
            stdin=subprocess.PIPE,  # however this process ends, the pipe ends with it
        )

    def stop(self) -> None:
        """Stop the worker: what it cannot finish shortly is released."""
        atexit.unregister(self.stop)
        if self._worker is not None and self._thread is not None:
            self._worker.stop(GRACE)
            self._thread.join(GRACE + 1)
        if self._process is not None and self._process.poll() is None:
            _stop_process(self._process)


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(GRACE)
            return
        except subprocess.TimeoutExpired:
            continue
