"""Several real servers that belong together: a cluster, and a master that Sentinels watch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from redis.crc import key_slot

from .ports import free_port
from .processes import until
from .servers import ValkeyServer

SLOTS = 16384
COPY_AT_ONCE = {"repl_diskless_sync_delay": "0"}


class ValkeyCluster:
    """Masters that share the slots, and as many replicas of each as asked for."""

    def __init__(self, masters: int = 3, replicas: int = 0, **settings: str) -> None:
        self.masters = [self._node(settings) for _ in range(masters)]
        self.replicas = [self._node(settings) for _ in range(masters * replicas)]
        self._started = self.nodes

    @staticmethod
    def _node(settings: dict[str, str]) -> ValkeyServer:
        # A port of its own for the bus: the usual one is 10,000 higher, and may not exist.
        return ValkeyServer(cluster_enabled="yes", cluster_port=str(free_port()), **COPY_AT_ONCE, **settings)

    @property
    def nodes(self) -> list[ValkeyServer]:
        return self.masters + self.replicas

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def start(self) -> None:
        """Returns once every node knows who has which slot, and every replica follows its master."""
        for node in self.nodes:
            node.start()
        share = -(-SLOTS // len(self.masters))
        for number, node in enumerate(self.nodes):
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < len(self.masters):
                first = number * share
                ask(node, "CLUSTER", "ADDSLOTSRANGE", first, min(SLOTS, first + share) - 1)
            met = self.masters[0]
            ask(node, "CLUSTER", "MEET", "127.0.0.1", met.port, met.setting("cluster_port"))
        until(lambda: all(self._knows_all(node) for node in self.nodes), what="meeting of the nodes")
        for number, replica in enumerate(self.replicas):
            ask(replica, "CLUSTER", "REPLICATE", id_of(self.masters[number % len(self.masters)]))
        until(lambda: all(map(_follows, self.replicas)), what="the first copy")
        until(lambda: all(self._knows_all(node) for node in self.nodes), what="agreement of the nodes")

    def _knows_all(self, node: ValkeyServer) -> bool:
        info = ask(node, "CLUSTER", "INFO").decode()
        known = f"cluster_known_nodes:{len(self.nodes)}" in info and "cluster_state:ok" in info
        ranges = ask(node, "CLUSTER", "SLOTS") if known else []
        with_replicas = {len(nodes) for _, _, *nodes in ranges}
        return known and with_replicas <= {1, 1 + len(self.replicas) // len(self.masters)}

    def master_of(self, key: bytes) -> ValkeyServer:
        """The node that has this key now."""
        slot = key_slot(key)
        alive = next(node for node in self.nodes if node.is_running)
        for first, last, master, *_ in ask(alive, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    def take_out(self, node: ValkeyServer, how: str) -> None:
        """Empty a master, let the others forget it, reset it (HARD or SOFT), and let it have all slots by itself."""
        stay = [master for master in self.masters if master is not node]
        id = id_of(node)
        slots = [
            n
            for first, last, *nodes in ask(node, "CLUSTER", "SLOTS")
            for n in (first, last)
            if nodes[0][1] == node.port
        ]
        for other in stay:
            ask(other, "CLUSTER", "FORGET", id)
        ask(node, "CONFIG", "SET", "cluster-node-timeout", 500)  # as long it waits before it takes commands
        ask(node, "FLUSHALL")
        ask(node, "CLUSTER", "RESET", how)
        ask(node, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        ask(stay[0], "CLUSTER", "ADDSLOTSRANGE", *slots)
        self.masters = stay
        until(lambda: all(map(_has_all_slots, (*stay, node))), what="two clusters")

    def clear(self) -> None:
        for node in self.masters:
            ask(node, "FLUSHALL")

    def remove(self) -> None:
        for node in self._started:
            node.remove()


def ask(node: ValkeyServer, *command: Any) -> Any:
    """One command on one node, its answer as it came."""
    with node.client() as client:
        connection = client.connection_pool.get_connection()
        connection.send_command(*command)
        return connection.read_response()


def id_of(node: ValkeyServer) -> str:
    found: str = ask(node, "CLUSTER", "MYID").decode()
    return found


def _has_all_slots(node: ValkeyServer) -> bool:
    info = ask(node, "CLUSTER", "INFO").decode()
    return f"cluster_slots_ok:{SLOTS}" in info and "cluster_state:ok" in info


def wait_for_copies(master: ValkeyServer, tag: bytes = b"") -> None:
    """Wait until a replica has all that was written so far: WAIT asks about the writes of its own connection."""
    with master.client() as client:
        writing = client.pipeline(transaction=False).set(tag + b":mark", 1).execute_command("WAIT", 1, 20_000)
        [_, copies] = writing.execute()
    assert copies == 1


def _follows(replica: ValkeyServer) -> bool:
    role = ask(replica, "ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")


def move_slot(slot: int, source: ValkeyServer, target: ValkeyServer) -> Iterator[str]:
    """What an operator's tool does, key by key. Yields before each step."""
    yield "begin"
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(target))
    for key in ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10_000):
        yield f"move {key}"
        ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    yield "end"
    for node in (target, source):
        ask(node, "CLUSTER", "SETSLOT", slot, "NODE", id_of(target))


class WatchedMaster:
    """A master, a replica, and Sentinels that replace the one by the other."""

    NAME = "mailrail"

    def __init__(
        self, sentinels: int = 3, down_after: int = 1000, password: str = "", watchword: str = ""
    ) -> None:
        """``password``: of master and replica. ``watchword``: of the Sentinels, for us and among themselves."""
        closed = {"requirepass": password, "masterauth": password} if password else {}
        self.master = ValkeyServer(**COPY_AT_ONCE, **closed)
        self.replica = ValkeyServer(replicaof=f"127.0.0.1 {self.master.port}", **closed)
        self._down_after = down_after
        self._password, self._watchword = password, watchword
        guarded = {"requirepass": watchword} if watchword else {}
        self.sentinels = [ValkeyServer(**guarded) for _ in range(sentinels)]

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """For ``CONFIG["hosts"]``."""
        host: dict[str, Any] = {
            "sentinels": [("127.0.0.1", s.port) for s in self.sentinels],
            "master_name": self.NAME,
        }
        if self._password:
            host["password"] = self._password
        if self._watchword:
            host["sentinel_kwargs"] = {"password": self._watchword}
        return [host]

    def start(self) -> None:
        """Returns once the replica follows and all Sentinels know of each other."""
        self.master.start()
        self.replica.start()
        until(lambda: _follows(self.replica), what="the first copy")
        for sentinel in self.sentinels:
            sentinel.start_as_sentinel(
                f"sentinel monitor {self.NAME} 127.0.0.1 {self.master.port} {len(self.sentinels) // 2 + 1}",
                f"sentinel down-after-milliseconds {self.NAME} {self._down_after}",
                f"sentinel failover-timeout {self.NAME} 10000",
                *([f"sentinel auth-pass {self.NAME} {self._password}"] if self._password else []),
                *([f"requirepass {self._watchword}"] if self._watchword else []),
            )
        until(lambda: all(map(self._knows_all, self.sentinels)), what="meeting of the Sentinels")

    def _knows_all(self, sentinel: ValkeyServer) -> bool:
        flat = ask(sentinel, "SENTINEL", "MASTER", self.NAME)
        said = dict(zip(flat[::2], flat[1::2], strict=True))
        return int(said[b"num-slaves"]) == 1 and int(said[b"num-other-sentinels"]) == len(self.sentinels) - 1

    def wait_for_copies(self) -> None:
        wait_for_copies(self.master)

    def kill_master(self) -> None:
        self.master.stop(signal.SIGKILL)

    def remove(self) -> None:
        for server in (*self.sentinels, self.replica, self.master):
            server.remove()
