"""The Redis layer's verbs for people: what waits, what is dead, who works; pausing, and limits that workers share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from ...errors import LayerUnavailable
from ...messages import (
    ChannelStats,
    Content,
    DeadMessage,
    Granted,
    Message,
    Rate,
    WorkerInfo,
    check_channel_name,
    encode,
)
from ..base import COUNTED, WORKER_FORGOTTEN_AFTER
from .cluster import UNLISTED_AFTER, ClusterServers
from .damage import MOST, in_words
from .inspection import RedisInspection
from .keys import channel_of
from .records import ids_of, parts_of, read_dead, read_message
from .scripts import run, run_all, run_each
from .servers import check_version, concerns


class RedisOperations(RedisInspection):
    """The verbs that people use."""

    def _run_listed(self, channel: str, verb: str, *args: Any, again: bool = True) -> Any:
        """The same for verbs after which the channel must be among those that the server knows of."""
        keys = self._keys.listing(channel)
        self._list([channel])
        return run(self._servers.of(channel), verb, keys, channel, *args, again=again)

    def _list(self, channels: Iterable[str]) -> None:
        """On a cluster: before something is stored, so that no crash leaves it unlisted."""
        servers, key = self._servers, self._keys.of_layer("listed")
        if not isinstance(servers, ClusterServers) or not (channels := servers.to_list(channels)):
            return
        if servers.is_doubtful_for(key):  # messages of other nodes need not wait for it
            return
        try:
            run(servers.of(""), "list", [key], *channels, again=True)
        except LayerUnavailable:
            return  # the list is for people: messages need not wait for it, and the next call tries again
        servers.are_listed(channels)

    # -- the verbs ----------------------------------------------------------------------------------------------

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return _ids(self._run(channel, "cancel", ids_of(ids)))

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        rows = self._run(channel, "waiting", limit, again=True)
        return [read_message(channel, row, body, self._cipher) for row, body in parts_of(rows, 2)]

    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        ids = list(ids)
        in_outbox = self.outbox.known(ids) if self.outbox else set()  # first: what is there moves here
        return in_outbox | set(_ids(self._run(channel, "known", ids_of(ids), again=True)))

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        at, id = (repr(before.buried_at), before.message.id.bytes) if before else ("+inf", b"")
        rows = self._run(channel, "dead", limit, at, id, again=True)
        return [read_dead(channel, row, body, error, self._cipher) for row, body, error in parts_of(rows, 3)]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return _ids(self._run_listed(channel, "requeue", ids_of(ids), again=False))

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return _ids(self._run(channel, "discard", ids_of(ids)))

    def pause(self, channel: str) -> None:
        self._run_listed(check_channel_name(channel), "pause")

    def resume(self, channel: str) -> None:
        self._run(channel, "resume", again=True)

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        server, key = self._servers.of(channel_of(bucket) or bucket), self._keys.bucket(bucket)
        [answer] = run_each(server, "take", [([key], (n, rate.count, rate.seconds))])
        if isinstance(answer, LayerUnavailable):
            raise answer
        granted, retry_after = answer
        return Granted(granted, float(retry_after))

    def heartbeat(self, worker: str, info: Content | None) -> None:
        details = "" if info is None else encode(info, "info")
        self._list(info.get("channels", ()) if info else ())  # a channel that is served stays on the list
        self._run_on_workers("heartbeat", worker, details, WORKER_FORGOTTEN_AFTER)

    def workers(self) -> list[WorkerInfo]:
        rows = self._run_on_workers("workers", WORKER_FORGOTTEN_AFTER)
        found = [WorkerInfo(id.decode("utf-8", "replace"), _info(text), float(age)) for id, text, age in rows]
        return sorted(found, key=lambda worker: worker.id)

    def _run_on_workers(self, verb: str, *args: Any) -> Any:
        keys = [self._keys.of_layer("workers"), self._keys.of_layer("seen")]
        return run(self._servers.of("workers"), verb, keys, *args, again=True)

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        found: dict[str, ChannelStats] = {}
        is_cluster = self._servers.is_cluster
        for server in self._servers:
            groups = server.together(self._listed(server))
            of_list = [] if is_cluster else [self._keys.of_layer("channels")]
            calls = [([*map(self._keys.tag, names), *of_list], names) for names in groups]
            for names, rows in zip(groups, run_all(server, "stats", calls, again=True), strict=True):
                found |= {name: _stats(*row) for name, row in zip(names, rows, strict=True) if any(row[:5])}
        if is_cluster:
            run(
                self._servers.of(""),
                "unlist",
                [self._keys.of_layer("listed")],
                UNLISTED_AFTER,
                *found,
                again=True,
            )
        return dict(sorted(found.items()))

    def unreadable(self) -> list[str]:
        return [
            text
            for server in self._servers
            for channel, found in self._run_on_each(self._listed(server), "unreadable", MOST)
            for text in in_words(channel, *found)
        ]

    def shift(self, seconds: float) -> None:
        for server in self._servers:
            run_all(server, "shift", [([self._keys.tag(name)], [seconds]) for name in self._listed(server)])
            buckets = {
                key
                for node in server.nodes()
                for pattern in self._keys.all_buckets()
                for key in node.ask("KEYS", pattern)  # slow: it is for tests
            }
            run_all(server, "shift_bucket", [([bucket], [seconds]) for bucket in buckets])
        self._run_on_workers("shift_workers", seconds)
        self.wake()

    def concerns(self) -> list[str]:
        found: list[str] = []
        try:
            for node in (node for server in self._servers for node in server.nodes()):
                info = node.info("server", "memory", "persistence")
                check_version(node.name, info)
                found += concerns(node.name, info)
        finally:
            self._servers.close()  # commands ask, and then fork
        return found


def _info(details: bytes) -> Content:
    """What a worker has told; nothing, if that cannot be read."""
    try:
        info = json.loads(details)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _ids(found: Iterable[bytes]) -> list[UUID]:
    return [UUID(bytes=id) for id in found]


def _stats(ready: int, scheduled: int, claimed: int, dead: int, paused: int, oldest: bytes) -> ChannelStats:
    return ChannelStats(ready, scheduled, claimed, dead, float(oldest) if ready else None, bool(paused))
