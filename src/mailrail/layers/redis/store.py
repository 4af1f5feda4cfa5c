"""The store on one Redis or Valkey server, or one Cluster: a script (``lua/``) for each thing to do.

The server runs a script as a whole, by its own clock. On a Cluster, a call of a script reaches one channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any
from uuid import UUID

from ...errors import LayerUnavailable
from ...messages import (
    Content,
    Granted,
    Message,
    MessageSummary,
    Rate,
    Statement,
    check_channel_name,
    encode,
    new_token,
)
from ...pauses import Pause
from ...tracebacks import error_class
from ..store import (
    ERROR_LENGTH,
    PREVIEW_LENGTH,
    WORKER_FORGOTTEN_AFTER,
    ClaimCall,
    ClaimName,
    Counts,
    Leased,
    Listing,
    Move,
    Settlement,
    Store,
    Unconfirmed,
)
from ..waiting import NotifiedWaiting
from .channel_list import ChannelList, name_of
from .damage import Damage
from .history import RedisHistory
from .keys import Keys
from .listener import RedisListener
from .records import (
    Cipher,
    Unreadable,
    body_of,
    claims_of,
    ids_of,
    parts_of,
    read_batch,
    read_dead,
    read_error,
    read_message,
    record_of,
    token_bytes,
    with_waits,
)
from .round_robin import RoundRobin, by_channel, channels_of
from .scripts import Call, run, run_all, run_each
from .servers import Server

MOST_AT_ONCE = 100_000
"""Messages for one channel that one call may send: all or none of them means that the server does nothing else
meanwhile."""


class RedisStore(Store):
    """Keep messages on one server, or one Cluster. ``node``: serve what this node of the Cluster has, and hear there.

    On a Cluster, a call for several channels may fail for one alone, as its slot is on the move. It raises after the
    others are done.
    """

    def __init__(self, server: Server, keys: Keys, cipher: Cipher, node: Server | None = None) -> None:
        self.server, self.keys = server, keys
        self.channel_list = ChannelList(server, keys)
        self.history = RedisHistory(server, keys, cipher)
        self.waiting = NotifiedWaiting(
            lambda waiting: RedisListener(self.parts, keys.hash_tag, waiting.wake, waiting.look_again, node)
        )
        self._cipher = cipher
        self._is_node = node is not None
        self._damage = Damage()
        self._turns = count()

    def parts(self, channels: Iterable[str]) -> list[tuple[Server, list[str]]]:
        """Return the channels by their servers: they all have one."""
        names = list(channels)
        return [(self.server, names)] if names else []

    def _run(self, channel: str, verb: str, *args: Any, again: bool = False) -> Any:
        """Run the script of a verb on one channel."""
        return run(self.server, verb, [self.keys.hash_tag(channel)], *args, again=again)

    def _run_listed(self, channel: str, verb: str, *args: Any, again: bool = True) -> Any:
        """The same for verbs after which the channel must be among those that the server knows of."""
        keys = self.keys.listing(channel)
        self.channel_list.add([channel])
        return run(self.server, verb, keys, channel, *args, again=again)

    def run_on_each(self, channels: Iterable[str], verb: str, *args: Any) -> Iterator[tuple[str, Any]]:
        """Run a script that only reads on each of these channels. Yields the channels with the replies."""
        names = list(dict.fromkeys(channels))
        calls: list[Call] = [([self.keys.hash_tag(channel)], args) for channel in names]
        return zip(names, run_all(self.server, verb, calls, again=True), strict=True)

    def _run_on_workers(self, verb: str, *args: Any) -> Any:
        keys = [self.keys.of_layer("workers"), self.keys.of_layer("seen")]
        return run(self.server, verb, keys, *args, again=True)

    # -- sending ------------------------------------------------------------------------------------------------

    def insert(self, messages: Sequence[Message], record: Statement | None = None) -> list[UUID]:
        if len(messages) != 1:
            return self._insert_many(messages)
        [message] = messages
        verb = "enqueue" if message.key or message.lane else "send"
        body = body_of(message, self._cipher.seal)
        duplicates = self._run_listed(message.channel, verb, record_of(message), body)
        return [UUID(bytes=duplicates[1]) if duplicates else message.id]

    def _insert_many(self, messages: Sequence[Message]) -> list[UUID]:
        numbers: dict[str, list[int]] = {}
        records = [(record_of(message), body_of(message, self._cipher.seal)) for message in messages]
        for number, message in enumerate(messages):
            numbers.setdefault(check_channel_name(message.channel), []).append(number)
        _check_number(numbers)
        self.channel_list.add(numbers)
        ids = [message.id for message in messages]
        calls = [
            (self.keys.listing(channel), [channel, *chain.from_iterable(records[n] for n in of_channel)])
            for channel, of_channel in numbers.items()
        ]
        replies = zip(numbers, run_each(self.server, "enqueue", calls, again=True), strict=True)
        for channel, duplicates in _succeeded(replies):
            for number, waiting_id in parts_of(duplicates, 2):
                ids[numbers[channel][number - 1]] = UUID(bytes=waiting_id)
        return ids

    # -- claiming -----------------------------------------------------------------------------------------------

    def claim(self, call: ClaimCall) -> Leased:
        if self.server.is_cluster:
            round_robin = RoundRobin(self.server, self.keys.hash_tag, self._messages, self._damage, call)
            return round_robin.claim(next(self._turns))
        finished, channels = (
            by_channel(call.finished),
            channels_of(call),
        )
        tags = [self.keys.hash_tag(channel) for channel in channels]
        # Again while it has only dropped expired messages: the server does so many at once, and no more.
        while True:
            of_channels = [
                (call.limits.get(c, 0), call.leases.get(c, 0.0), claims_of(finished.get(c, ())))
                for c in channels
            ]
            values = (call.worker, token_bytes(call.token), call.total, *chain.from_iterable(of_channels))
            lost, batch, dropped, is_cut_short, broken, waits = run(self.server, "claim", tags, *values)
            stale = [finished[channels[i - 1]][n - 1] for i, n in parts_of(lost, 2)]
            call.expired += self._messages(channels, dropped)
            self._damage.report((channels[i - 1], reason) for i, reason in parts_of(broken, 2))
            if not is_cut_short:
                claims = with_waits(self._messages(channels, batch), waits)
                return Leased(claims, [(claim.id, claim.token) for claim in stale])
            finished = by_channel(stale)  # they stay lost, and are not to be leased

    def _messages(self, channels: Sequence[str], batch: bytes) -> list[Message]:
        return read_batch(channels, batch, self._cipher)

    def recover_claims(self, call: ClaimCall, tokens: Sequence[int]) -> list[Message]:
        """Each call of the script gets a token of its own, never one of the claims to come. If its reply is lost as
        well, its token must not name messages that run by then."""
        wanted = b"".join(map(token_bytes, tokens))
        groups = [(group, new_token()) for group in self.server.group_by_reach(list(call.limits))]
        calls: list[Call] = [
            (
                [*map(self.keys.hash_tag, group)],
                [wanted, token_bytes(token), *map(call.leases.__getitem__, group)],
            )
            for group, token in groups
        ]
        recovered: list[Message] = []
        replies = run_each(self.server, "recover_claims", calls)
        for (group, token), reply in zip(groups, replies, strict=True):
            if isinstance(reply, LayerUnavailable):
                call.unreached += group
                if reply.may_have_run:
                    call.unconfirmed.append(Unconfirmed(token, call.longest_lease, (), group))
            else:
                recovered += self._messages(group, reply)
        return recovered

    def settle(
        self, settlement: Settlement, claims: Sequence[Message], values: Mapping[str, Any]
    ) -> Sequence[ClaimName]:
        of_channel = by_channel(claims)
        calls: list[Call] = [
            (
                [self.keys.hash_tag(channel)],
                [claims_of(of_channel[channel]), *self._values(settlement, channel, values)],
            )
            for channel in of_channel
        ]
        # The leases of other channels are not to wait for one whose slot is being moved; nor is a node's claim loop.
        run_them = run_each if settlement == "renew" or self._is_node else run_all
        replies = zip(of_channel, run_them(self.server, settlement, calls), strict=True)
        lost = [of_channel[c][n - 1] for c, numbers in _succeeded(replies) for n in numbers]
        return [(claim.id, claim.token) for claim in lost]

    def _values(self, settlement: Settlement, channel: str, values: Mapping[str, Any]) -> Sequence[Any]:
        """Return what a script takes behind the claims."""
        if settlement == "renew":
            return [values["leases"][channel]]
        if settlement == "bury":
            return [self._sealed(values["error"]), values["error_class"]]
        if settlement == "finish":
            return []
        error = [] if values["error"] is None else [self._sealed(values["error"])]
        lane = [values["lane"] or "", values["places"] or 0]
        return [values["delay"], values["attempts"], int(values["alone"]), *lane, *error]

    def _sealed(self, error: str) -> bytes:
        return self._cipher.seal(error.encode())

    def next_due(self, channels: Sequence[str]) -> float | None:
        groups = self.server.group_by_reach(channels)
        calls: list[Call] = [([*map(self.keys.hash_tag, group)], ()) for group in groups]
        if self._is_node:
            replies = _reachable(run_each(self.server, "poll", calls))
        else:
            replies = run_all(self.server, "poll", calls, again=True)
        return min((float(seconds) for seconds in replies if seconds is not None), default=None)

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        [reply] = run_each(self.server, "take", [([self.keys.bucket(bucket)], (n, rate.count, rate.seconds))])
        if isinstance(reply, LayerUnavailable):
            raise reply
        granted, retry_after = reply
        return Granted(granted, float(retry_after))

    # -- what people ask for ------------------------------------------------------------------------------------

    def move(self, move: Move, channel: str, ids: Sequence[UUID]) -> list[UUID]:
        if move == "requeue":
            return _ids(self._run_listed(channel, move, ids_of(ids), again=False))
        return _ids(self._run(channel, move, ids_of(ids)))

    def pause(self, channel: str, pause: Pause | None) -> None:
        if pause is None:
            self._run(channel, "resume", again=True)
        else:
            who_and_why = [self._sealed(text) if text else b"" for text in (pause.by, pause.reason)]
            self._run_listed(channel, "pause", *who_and_why)

    def page(self, listing: Listing) -> list[MessageSummary]:
        at, id = listing.cursor
        cursor = ("", b"") if at in (float("-inf"), float("inf")) else (repr(at), id.bytes)
        bounds = (PREVIEW_LENGTH, *cursor, ERROR_LENGTH)
        is_dead = listing.state == "dead"
        if is_dead:
            of_class = "" if listing.error_class is None else f"={listing.error_class}"
            replies = self.run_on_each(listing.channels, "list_dead", listing.limit, of_class, *bounds)
        else:
            state = listing.state or ""
            replies = self.run_on_each(listing.channels, "list_waiting", listing.limit, state, *bounds)
        summaries = [
            self._summary(channel, row, body, kind, error, is_dead)
            for channel, rows in replies
            for row, body, kind, error in parts_of(rows, 4)
        ]
        return sorted(summaries, key=lambda summary: summary.cursor, reverse=is_dead)[: listing.limit]

    def _summary(
        self, channel: str, row: bytes, body: bytes, kind: bytes, error: bytes, is_dead: bool
    ) -> MessageSummary:
        """``kind``: the class of the error of a dead message, else its state."""
        m = read_message(channel, row, b"", self._cipher)  # without its body, of which a part was read
        shown = self._preview(error)
        return MessageSummary(
            channel=channel,
            id=m.id,
            at=m.due or 0.0,
            state="dead" if is_dead else kind.decode(),  # type: ignore[arg-type]  # as the script names them
            preview=self._preview(body).partition("\0")[0],
            attempt=m.attempt,
            losses=m.losses,
            priority=m.priority,
            lane=m.lane,
            key=m.key,
            worker=m.worker,
            error_class=name_of(kind) if is_dead else error_class(shown),
            error=shown,
        )

    def _preview(self, part: bytes) -> str:
        """Of what is encrypted and longer, nothing can be read."""
        try:
            return self._cipher.open(part).decode("utf-8", "ignore")
        except Unreadable:
            return ""

    def read(self, channel: str, ids: Sequence[UUID], is_dead: bool) -> Iterable[Message]:
        tag, verb = self.keys.hash_tag(channel), "get_dead" if is_dead else "get"
        calls: list[Call] = [([tag], [id.bytes]) for id in ids]
        for rows in run_all(self.server, verb, calls, again=True):
            if rows:
                row, body, error = rows
                message = (read_dead if is_dead else read_message)(channel, row, body, self._cipher)
                yield replace(message, error=read_error(error, self._cipher))

    def existing_ids(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        return set(_ids(self._run(channel, "existing_ids", ids_of(ids), again=True)))

    def channels(self) -> Iterable[str]:
        return self.channel_list.read()

    def error_classes(self, channels: Sequence[str]) -> Iterable[str]:
        return [name_of(name) for _, names in self.run_on_each(channels, "error_classes") for name in names]

    def count(self, most: int) -> Counts:
        groups = self.server.group_by_reach(self.channel_list.read())
        of_list = [] if self.server.is_cluster else [self.keys.of_layer("channels")]
        calls: list[Call] = [([*map(self.keys.hash_tag, names), *of_list], names) for names in groups]
        live, dead, paused = dict[str, Sequence[Any]](), dict[str, int](), dict[str, Pause]()
        for names, rows in zip(groups, run_all(self.server, "stats", calls, again=True), strict=True):
            for name, row in zip(names, rows, strict=True):
                if any(row[:5]):
                    *live[name], dead[name], is_paused, oldest, pause = row
                    live[name] = [*live[name], float(oldest or 0)]
                    if is_paused:
                        paused[name] = self._pause(*pause)
        self.channel_list.forget_unused(live)
        return Counts(live, dead, paused)

    def _pause(self, since: bytes, by: bytes, reason: bytes) -> Pause:
        return Pause(float(since), self._preview(by), self._preview(reason))

    def beat(self, worker: str, info: Content | None) -> None:
        details = "" if info is None else encode(info, "info")
        # A channel that is served stays on the list.
        self.channel_list.add(info.get("channels", ()) if info else ())
        self._run_on_workers("heartbeat", worker, details, WORKER_FORGOTTEN_AFTER)

    def workers(self) -> Iterable[tuple[str, str | bytes, float]]:
        rows = self._run_on_workers("workers", WORKER_FORGOTTEN_AFTER)
        return [(id.decode("utf-8", "replace"), text, float(age)) for id, text, age in rows]

    def advance_time(self, seconds: float) -> None:
        calls: list[Call] = [([self.keys.hash_tag(name)], [seconds]) for name in self.channel_list.read()]
        run_all(self.server, "age_channel", calls)
        buckets = {
            key
            for node in self.server.nodes()
            for pattern in self.keys.all_buckets()
            for key in node.ask("KEYS", pattern)  # slow: it is for tests
        }
        run_all(self.server, "age_bucket", [([bucket], [seconds]) for bucket in buckets])
        self._run_on_workers("age_workers", seconds)
        self.history.advance_time(seconds)


def _succeeded(replies: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the replies that came, by their channels. Raises behind them for those that did not."""
    errors: list[LayerUnavailable] = []
    for channel, reply in replies:
        if isinstance(reply, LayerUnavailable):
            errors.append(reply)
        else:
            yield channel, reply
    for error in errors:
        raise error


def _reachable(replies: Sequence[Any]) -> Sequence[Any]:
    """Leave out the channels whose slots are being moved. Raises if there are no others."""
    settled = [reply for reply in replies if not isinstance(reply, LayerUnavailable)]
    if replies and not settled:
        raise replies[0]
    return settled


def _check_number(numbers: Mapping[str, Sequence[int]]) -> None:
    for channel, of_channel in numbers.items():
        if len(of_channel) > MOST_AT_ONCE:
            raise ValueError(
                f"{len(of_channel):,} messages for channel {channel!r} are more than the Redis layer stores at once: "
                f"all or none of them would hold the server up for too long. Send at most {MOST_AT_ONCE:,} in one call."
            )


def _ids(ids: Iterable[bytes]) -> list[UUID]:
    return [UUID(bytes=id) for id in ids]
