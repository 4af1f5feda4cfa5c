"""A worker process: what it is to do, its life, and its link to the supervisor that has forked it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import django
from django.apps import apps

from ..layers import DurableLayer, get_layer
from ..routing import Routing
from ..selection import Selection
from ..terminal import counted
from ..transient import OUTAGES
from .connections import close_connections, prepare_process
from .isolated import Assignments, IsolatedRuns, Request
from .log import logger
from .presence import end_leases_of
from .recycling import RecyclingLimits
from .reload import AT_ONCE, SIGNALS, Invocation, Origin
from .worker import Worker, new_worker_id

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

DONE = 74
"""Exit code of a worker that has done what it was to do. Not 0: with that, code of a consumer may end the process."""
RECYCLED = 75
"""Exit code of a worker that has stopped by itself, to be replaced."""

START_METHOD = "fork" if sys.platform == "linux" else "spawn"


@dataclass(frozen=True)
class Job:
    """What the workers of one ``runworker`` are to do."""

    layer: str | None = None
    channels: Selection = field(default_factory=Selection)
    threads: int | None = None
    processes: int = 1
    worker_id: str = field(default_factory=new_worker_id)
    drain: bool = False
    max_messages: int | None = None  # of one process; then it is replaced
    max_memory: int | None = None  # bytes, likewise
    lifeline: int | None = None  # a file descriptor; its end means: stop
    isolate: bool = False  # all messages but those of batches
    invocation: Invocation | None = None  # how to start it again at SIGHUP; None: stop instead
    origin: Origin | None = None  # of a successor: the first process
    presence: str | None = None  # see Presence.name


def child_main(
    job: Job,
    name: str,
    link: Connection,
    inherited: Sequence[Any],
    request: Request | None,
    still_run: Collection[UUID] | None,
) -> None:
    """The life of a worker process; with ``request``, of one that runs this claim.

    ``still_run``, if a worker of this name has died: what processes of their own still run for it.
    """
    for other in inherited:  # so that the end of the supervisor closes the link for good
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to us, too; the supervisor decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # likewise
    code = 1
    try:
        if request is None:
            code = _run_worker(job, name, link, still_run)
        else:
            code = _run_isolated(job, name, link, request)
    except BaseException:
        logger.critical("%s failed", name, exc_info=True)
    finally:
        _flush()
        os._exit(code)  # code that ran past its time limit may hold a thread for ever


def _flush() -> None:
    """Whoever started us may have closed the streams, or stopped reading them."""
    with suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _prepare(job: Job) -> tuple[DurableLayer, Routing]:
    """Set this process up, and return the layer and the routing of the job."""
    if not apps.ready:  # it was not forked
        django.setup()
    prepare_process()
    routing = Routing.of_layer(job.layer).with_applications(job.channels.names or ())
    return get_layer(job.layer), routing.isolated() if job.isolate else routing


def _handle_signals(stop: Callable[[float | None], None]) -> None:
    signal.signal(signal.SIGTERM, _Stopper(stop, None))
    signal.signal(AT_ONCE, _Stopper(stop, 0.0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _run_worker(job: Job, name: str, link: Connection, still_run: Collection[UUID] | None) -> int:
    """Returns the exit code."""
    layer, routing = _prepare(job)
    isolated_runs = IsolatedRuns(link)
    worker = Worker(
        layer,
        routing,
        job.channels,
        worker_id=name,
        threads=job.threads,
        isolated_runs=isolated_runs,
        drain=job.drain,
        recycling=RecyclingLimits.of(job.max_messages, job.max_memory),
        presence=job.presence,
    )
    _handle_signals(worker.stop)
    isolated_runs.listen(worker.stop)
    if still_run is not None:
        _end_leases_before(layer, name, still_run)
    worker.run()
    return RECYCLED if worker.should_recycle else DONE


def _run_isolated(job: Job, name: str, link: Connection, request: Request) -> int:
    """Run a claim, and if the process is kept, further ones until it is told to stop or has a recycling limit reached.

    Returns the exit code.
    """
    layer, routing = _prepare(job)
    assignments = Assignments(link, request.claim)
    recycling = RecyclingLimits(job.max_messages, job.max_memory)
    _handle_signals(assignments.stop)
    assignments.listen()
    while (claim := assignments.next()) is not None:
        worker = Worker(
            layer,
            routing,
            [claim.channel],
            worker_id=name,
            threads=1,
            preclaimed=[claim],
            report_limit=assignments.report_limit,
            presence=job.presence,
        )
        assignments.run(claim, worker)
        recycling.count(1)
        if not request.is_kept or worker.should_recycle or recycling.reason():
            break
    return DONE


def _end_leases_before(layer: DurableLayer, name: str, still_run: Collection[UUID]) -> None:
    """Let what the dead process of this name had claimed go on now. Where that fails, its leases lapse."""
    try:
        if count := end_leases_of(layer, name, still_run):
            logger.info("%s had claimed %s when it ended", name, counted(count, "message"))
    except OUTAGES as error:
        logger.warning("what %s had claimed when it ended waits for its leases: %s", name, error)
    finally:
        close_connections()


class _Stopper:
    """A signal handler that stops the worker."""

    def __init__(self, stop: Callable[[float | None], None], timeout: float | None) -> None:
        self._stop = stop
        self._timeout = timeout

    def __call__(self, number: int, frame: Any) -> None:
        # Not here: the handler may have interrupted the very code that holds the lock it would wait for.
        threading.Thread(target=self._stop, args=(self._timeout,), daemon=True).start()
