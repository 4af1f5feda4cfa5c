"""A Redis or Valkey Cluster, seen as one server: each command goes to the node that its key's slot belongs to.

Each channel lies in one slot, so a script reaches one channel. Slots move in two ways. After a failover the old node is
gone or answers MOVED: the map is learned anew. While an operator moves a slot key by key, its node answers ASK for the
keys that have left. Our scripts name a key that never exists, the channel's tag. So none of them runs until the whole
slot has moved. ASK is not followed, it is waited for: a script would find a part of its channel only.

A node may leave, and its address may belong to another cluster the next moment, which answers everything. So only the
nodes of the latest map and of ``hosts`` are asked for the map. A map is believed only if it is one of the same cluster
(``slots.py``). A node that was not asked for a second is asked again before it gets commands.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from redis.crc import key_slot

from ...backoff import chance
from ...errors import InvalidSettings, LayerUnavailable
from ...transient import Remedy, remedy_for
from .connections import Command, keys_of, not_sent
from .servers import Server, options_of
from .slots import Address, SlotMap, read_slot_map

SLOT_TIMEOUT_S = 5.0
"""Seconds that a call waits for a slot that is being moved or has no node, before it is given up."""
SHORT_SLOT_TIMEOUT_S = 0.25
"""The same for calls that others need not wait for: channels of other slots."""
ASKED_AGAIN_AFTER_S = 0.5
"""Seconds for which a slot that was found on the move is left alone by such calls."""
POLL_INTERVAL_S = 0.05
"""Seconds between two looks meanwhile."""

VERIFY_AFTER_S = 1.0
"""Seconds after which a node is asked whether it still belongs to this cluster. No node leaves a cluster, forms another
and gets its slots in less, and one round trip in a second costs nothing."""

_BROKEN = (redis.ConnectionError, redis.TimeoutError)


class Node(Server):
    """One node. ``verified_at``: when (time.monotonic()) it was last seen to belong to the cluster."""

    verified_at = float("-inf")

    def slot_map(self) -> SlotMap:
        """Ask it which node has which slot."""
        [answer] = self.exchange([("CLUSTER", "SLOTS")], again=True)
        if "cluster support disabled" in str(answer):
            raise InvalidSettings(
                f'The Redis server {self.name} is no node of a cluster. Take "cluster" out of the layer\'s CONFIG.'
            )
        return read_slot_map(answer, self.address[0])


class Cluster(Server):
    """The nodes, and which one has what. Threads share it without a lock: the map is replaced as a whole."""

    is_cluster = True

    def __init__(self, hosts: Sequence[Mapping[str, Any]]) -> None:
        check_nodes(hosts)
        self._seeds = [Node(options_of(host)) for host in hosts]
        self._options = options_of(hosts[0])
        self.name = ", ".join(seed.name for seed in self._seeds)
        self.kind = "Cluster"
        self._nodes: dict[Address, Node] = {}
        self._map = SlotMap()
        self._is_stale = True
        # Slots on the move, and when (time.monotonic()) to ask for them again.
        self._moving: dict[int, float] = {}

    # -- what the verbs use -------------------------------------------------------------------------------------

    def exchange(self, commands: Sequence[Command], again: bool = False) -> list[Any]:
        answers = self._exchange(commands, again)
        for answer in answers:
            if isinstance(answer, _BROKEN):
                raise answer
        return answers

    def _exchange(self, commands: Sequence[Command], again: bool) -> list[Any]:
        answers = self._follow(commands, SLOT_TIMEOUT_S)
        broken = [n for n, answer in enumerate(answers) if isinstance(answer, redis.ConnectionError)]
        if broken and again:
            for n, answer in zip(
                broken, self._follow([commands[n] for n in broken], SLOT_TIMEOUT_S), strict=True
            ):
                answers[n] = answer
        return answers

    def exchange_each(self, commands: Sequence[Command], again: bool = False) -> list[Any]:
        return self._exchange(commands, again) if again else self._exchange_settled(commands)

    def _exchange_settled(self, commands: Sequence[Command]) -> list[Any]:
        """Leave slots alone that are on the move: they cost the others a short wait once, and nothing from then on.

        A call for such slots alone keeps nobody waiting. It asks at any time, so the end of a move is seen at once.
        """
        if not self._moving:
            return self._marked(commands, self._follow(commands, SHORT_SLOT_TIMEOUT_S))
        now, moving = time.monotonic(), dict(self._moving)
        slots = [key_slot(keys_of(command)[0]) for command in commands]
        error = redis.exceptions.TryAgainError("")
        answers: list[Any] = [error] * len(commands)
        asked = [n for n, slot in enumerate(slots) if moving.get(slot, now) <= now] or [*range(len(slots))]
        timeout = 0.0 if any(slots[n] in moving for n in asked) else SHORT_SLOT_TIMEOUT_S
        asked_answers = self._marked(
            [commands[n] for n in asked], self._follow([commands[n] for n in asked], timeout)
        )
        for n, answer in zip(asked, asked_answers, strict=True):
            answers[n] = answer
        return answers

    def _marked(self, commands: Sequence[Command], answers: list[Any]) -> list[Any]:
        """Remember which slots are on the move, and which are no longer. Returns the answers."""
        for command, answer in zip(commands, answers, strict=True):
            if _is_of_a_move(answer):
                self._moving[key_slot(keys_of(command)[0])] = time.monotonic() + ASKED_AGAIN_AFTER_S
            elif self._moving:
                self._moving.pop(key_slot(keys_of(command)[0]), None)
        return answers

    def nodes(self) -> list[Server]:
        """All that can be reached, replicas among them."""
        self._learn_if_stale()
        masters = [self._node(address) for address in sorted(self._map.masters)]
        replicas = [self._node(address) for address in sorted(self._map.replicas)]
        return [*masters, *filter(_answers, replicas)]

    def node_of(self, key: bytes) -> Node:
        self._learn_if_stale()
        return self._owner(key)

    def home_of(self, key: bytes) -> Node:
        """Return the node that has this key; where none has it, one that does not change with each call."""
        self._learn_if_stale()
        return self._node(self._map.owners[key_slot(key)] or min(self._map.masters))

    def may_hang_for(self, key: bytes) -> bool:
        """Tell whether the node that has this key may hang, without asking anybody."""
        node = self._nodes.get((self._map.owners[key_slot(key)] if self._map.ids else None) or ("", 0))
        return node is not None and node.may_hang

    def group_by_reach(self, channels: Sequence[str]) -> list[list[str]]:
        return [[channel] for channel in channels]

    def node_to_listen_on(self) -> Server:
        """Return any node: what is published on one is heard on all."""
        self._learn_if_stale()
        self._is_stale = True  # whoever asks again does so because this one has failed
        masters = [self._node(address) for address in self._map.masters]
        return chance.choice([node for node in masters if not node.may_hang] or masters)

    def unavailable(self, error: redis.RedisError) -> LayerUnavailable:
        has_not_run = _has_not_run(error)
        if _is_of_a_move(error):
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

    def _follow(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        """Answers and errors, each in its place. What has not run is sent again, at once where it has moved."""
        answers: list[Any] = [None] * len(commands)
        left: Sequence[int] = range(len(commands))
        until, round = time.monotonic() + timeout, 0
        while True:
            self._send(commands, left, answers)
            left = [n for n in left if _has_not_run(answers[n])]
            if not left or (round > 0 and time.monotonic() >= until):
                return answers
            if round > 0 or not all(isinstance(answers[n], redis.exceptions.MovedError) for n in left):
                time.sleep(min(POLL_INTERVAL_S, max(timeout, 0.001)))
            self._is_stale = True
            round += 1

    def _send(self, commands: Sequence[Command], numbers: Iterable[int], answers: list[Any]) -> None:
        by_node: dict[Node, list[int]] = {}
        try:
            self._learn_if_stale()
        except redis.RedisError as error:
            for n in numbers:
                answers[n] = not_sent(error)
            return
        for n in numbers:
            try:
                by_node.setdefault(self._owner(keys_of(commands[n])[0]), []).append(n)
            except redis.RedisError as error:
                answers[n] = error
        # Those that may hang come last, so that the others need not wait for them.
        for node, of_node in sorted(by_node.items(), key=lambda pair: pair[0].may_hang):
            node_answers = self._answers_of(node, [commands[n] for n in of_node])
            for n, answer in zip(of_node, node_answers, strict=True):
                answers[n] = answer
                if isinstance(answer, redis.exceptions.MovedError):
                    self._moved(answer, node)
                elif isinstance(answer, _BROKEN):
                    self._is_stale = True

    def _answers_of(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        """Send commands to a node that belongs to this cluster. One that has left it gets none."""
        try:
            self._verify(node)
        except redis.RedisError as error:
            self._is_stale = True
            return [not_sent(error)] * len(commands)
        return node.exchange_each(commands)

    def _verify(self, node: Node) -> None:
        if not node.is_away and time.monotonic() - node.verified_at < VERIFY_AFTER_S:
            return
        slot_map = node.slot_map()
        if not slot_map.continues(self._map):
            raise redis.exceptions.ClusterDownError(f"{node.name} may belong to another cluster by now")
        node.verified_at = time.monotonic()
        # A replica may have been promoted whose master hangs, and answers nobody.
        if slot_map.ranges != self._map.ranges:
            self._replace_map(slot_map)

    def _owner(self, key: bytes) -> Node:
        address = self._map.owners[key_slot(key)]
        if address is None:
            raise redis.exceptions.ClusterDownError("no node has the slot of this channel")
        return self._node(address)

    def _moved(self, moved: redis.exceptions.MovedError, by: Server) -> None:
        """The node that was named knows best, unless both belong to another cluster by now."""
        try:
            slot_map = self._node((moved.host or by.address[0], moved.port)).slot_map()
        except redis.RedisError:
            self._is_stale = True
            return
        if slot_map.continues(self._map):
            self._replace_map(slot_map)
        else:
            self._is_stale = True

    # -- the map ------------------------------------------------------------------------------------------------

    def _learn_if_stale(self) -> None:
        if self._is_stale or not self._map.ids:
            self._learn()

    def _learn(self) -> None:
        """Ask one node after the other until one tells what is surely a map of this cluster."""
        last, maps = self._map, dict[Node, SlotMap]()
        last_error: redis.RedisError = redis.ConnectionError("none of its nodes can be reached")
        for node in (*self._known_nodes(), *self._seeds):
            try:
                maps[node] = slot_map = node.slot_map()
            except redis.RedisError as error:
                last_error = error
                continue
            if slot_map.continues(last) or (
                not last.ids and self._votes(slot_map, maps) * 2 > len(self._seeds)
            ):
                self._replace_map(slot_map)
                return
        self._replace_map(self._most_likely_map(maps, last_error))

    def _most_likely_map(self, maps: Mapping[Node, SlotMap], last_error: redis.RedisError) -> SlotMap:
        """Return the map that shares the most nodes with the last one; where none shares one, that of most ``hosts``.

        Raises ``last_error`` if there is none, and ``ConnectionError`` if two clusters have the same claim.
        """
        kin = [node for node in maps if maps[node].shares(self._map)]
        claims = {
            node: (maps[node].shares(self._map), self._votes(maps[node], maps))
            for node in kin or [node for node in maps if node in self._seeds]
        }
        if not claims:
            raise last_error
        best = max(claims, key=claims.__getitem__)
        for node, claim in claims.items():
            if claim == claims[best] and not maps[node].shares(maps[best]):
                raise redis.ConnectionError(
                    f"{best.name} and {node.name} belong to different clusters. "
                    "Leave the nodes of one of them in CONFIG['hosts']"
                )
        return maps[best]

    def _known_nodes(self) -> list[Node]:
        """Those of the latest map in any order: first what answered last time, and masters before replicas."""
        nodes = [(address in self._map.replicas, self._node(address)) for address in self._map.addresses]
        chance.shuffle(nodes)
        return [node for _, node in sorted(nodes, key=lambda pair: (pair[1].may_hang, pair[0]))]

    def _votes(self, slot_map: SlotMap, maps: Mapping[Node, SlotMap]) -> int:
        """Count the ``hosts`` that tell this map, or are named in it."""
        return sum(
            maps[seed].shares(slot_map) > 0 if seed in maps else seed.address in slot_map.addresses
            for seed in self._seeds
        )

    def _replace_map(self, slot_map: SlotMap) -> None:
        gone = [node for address, node in self._nodes.items() if address not in slot_map.addresses]
        self._nodes = {address: node for address, node in self._nodes.items() if node not in gone}
        self._map, self._is_stale = slot_map, False
        for node in gone:
            node.has_left = True
            node.close()

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            node = self._nodes.setdefault(address, Node({**self._options, "host": host, "port": port}))
        return node


def _is_of_a_move(answer: object) -> bool:
    return isinstance(answer, redis.exceptions.AskError | redis.exceptions.TryAgainError)


def _has_not_run(answer: object) -> bool:
    """Tell whether the same has to be sent again, to another node (ASK and MOVED) or to the same one."""
    if not isinstance(answer, redis.ResponseError):
        return False
    return isinstance(answer, redis.exceptions.AskError) or remedy_for(answer) is Remedy.REPEAT


def check_nodes(hosts: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``InvalidSettings`` for hosts that cannot be nodes."""
    for host in hosts:
        if "sentinels" in host or "path" in host or str(host.get("address", "")).startswith("unix:"):
            raise InvalidSettings(
                "CONFIG['hosts'] of a Redis layer with \"cluster\" names nodes of the cluster, by host and port: "
                "Sentinels and Unix sockets have no place there."
            )


def _answers(node: Server) -> bool:
    try:
        node.exchange([("PING",)])
    except redis.RedisError:
        return False
    return True
