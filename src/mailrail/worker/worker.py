"""The worker of one process: a claim loop for each shard of its layer, and what they share.

A layer of one server or database is one shard, whose loop runs on the thread that calls ``run``. With several hosts, or
on a cluster, each host or node has a loop on a thread of its own. One that hangs stops its own loop alone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from ..applications import serves
from ..backoff import chance
from ..conf import settings
from ..layers import DurableLayer
from ..messages import Content, Message
from ..monitoring.counters import counting
from ..project import identity
from ..routing import Routing
from ..selection import Selection
from ..terminal import counted
from ..transient import is_outage
from .capacity import Capacity
from .claim_loop import ClaimLoop, Shared
from .connections import close_connections, own_connection
from .consume import ConsumerRun
from .heartbeat import Heartbeat
from .isolated import IsolatedRuns
from .leases import LeaseKeeper
from .lifecycle import ENDING, Event, State, WorkerLifecycle
from .log import logger
from .maintenance import Maintenance, ServiceThreads, do_all
from .recycling import RecyclingLimits
from .threads import Threads

LONGEST_END_S = 15.0
"""Seconds that loops get to end after a fault, as a server that hangs is given up after ten."""
ASSIGN_INTERVAL_S = 0.25
"""Seconds between two looks at which shard has which channel: slots of a cluster move."""


def new_worker_id() -> str:
    """Return a name that no other worker has: host, process, and something random, as process ids are reused."""
    return f"{socket.gethostname()}-{os.getpid()}-{chance.randrange(16**4):04x}"


class Worker:
    """Consumes the channels of a routing until ``stop`` is called.

    ``channels``: those of the routing's to serve. ``isolated_runs`` runs messages whose route has ``isolate``, and
    those that have cost a process before; without it, they run here. ``drain``: end when nothing is due.
    ``preclaimed``: run these claims and claim nothing. ``report_limit`` gets the seconds of a run that begins: who gets
    them ends the run. ``recycling``: end when it says so, after what runs is done.
    """

    def __init__(
        self,
        layer: DurableLayer,
        routing: Routing,
        channels: Sequence[str] | Selection | None = None,
        *,
        worker_id: str | None = None,
        threads: int | None = None,
        isolated_runs: IsolatedRuns | None = None,
        drain: bool = False,
        preclaimed: Sequence[Message] | None = None,
        report_limit: Callable[[float | None], None] | None = None,
        recycling: RecyclingLimits | None = None,
        presence: str | None = None,
    ) -> None:
        self.id = worker_id or new_worker_id()
        self.layer = layer
        if not isinstance(channels, Selection):
            channels = Selection(None if channels is None else tuple(channels))
        self._selection = channels
        self.plans = {c: routing.plan_for(c) for c in channels.channels(routing)}
        self._routing = routing
        self._preclaimed = list(preclaimed or ())
        self._lifecycle = WorkerLifecycle(drain or preclaimed is not None)
        if preclaimed is not None:
            self._lifecycle.on(Event.NOTHING_DUE)
        self._threads = Threads(threads or settings.threads, layer)
        capacity = Capacity(layer, self.plans, self._threads, recycling)
        self._shared = Shared(layer, self.id, self._lifecycle, capacity, isolated_runs, report_limit)
        self._heartbeat = Heartbeat(self.id, self._facts, self._runs, self._shared.counters)
        self._loops: dict[DurableLayer, tuple[ClaimLoop, threading.Thread]] = {}
        self._loop: ClaimLoop | None = None  # the only one, of a layer that is one shard
        self._maintenance = Maintenance(layer, self._lifecycle.stopping, self._scan, self.plans)
        self._services = ServiceThreads(layer, self._lifecycle.stopping)
        self._unrouted: set[str] = set()
        self._project = identity()
        self._presence = presence

    @property
    def should_recycle(self) -> bool:
        """Should the process be replaced? At a limit, or when code past its time limit holds a thread or the loop."""
        return self._lifecycle.should_recycle

    def run(self) -> None:
        """Work until stopped (or drained), then wait for what runs and release the rest."""
        if not self.layer.is_sharded:  # first, so that channels found by maintenance reach it
            self._loop = ClaimLoop(self._shared, self.layer, self._preclaimed, self._heartbeat)
            self._lifecycle.loops = [self._loop]
        if self._lifecycle.state is State.RUNNING:
            self._serve_channels_in_use()
            self._maintenance.start(only_scan=self._lifecycle.drain)
            if not self._lifecycle.drain:
                self._services.start()
        try:
            with counting(self._shared.counters):
                if self._loop:
                    self._loop.run()
                else:
                    self._run_loops()
        finally:
            self._maintenance.stop()
            self._services.stop()
            self._threads.close()
            self._shared.event_loop.close()
            self.layer.stop_listening()
            close_connections()

    def stop(self, timeout: float | None = None) -> None:
        """Claim nothing more; ``run`` returns when what runs is done, or after ``timeout`` seconds at the latest."""
        self._lifecycle.stop(settings.shutdown_timeout if timeout is None else timeout)

    # -- several claim loops ------------------------------------------------------------------------------------

    def _run_loops(self) -> None:
        """Run a claim loop for each shard, until all of them have ended."""
        # Apart: it beats on one server for all.
        heart = LeaseKeeper(self.layer, dict, self._heartbeat)
        heart.start()
        try:
            while not self._is_over():
                try:
                    self._assign()
                except Exception as error:  # as in a loop's round
                    self._lifecycle.back_off(error, self._lifecycle)
                else:
                    if self._lifecycle.is_failing:
                        self._lifecycle.succeeded()
                self._wait_for_an_end()
        finally:
            self._lifecycle.stop(0.0)  # where this was not the end already
            for _, thread in self._loops.values():
                thread.join(LONGEST_END_S)
            heart.stop()

    def _is_over(self) -> bool:
        if self._loops or (
            self._preclaimed and time.monotonic() < self._lifecycle.deadline + ASSIGN_INTERVAL_S
        ):
            return False  # what is claimed needs a loop if only to be released
        return self._lifecycle.state in ENDING

    def _assign(self) -> None:
        """Tell each loop its channels, and start those that are missing."""
        if self._lifecycle.stopping.is_set() and not self._preclaimed:
            return
        is_ending = self._lifecycle.state in ENDING
        channels = {claim.channel for claim in self._preclaimed} or (() if is_ending else self.plans)
        shards = self.layer.shards(channels)
        for shard, (loop, _) in self._loops.items():
            loop.share.serve(shards.get(shard, ()))
        for shard, names in shards.items():
            if shard not in self._loops:
                self._start(shard, names)
        self._preclaimed.clear()
        if self._lifecycle.drain and not self._loops:
            self._lifecycle.on(Event.NOTHING_DUE)

    def _start(self, shard: DurableLayer, channels: Sequence[str]) -> None:
        loop = ClaimLoop(self._shared, shard, [c for c in self._preclaimed if c.channel in channels])
        loop.share.serve(channels)
        thread = threading.Thread(
            target=loop.run, name=f"mailrail-claims-{len(self._loops) + 1}", daemon=True
        )
        self._set_loops({**self._loops, shard: (loop, thread)})
        thread.start()

    def _set_loops(self, loops: dict[DurableLayer, tuple[ClaimLoop, threading.Thread]]) -> None:
        self._loops = loops
        self._lifecycle.loops = [loop for loop, _ in loops.values()]

    def _wait_for_an_end(self) -> None:
        if not self._loops:
            self._lifecycle.stopping.wait(0.0 if self._lifecycle.state in ENDING else ASSIGN_INTERVAL_S)
        until = time.monotonic() + ASSIGN_INTERVAL_S
        for _, thread in list(self._loops.values()):
            thread.join(max(0.0, until - time.monotonic()))
        self._set_loops({shard: pair for shard, pair in self._loops.items() if pair[1].is_alive()})

    # -- channels of patterns -----------------------------------------------------------------------------------

    def _scan(self) -> None:
        """Look at all channels, once a minute. A host that is away hides no channel of the others."""
        reports = (partial(self._report_unrouted, host) for host in self.layer.each_host())
        do_all([self.layer.maintain, *self._host_scans(), *reports])

    def _host_scans(self) -> Iterator[Callable[[], None]]:
        """Return what finds the channels of patterns, host by host."""
        if self._selection.patterns(self._routing):
            for host in self.layer.each_host():
                yield lambda host=host: self._serve(host.list_channels())  # type: ignore[misc]

    def _serve_channels_in_use(self) -> None:
        """Serve from the start what the layer knows. If it cannot be asked, the look of a minute later will."""
        try:
            with own_connection(self.layer):
                do_all(self._host_scans())
        except Exception as error:
            logger.warning(
                "cannot ask which channels of %s hold messages, trying again in a minute: %s",
                ", ".join(self._selection.patterns(self._routing)),
                error,
                exc_info=None if is_outage(error) else error,
            )

    def _serve(self, in_use: Iterable[str]) -> None:
        """Serve the channels of patterns that are not served yet."""
        channels = self._selection.channels(self._routing, in_use)
        plans = {c: self._routing.plan_for(c) for c in channels if c not in self.plans}
        if plans:
            self._shared.capacity.serve(plans)
            self.plans = {**self.plans, **plans}
            self._maintenance.channels = self.plans
            for loop in [self._loop] if self._loop else [loop for loop, _ in self._loops.values()]:
                loop.serve(plans, has_all=loop is self._loop)

    # -- what others may know -----------------------------------------------------------------------------------

    def _report_unrouted(self, host: DurableLayer) -> None:
        """Channels that hold messages and have no route anywhere: said once each."""
        for channel, stats in host.stats().items():
            waiting = stats.ready + stats.scheduled
            if waiting and not self._is_served_somewhere(channel) and channel not in self._unrouted:
                self._unrouted.add(channel)
                logger.warning(
                    "channel %s has %s and no route; they are kept; %s",
                    *(channel, counted(waiting, "message"), self._routing.looked_for),
                )

    def _is_served_somewhere(self, channel: str) -> bool:
        return channel in self._routing or serves(channel)

    def _runs(self) -> list[ConsumerRun]:
        return [run for loop in self._lifecycle.loops for run in [*loop.running]]

    def _facts(self) -> Content:
        return {
            "channels": sorted(self.plans),
            "threads": self._threads.size,
            "stopping": self._lifecycle.stopping.is_set(),
            "project": self._project,
            "presence": self._presence,
        }
