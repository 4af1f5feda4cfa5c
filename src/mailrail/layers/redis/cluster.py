"""A Redis or Valkey Cluster, seen as one server: each command goes to the node that its key's slot belongs to.

Each channel lies in one slot, so a script reaches one channel. Slots move in two ways. After a failover the old node is
gone or answers MOVED: the map is learned anew. While an operator moves a slot key by key, its node answers ASK for the
keys that have left. Our scripts name a key that never exists, the channel's tag. So none of them runs until the whole
slot has moved. ASK is not followed, it is waited for: a script would find a part of its channel only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import redis
from redis.crc import key_slot

from ...errors import InvalidSettings, LayerUnavailable
from ...transient import Remedy, remedy_for
from .connections import Command, keys_of
from .servers import Server, Servers, options_of

PATIENCE = 5.0
"""Seconds that a call waits for a slot that is being moved or has no node, before it is given up."""
SHORT_PATIENCE = 0.25
"""The same for calls that others need not wait for: channels of other slots."""
PAUSE = 0.05
"""Seconds between two looks meanwhile."""

LISTED_FOR = 30.0
"""Seconds after which a process that uses a channel puts it on the list of channels again."""
UNLISTED_AFTER = 3600.0
"""Seconds after which an unused channel leaves the list. Far more than any send takes between list and storing."""

Address: TypeAlias = tuple[str, int]

_BROKEN = (redis.ConnectionError, redis.TimeoutError)


class Cluster(Server):
    """The nodes, and which one has what. Threads share it without a lock: the map is replaced as a whole."""

    def __init__(self, hosts: Sequence[Mapping[str, Any]]) -> None:
        self._seeds = [Server(options_of(host)) for host in hosts]
        self._options = options_of(hosts[0])
        self.name = ", ".join(seed.name for seed in self._seeds)
        self.kind = "Cluster"
        self._nodes: dict[Address, Server] = {}
        self._slots: list[Address | None] = []
        self._replicas: frozenset[Address] = frozenset()
        self._is_stale = True

    # -- what the verbs use -------------------------------------------------------------------------------------

    def exchange(self, commands: Sequence[Command], again: bool = False) -> list[Any]:
        answers = self._exchange(commands, again)
        for answer in answers:
            if isinstance(answer, _BROKEN):
                raise answer
        return answers

    def _exchange(self, commands: Sequence[Command], again: bool) -> list[Any]:
        answers = self._follow(commands, PATIENCE)
        broken = [n for n, answer in enumerate(answers) if isinstance(answer, redis.ConnectionError)]
        if broken and again:
            for n, answer in zip(broken, self._follow([commands[n] for n in broken], PATIENCE), strict=True):
                answers[n] = answer
        return answers

    def exchange_each(self, commands: Sequence[Command], again: bool = False) -> list[Any]:
        return self._exchange(commands, again) if again else self._follow(commands, SHORT_PATIENCE)

    def nodes(self) -> list[Server]:
        """All that can be reached, replicas among them."""
        self._learn_if_stale()
        masters = {address for address in self._slots if address}
        found = [self._node(address) for address in sorted(masters)]
        return found + [node for node in map(self._node, sorted(self._replicas)) if _answers(node)]

    def node_of(self, key: bytes) -> Server:
        self._learn_if_stale()
        return self._owner(key)

    def together(self, channels: Sequence[str]) -> list[list[str]]:
        return [[channel] for channel in channels]

    def listen(self) -> Any:
        """On any node: what is published on one is heard on all."""
        self._learn_if_stale()
        self._is_stale = True  # whoever asks again does so because this one has failed
        addresses = [address for address in {*self._slots} if address]
        return self._node(random.choice(addresses)).listen() if addresses else self._seeds[0].listen()

    def unavailable(self, error: redis.RedisError) -> LayerUnavailable:
        has_not_run = _has_not_run(error)
        if isinstance(error, redis.exceptions.AskError | redis.exceptions.TryAgainError):
            error = redis.exceptions.TryAgainError(
                "a slot is being moved to another node; its channels stand still until it is there"
            )
        unavailable = super().unavailable(error)
        unavailable.may_have_run = unavailable.may_have_run and not has_not_run
        return unavailable

    def close(self) -> None:
        for node in (*self._seeds, *self._nodes.values()):
            node.close()

    # -- routing ------------------------------------------------------------------------------------------------

    def _follow(self, commands: Sequence[Command], patience: float) -> list[Any]:
        """Answers and errors, each in its place. What has not run is sent again, at once where it has moved."""
        answers: list[Any] = [None] * len(commands)
        left: Sequence[int] = range(len(commands))
        until, round = time.monotonic() + patience, 0
        while True:
            self._send(commands, left, answers)
            left = [n for n in left if _has_not_run(answers[n])]
            if not left or (round > 0 and time.monotonic() >= until):
                return answers
            if round > 0 or not all(isinstance(answers[n], redis.exceptions.MovedError) for n in left):
                time.sleep(min(PAUSE, max(patience, 0.001)))
            self._is_stale = True
            round += 1

    def _send(self, commands: Sequence[Command], numbers: Iterable[int], answers: list[Any]) -> None:
        by_node: dict[Server, list[int]] = {}
        try:
            self._learn_if_stale()
        except redis.RedisError as error:
            for n in numbers:
                answers[n] = error
            return
        for n in numbers:
            try:
                by_node.setdefault(self._owner(keys_of(commands[n])[0]), []).append(n)
            except redis.RedisError as error:
                answers[n] = error
        for node, of_node in sorted(
            by_node.items(), key=lambda it: it[0].is_away
        ):  # others need not wait for it
            found = node.exchange_each([commands[n] for n in of_node])
            for n, answer in zip(of_node, found, strict=True):
                answers[n] = answer
                if isinstance(answer, redis.exceptions.MovedError):
                    self._moved(answer, node)
                elif isinstance(answer, _BROKEN):
                    self._is_stale = True

    def _owner(self, key: bytes) -> Server:
        address = self._slots[key_slot(key)]
        if address is None:
            raise redis.exceptions.ClusterDownError("no node has the slot of this channel")
        return self._node(address)

    def _moved(self, moved: redis.exceptions.MovedError, by: Server) -> None:
        """The node that was named knows best."""
        address = (moved.host or by.address[0], moved.port)
        try:
            self._learn_from(self._node(address))
        except redis.RedisError:
            self._is_stale = True

    def _learn_if_stale(self) -> None:
        if not self._is_stale and self._slots:
            return
        known = [*self._nodes.values()]
        random.shuffle(known)
        why: redis.RedisError = redis.ConnectionError("none of its nodes can be reached")
        for node in (*known, *self._seeds):
            try:
                self._learn_from(node)
                return
            except redis.RedisError as error:
                why = error
        raise why

    def _learn_from(self, node: Server) -> None:
        [answer] = node.exchange([("CLUSTER", "SLOTS")])
        if isinstance(answer, redis.ResponseError):
            if "cluster support disabled" in str(answer):
                raise InvalidSettings(
                    f'The Redis server {node.name} is no node of a cluster. Take "cluster" out of the layer\'s CONFIG.'
                )
            raise answer
        slots: list[Address | None] = [None] * 16384
        replicas: set[Address] = set()
        for first, last, *nodes in answer:
            master, *others = [(host.decode() if host else node.address[0], port) for host, port, *_ in nodes]
            slots[first : last + 1] = [master] * (last + 1 - first)
            replicas.update(others)
        self._slots, self._replicas, self._is_stale = slots, frozenset(replicas), False

    def _node(self, address: Address) -> Server:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            node = self._nodes.setdefault(address, Server({**self._options, "host": host, "port": port}))
        return node


def _has_not_run(answer: object) -> bool:
    """Tell whether the same has to be sent again, to another node (ASK and MOVED) or to the same one."""
    if not isinstance(answer, redis.ResponseError):
        return False
    return isinstance(answer, redis.exceptions.AskError) or remedy_for(answer) is Remedy.REPEAT


class ClusterServers(Servers):
    """A layer's servers that are one cluster, and its list of channels, which lies in a slot of its own."""

    is_cluster = True

    def _made(self, hosts: Sequence[Mapping[str, Any]]) -> list[Server]:
        self._listed_at: dict[str, float] = {}
        for host in hosts:
            if "sentinels" in host or "path" in host or str(host.get("address", "")).startswith("unix:"):
                raise InvalidSettings(
                    "CONFIG['hosts'] of a Redis layer with \"cluster\" names nodes of the cluster, by host and port: "
                    "Sentinels and Unix sockets have no place there."
                )
        return [Cluster(hosts)]

    def to_list(self, channels: Iterable[str]) -> list[str]:
        """Those that this process has not put on the list for a while."""
        now = time.monotonic()
        return [c for c in channels if now - self._listed_at.get(c, float("-inf")) > LISTED_FOR]

    def are_listed(self, channels: Iterable[str]) -> None:
        self._listed_at.update(dict.fromkeys(channels, time.monotonic()))


def _answers(node: Server) -> bool:
    try:
        node.exchange([("PING",)])
    except redis.RedisError:
        return False
    return True
