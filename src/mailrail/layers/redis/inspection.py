"""Inspection of the Redis layer: a script for each channel, all of a server's in one round trip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from ...messages import DeadMessage, Message, MessageSummary, Place, State
from ...tracebacks import error_class
from ..inspection import ERROR_LENGTH, PREVIEW_LENGTH, Waiting, latest, soonest
from ..notifications import NotifiedLayer
from .keys import Keys
from .records import Cipher, Unreadable, parts_of, read_dead, read_error, read_message
from .scripts import run, run_all
from .servers import Server, Servers


class RedisInspection(NotifiedLayer):
    """What the verbs run on, and those that only look."""

    _servers: Servers
    _keys: Keys
    _cipher: Cipher

    def _run(self, channel: str, verb: str, *args: Any, again: bool = False) -> Any:
        """Run the script of a verb on one channel."""
        return run(self._servers.of(channel), verb, [self._keys.tag(channel)], *args, again=again)

    def _run_on_each(self, channels: Iterable[str], verb: str, *args: Any) -> Iterator[tuple[str, Any]]:
        """Run a script that only reads on each of these channels. Yields the channels with the answers."""
        for server, part in self._servers.parts(dict.fromkeys(channels)):
            calls = [([self._keys.tag(channel)], args) for channel in part]
            yield from zip(part, run_all(server, verb, calls, again=True), strict=True)

    def _listed(self, server: Server) -> list[str]:
        """The channels that this server knows of, and some that it has nothing of any more."""
        if self._servers.is_cluster:
            names = server.ask("ZRANGE", self._keys.of_layer("listed"), 0, -1)
        else:
            names = server.ask("SMEMBERS", self._keys.of_layer("channels"))
        return sorted(_name(name) for name in names)

    # -- the verbs ----------------------------------------------------------------------------------------------

    def list_channels(self) -> list[str]:
        return sorted({name for server in self._servers for name in self._listed(server)})

    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[MessageSummary]:
        answers = self._run_on_each(
            channels, "list_waiting", limit, state or "", PREVIEW_LENGTH, *_place(after), ERROR_LENGTH
        )
        found = (
            self._read_failed(channel, row, body, state.decode(), self._preview(error))
            for channel, rows in answers
            for row, body, state, error in parts_of(rows, 4)
        )
        return soonest(found, limit)

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        of_class = "" if error_class is None else f"={error_class}"
        bounds = (PREVIEW_LENGTH, *_place(before), ERROR_LENGTH)
        answers = self._run_on_each(channels, "list_dead", limit, of_class, *bounds)
        found = (
            self._read_summary(channel, row, body, "dead", _name(name), self._preview(error))
            for channel, rows in answers
            for row, body, name, error in parts_of(rows, 4)
        )
        return latest(found, limit)

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        answers = self._run_on_each(channels, "error_classes")
        return sorted({_name(name) for _, names in answers for name in names})

    def get(self, channel: str, id: UUID) -> Message | None:
        rows = self._run(channel, "get", id.bytes, again=True)
        if not rows:
            return None
        row, body, error = rows
        return replace(read_message(channel, row, body, self._cipher), error=read_error(error, self._cipher))

    def get_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        rows = self._run(channel, "get_dead", id.bytes, again=True)
        if not rows:
            return None
        row, body, error = rows
        return read_dead(channel, row, body, error, self._cipher)

    def _read_failed(self, channel: str, row: bytes, body: bytes, state: State, error: str) -> MessageSummary:
        return self._read_summary(channel, row, body, state, error_class(error), error)

    def _read_summary(
        self, channel: str, row: bytes, body: bytes, state: State, error_class: str = "", error: str = ""
    ) -> MessageSummary:
        m = read_message(channel, row, b"", self._cipher)  # without its body, of which a part was read
        preview = self._preview(body).partition("\0")[0]
        return MessageSummary(
            channel=channel,
            id=m.id,
            at=m.due or 0.0,
            state=state,
            preview=preview,
            attempt=m.attempt,
            losses=m.losses,
            priority=m.priority,
            lane=m.lane,
            key=m.key,
            worker=m.worker,
            error_class=error_class,
            error=error,
        )

    def _preview(self, part: bytes) -> str:
        """Of what is encrypted and longer, nothing can be read."""
        try:
            return self._cipher.open(part).decode("utf-8", "ignore")
        except Unreadable:
            return ""


def _name(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _place(place: Place | None) -> tuple[str, bytes]:
    return (repr(place[0]), place[1].bytes) if place else ("", b"")
