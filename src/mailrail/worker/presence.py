"""Know for sure which supervisors of this host are gone, so that nobody waits for their leases.

A supervisor binds an abstract name (unix(7)), and the processes that it forks inherit the socket. The kernel frees the
name when the last of them has ended, however it ended. Heartbeats carry the name, and where it counts: abstract names
belong to a network namespace of a running kernel. For anybody elsewhere, the leases decide.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from errno import EADDRINUSE
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from uuid import UUID
from weakref import WeakSet

from django.conf import settings as django_settings

from ..layers import DurableLayer
from ..messages import Content, Message
from ..namespace import current
from ..terminal import counted
from .log import logger

MAX_WAIT_S = 5.0
"""Seconds to wait for a name while another process ends the leases of its last holder."""
POLL_INTERVAL_S = 0.02
NAME_IS_TAKEN = (
    "another supervisor of this host has the worker id %r, or a process that it has left behind. "
    "Leases alone decide what becomes of our claims"
)
PAGE_SIZE = 1000
"""Claims that are listed together."""


class Presence:
    """Hold the name of a supervisor until the last process that inherits it has ended.

    ``name``: what heartbeats say; ``None`` where this system has no such names, or another supervisor holds this one.
    """

    def __init__(self, worker_id: str) -> None:
        self.name: str | None = None
        self._socket: socket.socket | None = None
        self._generation = 0
        if (here := _here()) is None:
            return
        name = f"{here}/{sha256(_of_project(worker_id).encode()).hexdigest()[:32]}"
        deadline = time.monotonic() + MAX_WAIT_S
        try:
            while (bound := _bind(name)) is None and time.monotonic() < deadline:
                time.sleep(POLL_INTERVAL_S)
        except OSError as error:  # such as by RestrictAddressFamilies (systemd.exec(5))
            logger.info("this system gives supervisors no abstract names, so leases decide alone: %s", error)
            return
        if bound is None:
            logger.warning(NAME_IS_TAKEN, worker_id)
            return
        self.name, self._socket = name, bound
        _presences.add(self)

    def inherit(self) -> None:
        """Keep the name in a forked process of the supervisor, but not in what that one's consumers fork.

        Such a process may outlive all workers, as those of a ``ProcessPoolExecutor`` do whose owner was killed.
        """
        self._generation += 1
        if self._generation > 1:
            self.end()

    def end(self) -> None:
        """Free the name: all that was claimed is settled."""
        if self._socket is not None:
            self._socket.close()


_presences: WeakSet[Presence] = WeakSet()


def _inherit() -> None:
    for held in [*_presences]:
        held.inherit()


os.register_at_fork(after_in_child=_inherit)


def end_leases_of(layer: DurableLayer, worker: str, spared: Collection[UUID]) -> int:
    """End the leases of a worker that is dead, so that nobody waits for their ends. Return how many there were.

    ``spared``: messages that processes of their own still run for it. Whoever claims the others counts a loss, as after
    any lease that lapsed.
    """
    channels, cursor, claims = layer.list_channels(), None, list[Message]()
    while page := layer.list_messages(channels, PAGE_SIZE, "claimed", cursor):
        cursor = page[-1].cursor
        ids: dict[str, list[UUID]] = {}
        for summary in page:
            if summary.worker == worker and summary.id not in spared:
                ids.setdefault(summary.channel, []).append(summary.id)
        for channel, of_channel in ids.items():
            claims += [claim for claim in layer.get(channel, of_channel) if claim.worker == worker]
    layer.renew(claims, 0.0)
    return len(claims)


class Neighbours:
    """Watch the workers of this host: once their supervisor is gone, their leases end, and they are marked as gone."""

    def __init__(self, layer: DurableLayer) -> None:
        self._layer = layer
        self._infos: dict[str, Content] = {}
        self._names: dict[str, str] = {}
        """What the heartbeats of workers say whose names count here, by the ids of these workers."""

    def list(self) -> None:
        """Ask the layer for the workers whose names count here."""
        self._infos = {worker.id: worker.info for worker in self._layer.workers()}
        told = {id: info.get("presence") for id, info in self._infos.items()}
        here = f"{_here()}/"
        self._names = {
            id: name for id, name in told.items() if isinstance(name, str) and name.startswith(here)
        }

    def look(self) -> None:
        """End the leases of those that are gone. Where nobody is, this asks the kernel alone.

        Raise what the layer raises; the next look tries again.
        """
        for id, name in [*self._names.items()]:
            if self._names.get(id) == name:  # still, as ``_end`` lists them anew
                with _held(name) as is_gone:
                    if is_gone:
                        self._end(id, name)

    def _end(self, id: str, name: str) -> None:
        """End the leases of a worker that is gone, unless it has ended by itself, or another one has its id by now."""
        self.list()
        if self._names.get(id) == name:
            count = end_leases_of(self._layer, id, ())
            # It stays on the list for people, and does not count as living.
            self._layer.heartbeat(id, {**self._infos[id], "gone": True, "slots": []})
            del self._names[id]
            logger.info("%s is gone, and had claimed %s", id, counted(count, "message"))


@contextmanager
def _held(name: str) -> Iterator[bool]:
    """Hold a name in the block, if nobody else does, and tell whether that is so."""
    try:
        bound = _bind(name)
    except OSError:  # just now, nothing can be told
        bound = None
    try:
        yield bound is not None
    finally:
        if bound is not None:
            bound.close()


def _bind(name: str) -> socket.socket | None:
    """Return a socket with this name, unless another process has one. Raise ``OSError`` where that cannot be told."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(f"\0mailrail/{name.rpartition('/')[2]}")
    except OSError as error:
        bound.close()
        if error.errno == EADDRINUSE:
            return None
        raise
    return bound


def _of_project(worker_id: str) -> str:
    """Return what tells this worker apart from workers with the same ``--worker-id`` in other projects of this host."""
    databases = [
        f"{options.get('HOST')}:{options.get('PORT')}/{options.get('NAME')}"
        for options in django_settings.DATABASES.values()
    ]
    module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
    return "\0".join([worker_id, module, current(), *databases])


@lru_cache(maxsize=1)
def _here() -> str | None:
    """Return where names count: the boot of this kernel, and the network namespace; ``None`` if that cannot be told."""
    if sys.platform != "linux":  # elsewhere, workers are not forked either
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/net').readlink()}"
    except OSError:
        return None
