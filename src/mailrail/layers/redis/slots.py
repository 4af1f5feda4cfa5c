"""The map of a Cluster: which node has which slot, as one of its nodes tells it.

Addresses are used again, by other nodes and in other clusters. What names a node for good is its id (Valkey manual,
"CLUSTER SLOTS"), so maps are compared by the ids in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import redis

SLOTS = 16384

Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class SlotMap:
    """The masters by slot, and all nodes that have slots, replicas among them."""

    owners: Sequence[Address | None] = ()
    masters: frozenset[Address] = frozenset()
    replicas: frozenset[Address] = frozenset()
    ids: frozenset[bytes] = frozenset()
    ranges: frozenset[tuple[int, int, bytes]] = frozenset()  # first and last slot, id of their master

    @property
    def addresses(self) -> frozenset[Address]:
        """Return where the nodes are."""
        return self.masters | self.replicas

    def shares(self, other: SlotMap) -> int:
        """Count the nodes that both maps name."""
        return len(self.ids & other.ids)

    def continues(self, last: SlotMap) -> bool:
        """Tell whether this is surely a later map of the same cluster: it names most of the nodes.

        One node alone proves nothing: a soft reset leaves its id to a node that becomes a cluster of its own.
        """
        return 2 * self.shares(last) > len(last.ids)


def read_slot_map(answer: Any, host: str) -> SlotMap:
    """Read the answer to ``CLUSTER SLOTS`` of the node at ``host``.

    Raises redis-py's error for an answer that is one. Raises ``ClusterDownError`` for a map without slots, which a new
    or reset node sends.
    """
    if isinstance(answer, redis.ResponseError):
        raise answer
    if not answer:
        raise redis.exceptions.ClusterDownError("it belongs to no cluster that has slots")
    owners: list[Address | None] = [None] * SLOTS
    masters, replicas, ids = set[Address](), set[Address](), set[bytes]()
    for first, last, *nodes in answer:
        # A node that does not know its own address leaves the host out: it is where the answer came from.
        master, *others = [(name.decode() if name else host, port) for name, port, *_ in nodes]
        owners[first : last + 1] = [master] * (last + 1 - first)
        masters.add(master)
        replicas.update(others)
        ids.update(node[2] for node in nodes)
    ranges = frozenset((first, last, nodes[0][2]) for first, last, *nodes in answer)
    return SlotMap(owners, frozenset(masters), frozenset(replicas), frozenset(ids), ranges)
