"""Connections to one server, shared by all threads, for many short calls.

redis-py's own pool asks the operating system about a connection every time it hands one out. Its client also measures
each command. Together that costs as much as the round trip itself. Here a connection is checked only after it has been
idle for a while. A connection that breaks in between makes the next call fail, and that call reports it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from weakref import finalize

import redis

from ...transient import Remedy, remedy_for

IDLE_BEFORE_CHECK_S = 1.0
"""Seconds without use after which a connection is looked at before it is used again."""

_SENT = "mailrail_sent"
"""What tells of an error whether it came before the commands were sent."""

Command: TypeAlias = Sequence[bytes | str | int | float]


class Connections:
    """At most ``most`` connections at once; whoever needs one more waits for its turn, ``timeout`` seconds."""

    def __init__(self, source: redis.ConnectionPool, most: int, timeout: float) -> None:
        self._source = source
        self._most = most
        self._timeout = timeout
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[tuple[Any, float]] = deque()  # the last used one is used next
        self._turns: SimpleQueue[bool] = SimpleQueue()  # a semaphore costs ten times as much
        for _ in range(min(self._most, 10_000)):
            self._turns.put(True)
        # With a layer that is dropped, as after a change of settings in a test. Left to themselves, its sockets may go
        # before the connections that would close them, and warn.
        finalize(self, _close_all, self._idle).atexit = False

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, and return their answers, errors of the server among them. Raises what redis-py raises."""
        if self._pid != os.getpid():  # the parent's connections stay the parent's
            self._forget()
        turns = self._turns
        try:
            turns.get(timeout=self._timeout)
        except Empty:
            raise redis.TimeoutError(f"all {self._most} connections (max_connections) are in use") from None
        try:
            return self._exchange(commands)
        finally:
            turns.put(True)

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            connection, used_at = self._source.make_connection(), 0.0
        is_sent = False
        try:
            if time.monotonic() - used_at > IDLE_BEFORE_CHECK_S and _is_unusable(connection):
                connection.disconnect()
            connection.connect()  # if it is not
            is_sent = True
            connection.send_packed_command([_packed(command) for command in commands])
            return [_answer(connection) for _ in commands]
        except BaseException as error:  # an answer may still be on its way
            connection.disconnect()
            setattr(error, _SENT, is_sent)
            raise
        finally:
            self._idle.append((connection, time.monotonic()))

    def close(self) -> None:
        """Close those that nobody uses at the moment."""
        _close_all(self._idle)


def _close_all(idle: deque[tuple[Any, float]]) -> None:
    while idle:
        idle.pop()[0].disconnect()


def may_have_run(error: redis.RedisError) -> bool:
    """May the server have got the commands that failed with this?"""
    return bool(getattr(error, _SENT, True))


def not_sent(error: redis.RedisError) -> redis.RedisError:
    """Mark an error that came before the commands were sent, and return it."""
    setattr(error, _SENT, False)
    return error


def keys_of(command: Command) -> Sequence[bytes]:
    """The keys of a script's call, or the one of another command."""
    keys: Any = command[3 : 3 + int(command[2])] if command[0] in ("EVALSHA", "EVAL") else command[1:2]
    return keys  # type: ignore[no-any-return]


def _is_unusable(connection: Any) -> bool:
    """Has the server closed it, or is there an answer that nobody waits for?"""
    try:
        return bool(connection.can_read(timeout=0))
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return True


def _packed(command: Command) -> bytes:
    """A command as RESP, the protocol, has it: an array of bulk strings."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        if isinstance(argument, bytes):
            parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
        else:
            parts.append(_bulk(argument))
    return b"".join(parts)


@lru_cache(4096, typed=True)
def _bulk(argument: str | int | float) -> bytes:
    """What is no bytes comes again and again: names of commands and channels, numbers of keys, lengths of leases."""
    value = str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        if remedy_for(error) is Remedy.RECONNECT:
            # No master any more. It has run nothing, and never will; its address may lead to another one by now.
            raise redis.ConnectionError(str(error)) from error
        return error
