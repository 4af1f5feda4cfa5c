"""The servers of ``CONFIG["hosts"]``: the one place where connections of the durable verbs are made.

``hosts`` is written as for channels_redis: URLs, ``(host, port)``, dictionaries of redis-py's options, dictionaries
with ``sentinels`` and ``master_name``. Several hosts share the channels among them, each channel on one of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from channels_redis.utils import decode_hosts
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from ...errors import InvalidSettings, LayerUnavailable
from .connections import Command, Connections, may_have_run

CONNECT_TIMEOUT = 5.0
"""Seconds until a server that cannot be reached is given up (``socket_connect_timeout`` in ``hosts``)."""
ANSWER_TIMEOUT = 10.0
"""Seconds until one that does not answer is given up (``socket_timeout``). No verb waits on the server, and
channels_redis waits 5 seconds at a time: this has to be more."""
MOST_CONNECTIONS = 50
"""Connections of one process to one server at once (``max_connections``). Threads beyond that wait for their turn."""

SLOW_AFTER_S = 0.25
"""Seconds without an answer after which a server may hang. Whoever has a choice asks another one first."""

OLDEST_REDIS, OLDEST_VALKEY = (7, 0), (8, 0)


def options_of(host: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one of ``hosts``, those in its URL among them, one by one."""
    options = dict(host)
    if (address := options.pop("address", None)) is not None:
        parsed = redis.connection.parse_url(address)
        if issubclass(parsed.pop("connection_class", redis.Connection), redis.SSLConnection):
            parsed["ssl"] = True
        options.update(parsed)
    return options


def with_defaults(host: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one of ``hosts``, with timeouts: redis-py's own differ from release to release."""
    return {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": ANSWER_TIMEOUT, **host}


class Server:
    """One server (or the master that Sentinels name), and what people call it."""

    kind = "server"
    is_cluster = False
    is_away = False
    """Could the last exchange not be made?"""
    _asked_at = _answered_at = 0.0  # time.monotonic(); threads race for them, and each may win
    has_left = False
    """Is it a node that its cluster's map names no more?"""

    def __init__(self, host: Mapping[str, Any]) -> None:
        self.name = _name(host)
        self.address = (str(host.get("host", "localhost")), int(host.get("port", 6379)))
        options = with_defaults(options_of(host))
        self._pool = _pool(options)
        self._connections = Connections(
            self._pool,
            options.get("max_connections", MOST_CONNECTIONS),
            options["socket_timeout"] or ANSWER_TIMEOUT,
        )

    def __repr__(self) -> str:
        return f"<Server {self.name}>"

    def exchange(self, commands: Sequence[Command], again: bool = False) -> list[Any]:
        """Send commands, and return their answers, errors of the server among them.

        ``again``: once more on a new connection when the present one breaks; they must be safe to repeat. Raises
        redis-py's errors.
        """
        if self._answered_at >= self._asked_at:
            self._asked_at = time.monotonic()
        try:
            answers = self._exchange(commands, again)
        except redis.RedisError:
            self.is_away = True
            raise
        finally:
            self._answered_at = time.monotonic()
        self.is_away = False
        return answers

    @property
    def may_hang(self) -> bool:
        """Could the last exchange not be made, or does one take long by now?"""
        is_open = self._asked_at > self._answered_at
        return self.is_away or (is_open and time.monotonic() - self._asked_at > SLOW_AFTER_S)

    def _exchange(self, commands: Sequence[Command], again: bool) -> list[Any]:
        try:
            return self._connections.exchange(commands)
        except redis.ConnectionError:
            if not again:
                raise
        return self._connections.exchange(commands)

    def exchange_each(self, commands: Sequence[Command], again: bool = False) -> list[Any]:
        """The same, with redis-py's errors in the place of the answers that are missing."""
        try:
            return self.exchange(commands, again)
        except redis.RedisError as error:
            return [error] * len(commands)

    def ask(self, *command: Any) -> Any:
        """The answer to one command that is safe to repeat."""
        with self.plain_words():
            [answer] = self.exchange([command], again=True)
            if isinstance(answer, Exception):
                raise answer
            return answer

    def info(self, *sections: str) -> dict[str, str]:
        """What the command INFO tells."""
        text: bytes = self.ask("INFO", *sections)
        lines = text.decode("utf-8", "backslashreplace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def listen(self) -> Any:
        """A subscription of redis-py, on a connection of its own."""
        return redis.Redis(connection_pool=self._pool).pubsub()

    def node_to_listen_on(self) -> Server:
        """Return the one of them to listen on."""
        return self

    def nodes(self) -> list[Server]:
        """The servers that this one consists of."""
        return [self]

    def node_of(self, key: bytes) -> Server:
        """The one of them that has this key."""
        return self

    def may_hang_for(self, key: bytes) -> bool:
        """Tell whether the one of them that has this key may hang, without asking anybody."""
        return self.may_hang

    def group_by_reach(self, channels: Sequence[str]) -> list[list[str]]:
        """The channels by what one call of a script can reach."""
        return [list(channels)] if channels else []

    def unavailable(self, error: redis.RedisError) -> LayerUnavailable:
        """What to raise instead of one of redis-py's errors: it names the server."""
        unavailable = LayerUnavailable(
            f"The Redis {self.kind} {self.name}, from CONFIG['hosts'] of the layer, cannot be used: {_explain(error)}"
        )
        unavailable.may_have_run = may_have_run(error)
        return unavailable

    @contextmanager
    def plain_words(self) -> Iterator[None]:
        """Raise ``LayerUnavailable`` for whatever redis-py raises."""
        try:
            yield
        except redis.RedisError as error:
            raise self.unavailable(error) from error

    def close(self) -> None:
        """Close the connections that nobody uses at the moment."""
        self._connections.close()
        self._pool.disconnect(inuse_connections=False)


def read_hosts(hosts: Any) -> list[Mapping[str, Any]]:
    """Read ``CONFIG["hosts"]``. Raises ``InvalidSettings``."""
    try:
        read: list[Mapping[str, Any]] = decode_hosts(hosts)
        for host in read:
            options_of(host), _name(host)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidSettings(
            f"CONFIG['hosts'] of the Redis layer cannot be followed ({error}). Write a list of URLs, such as "
            '["redis://127.0.0.1:6379/0"].'
        ) from error
    return read


def _pool(options: Mapping[str, Any]) -> redis.ConnectionPool:
    # Connections does the counting: this pool would refuse one more, not wait.
    options = {**options, "max_connections": 2**31}
    # The connections of channels_redis get these.
    for asynchronous in ("retry", "connection_class", "connection_pool"):
        options.pop(asynchronous, None)
    # Retries are ours to decide: a claim whose answer is lost must not be repeated blindly. RESP2: the older and
    # smaller protocol has all that is needed.
    options.update(decode_responses=False, protocol=2)
    sentinels = options.pop("sentinels", None)
    if sentinels is not None:
        master = options.pop("master_name")
        asking = {
            "socket_connect_timeout": options["socket_connect_timeout"],
            "socket_timeout": options["socket_timeout"],
            "retry": Retry(NoBackoff(), 0),  # rather the next Sentinel than this one again
            **(options.pop("sentinel_kwargs", None) or {}),
        }
        watchers = Sentinel(sentinels, sentinel_kwargs=asking)
        return SentinelConnectionPool(master, watchers, **options)
    is_encrypted = options.pop("ssl", False)
    if "path" in options:
        options["connection_class"] = redis.UnixDomainSocketConnection
    elif is_encrypted:
        options["connection_class"] = redis.SSLConnection
    return redis.ConnectionPool(**options)


def _name(host: Mapping[str, Any]) -> str:
    """What people call a server: no password in it."""
    if "master_name" in host:
        watchers = ", ".join(f"{name}:{port}" for name, port in host["sentinels"])
        return f"{host['master_name']!r} of the Sentinels {watchers}"
    if "address" in host:
        options = redis.connection.parse_url(host["address"])
        return _name({**options, **{name: value for name, value in host.items() if name != "address"}})
    if "path" in host:
        return str(host["path"])
    database = f"/{host['db']}" if host.get("db") else ""
    return f"{host.get('host', 'localhost')}:{host.get('port', 6379)}{database}"


def _explain(error: redis.RedisError) -> str:
    if isinstance(error, redis.exceptions.NoPermissionError) or "NOPERM" in str(error):
        return f"its user may not do what the layer needs ({error}). Change the user's ACL rules."
    if isinstance(error, redis.AuthenticationError):
        return f"it does not accept the user or password ({error})."
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return f"it is full ({error}). Raise its maxmemory, or let workers empty it."
    if isinstance(error, redis.exceptions.MovedError | redis.exceptions.ClusterCrossSlotError):
        return f'it is a node of a cluster ({error}). Write "cluster": True into the layer\'s CONFIG.'
    return f"{str(error).rstrip('.') or type(error).__name__}."


def glob_of(start: bytes) -> bytes:
    """The pattern of all keys that begin so."""
    return re.sub(rb"([*?\[\]\\^])", rb"\\\1", start) + b"*"


def version_of(server: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    """What the section "server" of INFO says: "Redis" or "Valkey", and its version."""
    for kind in ("valkey", "redis"):
        if text := server.get(f"{kind}_version"):
            return kind.capitalize(), tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    return "Redis", (0,)


def check_version(name: str, info: Mapping[str, str]) -> None:
    """Raise ``InvalidSettings`` for a server that is too old."""
    kind, version = version_of(info)
    oldest = OLDEST_VALKEY if kind == "Valkey" else OLDEST_REDIS
    if version < oldest:
        raise InvalidSettings(
            f"The server {name} is {kind} {'.'.join(map(str, version))}; the Redis layer needs Redis 7 or Valkey 8 "
            "or newer. Upgrade it, or name another one in CONFIG['hosts']."
        )


def concerns(name: str, info: Mapping[str, str]) -> Sequence[str]:
    """What of a server's settings may lose messages, in words."""
    texts = []
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        texts.append(
            f"The Redis server {name} has maxmemory-policy {policy}: when its memory is full, it deletes waiting "
            "messages, or whole channels of them, and tells nobody. Set maxmemory-policy to noeviction: then a full "
            "server refuses new messages, and keeps the ones it has."
        )
    if not int(info.get("aof_enabled", 0)):
        texts.append(
            f"The Redis server {name} keeps no append-only file: when it crashes or its machine restarts, all messages "
            "sent or finished since its last snapshot are lost or run again; without snapshots, every message is lost. "
            "Set appendonly yes (appendfsync everysec loses at most about the last second, always loses nothing)."
        )
    return texts
