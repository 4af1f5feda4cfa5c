"""The Redis layer's verbs: each is a script (``lua/``), which the server runs as a whole, by its own clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from typing import Any
from uuid import UUID

from channels_redis.core import RedisChannelLayer as ChannelsRedisLayer
from django.conf import settings as django_settings
from django.db import DEFAULT_DB_ALIAS

from ...errors import InvalidSettings, LayerUnavailable
from ...messages import (
    Claimed,
    Message,
    check_channel_name,
    new_token,
)
from ...namespace import current
from ...options import Mistakes
from ...tracebacks import error_class
from ..base import DurableLayer, Lease, lease_for
from ..lost_replies import UnconfirmedClaims
from ..outbox import Outbox
from .channels import EphemeralChannels
from .cluster import ClusterServers
from .damage import Damage
from .keys import Keys
from .listener import RedisListener
from .operations import RedisOperations
from .records import (
    Cipher,
    body_of,
    claims_of,
    ids_of,
    parts_of,
    read_batch,
    record_of,
    token_bytes,
)
from .round_robin import ClaimRequest, RoundRobin, by_channel
from .scripts import run, run_all, run_each
from .servers import Server, Servers
from .shards import Shards

MOST_AT_ONCE = 100_000
"""Messages for one channel that one call may send: all or none of them means that the server does nothing else
meanwhile."""


class RedisChannelLayer(EphemeralChannels, RedisOperations):
    """Take all of ``channels_redis.core.RedisChannelLayer`` in ``CONFIG``, and these options. ``routing``: the path of
    a list of routes. ``using``: the database whose transactions sends wait for. ``cluster``: whether ``hosts`` are
    nodes of one cluster. ``outbox``: whether sends are written to that database, and relayed after the commit."""

    is_durable = True
    is_shared = True
    is_node = False
    """Is it one of the ``shards`` of a cluster, and so one of its nodes?"""

    def __init__(
        self,
        hosts: Any = None,
        prefix: str = "asgi",
        *,
        routing: str | None = None,
        using: str = "default",
        cluster: bool = False,
        outbox: bool = False,
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
        **config: Any,
    ) -> None:
        mistakes = Mistakes(InvalidSettings)
        for said in _wrong(prefix, using, outbox, symmetric_encryption_keys):
            mistakes.add(InvalidSettings(said))
        with mistakes.noted():
            self._servers = ClusterServers(hosts) if cluster else Servers(hosts)
        mistakes.raise_any(InvalidSettings)
        if namespace := current():
            prefix = f"{prefix}/{namespace}"
        ChannelsRedisLayer.__init__(
            self, hosts, prefix, symmetric_encryption_keys=symmetric_encryption_keys, **config
        )
        DurableLayer.__init__(self)
        self.orders_channels = not cluster and len(self._servers.all) == 1
        self.is_sharded = not self.orders_channels
        self.is_on_cluster = cluster
        if cluster:
            self.extensions: list[str] = []  # no groups: Channels and our checks look here
        self.routing = routing
        self.using = using
        self.outbox = Outbox(self, using) if outbox else None
        self.joins_transactions = outbox
        self._keys = Keys(prefix, cluster)
        self._cipher = Cipher(symmetric_encryption_keys)
        self._listener = RedisListener(self._servers, self._keys.tag, self.wake, self._wake_up)
        self._unconfirmed = UnconfirmedClaims()
        self._damage = Damage()
        self._claims_so_far = 0
        self._shards = Shards(self)

    def shards(self, channels: Iterable[str]) -> Mapping[DurableLayer, list[str]]:
        return self._shards.of(channels) if self.is_sharded else super().shards(channels)

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        if len(messages) == 1:
            [message] = messages
            verb = "enqueue" if message.key or message.lane else "send"
            body = body_of(message, self._cipher.seal)
            try:
                twins = self._run_listed(message.channel, verb, record_of(message), body)
            except LayerUnavailable as error:
                raise self._unavailable({message.channel: error}) from error.__cause__
            return [UUID(bytes=twins[1]) if twins else message.id]
        return self._enqueue_many(messages)

    def _enqueue_many(self, messages: Sequence[Message]) -> list[UUID]:
        numbers: dict[str, list[int]] = {}
        parts = [(record_of(message), body_of(message, self._cipher.seal)) for message in messages]
        for number, message in enumerate(messages):
            numbers.setdefault(check_channel_name(message.channel), []).append(number)
        _check_number(numbers)
        ids = [message.id for message in messages]
        self._list(numbers)
        unavailable: dict[str, LayerUnavailable] = {}
        for server, channels in self._servers.parts(numbers):
            calls = [
                (self._keys.listing(c), [c, *(s for n in numbers[c] for s in parts[n])]) for c in channels
            ]
            for channel, twins in zip(channels, run_each(server, "enqueue", calls, again=True), strict=True):
                if isinstance(twins, LayerUnavailable):
                    unavailable[channel] = twins
                    continue
                for place, twin in parts_of(twins, 2):
                    ids[numbers[channel][place - 1]] = UUID(bytes=twin)
        if unavailable:
            raise self._unavailable(unavailable)
        return ids

    def _unavailable(self, unavailable: Mapping[str, LayerUnavailable]) -> LayerUnavailable:
        """What to raise for these channels when the others were reached, if there are others."""
        error = next(iter(unavailable.values()))
        error.channels = frozenset(unavailable) if self.is_sharded else None
        return error

    def check_immediately(self) -> None:
        """The server knows nothing of the caller's transaction."""

    # -- working ------------------------------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        limits: Mapping[str, int],
        lease: Lease,
        finished: Sequence[Message] = (),
        total: int | None = None,
    ) -> Claimed:
        total = sum(limits.values()) if total is None else total
        limits = {channel: room for channel, room in limits.items() if room > 0 and total > 0}
        settling = by_channel(finished)
        leases = {channel: lease_for(channel, lease) for channel in {**limits, **settling}}
        call = ClaimRequest(worker, new_token(), limits, leases, settling)
        self._claims_so_far += 1
        try:
            claimed = self._recover_claims(call)
            if claimed is None:
                claimed = self._claim_all(call, total)
                claimed = claimed._replace(lost=self._really_lost(claimed.lost))
        except LayerUnavailable as error:  # whatever has this token by now will be recovered
            if error.may_have_run or finished:
                channels = () if self.is_sharded else limits  # parts have tokens of their own
                self._unconfirmed.note(worker, call.token, call.longest_lease, finished, channels=channels)
            raise
        self._fruitless = 0 if claimed.claims else self._fruitless + 1
        return claimed

    def _claim_all(self, call: ClaimRequest, total: int) -> Claimed:
        return (
            self._claim_by_turns(call, total)
            if self._servers.is_cluster
            else self._claim_at_once(call, total)
        )

    def _claim_at_once(self, call: ClaimRequest, total: int) -> Claimed:
        parts = self._in_turn(self._servers.parts({**call.limits, **call.finished}))
        if len(parts) == 1:
            [(server, channels)] = parts
            return self._claim(server, channels, call, total)
        return self._claim_from_each(parts, call, total)

    def _claim_from_each(
        self, parts: Sequence[tuple[Server, list[str]]], call: ClaimRequest, total: int
    ) -> Claimed:
        """What is away keeps nobody from what the others gave, unless something would pass for finished."""
        claimed = Claimed([], [], [])
        errors, tokens, is_open = list[LayerUnavailable](), list[int](), False
        for server, channels in parts:
            own = replace(call, token=new_token())  # one that is not answered must name nothing that runs
            try:
                part = self._claim(server, channels, own, total - len(claimed.claims))
            except LayerUnavailable as error:
                errors.append(error)
                finished = [claim for channel in channels for claim in call.finished.get(channel, ())]
                is_open = is_open or bool(finished)
                if error.may_have_run or finished:
                    limited = [channel for channel in channels if channel in call.limits]
                    self._unconfirmed.note(
                        call.worker, own.token, call.longest_lease, finished, channels=limited
                    )
            else:
                tokens.append(own.token)
                for all_of_them, these in zip(claimed, part, strict=True):
                    all_of_them += these
        if errors and (is_open or not any(claimed)):
            for token in tokens:
                self._unconfirmed.note(call.worker, token, call.longest_lease, ())
            raise errors[0]
        return claimed

    def _in_turn(self, parts: list[tuple[Server, list[str]]]) -> list[tuple[Server, list[str]]]:
        """Several servers: each claim begins with another one, so that a busy one starves no other."""
        first = self._claims_so_far % max(1, len(parts))
        return parts[first:] + parts[:first]

    def _claim_by_turns(self, call: ClaimRequest, total: int) -> Claimed:
        """On a cluster. Each call begins with another channel, so that a busy one starves no other."""
        round_robin = RoundRobin(self._servers.of(""), self._keys.tag, self._messages, self._damage, call)
        round_robin.claim(total, self._claims_so_far)
        for asked in round_robin.unconfirmed():
            channels = [asked.channel] if asked.room else []
            self._unconfirmed.note(call.worker, asked.token, asked.lease, asked.finished, channels=channels)
        if round_robin.error is not None:
            raise round_robin.error
        return round_robin.claimed

    def _claim(self, server: Server, channels: Sequence[str], call: ClaimRequest, total: int) -> Claimed:
        """Again while it has only dropped expired messages: the server does so many at once, and no more."""
        tags, finished, expired = [self._keys.tag(c) for c in channels], call.finished, []
        while True:
            of_channels = [
                (call.limits.get(c, 0), call.leases.get(c, 0.0), claims_of(finished.get(c, ())))
                for c in channels
            ]
            lost, claims, dropped, is_cut_short, broken = run(
                server, "claim", tags, call.worker, token_bytes(call.token), total, *chain(*of_channels)
            )
            stale = [finished[channels[i - 1]][n - 1] for i, n in parts_of(lost, 2)]
            expired += self._messages(channels, dropped)
            self._damage.tell((channels[i - 1], why) for i, why in parts_of(broken, 2))
            if not is_cut_short:
                return Claimed(self._messages(channels, claims), stale, expired)
            finished = by_channel(stale)  # they stay lost, and are not to be leased

    def _messages(self, channels: Sequence[str], batch: bytes) -> list[Message]:
        return read_batch(channels, batch, self._cipher)

    def _recover_claims(self, call: ClaimRequest) -> Claimed | None:
        """Claims of ours whose answer was lost, found by their token, under new ones.

        They take the room that the call before had, so this one only settles. Each script call gets a token of its own,
        never one of the claims to come. If the answer to this call is lost as well, its token must not name messages
        that run by then.
        """
        unconfirmed = self._unconfirmed.tokens(call.worker) if call.limits else []
        wanted = b"".join(map(token_bytes, unconfirmed))
        found: list[Message] = []
        recovered: list[int] = []
        for server, channels in self._servers.parts(call.limits) if unconfirmed else ():
            groups = [(group, new_token()) for group in server.together(channels)]
            calls = [
                (
                    [*map(self._keys.tag, group)],
                    [wanted, token_bytes(token), *map(call.leases.__getitem__, group)],
                )
                for group, token in groups
            ]
            for (group, token), rows in zip(groups, run_each(server, "recover_claims", calls), strict=True):
                if isinstance(rows, LayerUnavailable):
                    if rows.may_have_run:
                        self._unconfirmed.note(call.worker, token, call.longest_lease, (), channels=group)
                else:
                    self._unconfirmed.confirmed(call.worker, group)
                    found += self._messages(group, rows)
                    recovered.append(token)
        if not found:
            return None
        try:
            lost = self.finish(list(chain(*call.finished.values())))
            return Claimed(found, self._really_lost(lost), [])
        except LayerUnavailable:
            for token in recovered:
                self._unconfirmed.note(call.worker, token, call.longest_lease, ())
            raise

    def _really_lost(self, lost: list[Message]) -> list[Message]:
        """Without those that a call of ours has finished whose answer was lost.

        Only for the log: where it cannot be asked, what was claimed just now is worth more.
        """
        stored: set[bytes] = set()
        ours = self._unconfirmed.may_have_finished(lost) if lost else []
        try:
            for channel, claims in by_channel(ours).items():
                stored.update(self._run(channel, "stored", ids_of(claim.id for claim in claims), again=True))
        except LayerUnavailable:
            return lost
        gone = {claim.id for claim in ours if claim.id.bytes not in stored}
        return [claim for claim in lost if claim.id not in gone]

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        return self._settle(claims, "renew", lambda channel: [lease_for(channel, lease)])

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        return self._settle(claims, "finish", lambda channel: [])

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        return self._settle([claim], "give_back", lambda channel: [delay, 0, int(alone), self._sealed(error)])

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        return self._settle(claims, "give_back", lambda channel: [delay, -1, 0])

    def bury(self, claim: Message, error: str) -> list[Message]:
        return self._settle([claim], "bury", lambda channel: [self._sealed(error), error_class(error)])

    def _sealed(self, error: str) -> bytes:
        return self._cipher.seal(error.encode("utf-8", "backslashreplace"))

    def _settle(
        self, claims: Sequence[Message], verb: str, arguments: Callable[[str], list[Any]]
    ) -> list[Message]:
        """Run a script on the claims of each channel. Returns those that it calls lost.

        A server that is unavailable keeps nobody from the others; then it raises, and says of which channels.
        """
        of_channel = by_channel(claims)
        lost: list[Message] = []
        unavailable: dict[str, LayerUnavailable] = {}
        for server, channels in self._servers.parts(of_channel):
            calls = [([self._keys.tag(c)], [claims_of(of_channel[c]), *arguments(c)]) for c in channels]
            for channel, numbers in zip(channels, self._answers(server, verb, calls), strict=True):
                if isinstance(numbers, LayerUnavailable):
                    unavailable[channel] = numbers
                else:
                    lost += [of_channel[channel][number - 1] for number in numbers]
        if unavailable:
            raise self._unavailable(unavailable)
        return lost

    def _answers(
        self, server: Server, verb: str, calls: Sequence[tuple[list[bytes], list[Any]]]
    ) -> list[Any]:
        # The leases of other channels are not to wait for one whose slot is being moved; nor is a node's claim loop.
        if verb == "renew" or self.is_node:
            return run_each(server, verb, calls)
        try:
            return run_all(server, verb, calls)
        except LayerUnavailable as error:
            return [error] * len(calls)

    def poll(self, channels: Sequence[str]) -> float | None:
        soon: list[float] = []
        for server, part in self._servers.parts(channels):
            calls = [([*map(self._keys.tag, group)], ()) for group in server.together(part)]
            answers = (
                self._settled_answers(server, calls)
                if self.is_node
                else run_all(server, "poll", calls, again=True)
            )
            soon += [float(seconds) for seconds in answers if seconds is not None]
        return min(soon, default=None)

    def _settled_answers(
        self, server: Server, calls: Sequence[tuple[list[bytes], Sequence[Any]]]
    ) -> list[Any]:
        """Poll without the channels whose slots are being moved. Raises if there are no others."""
        answers = run_each(server, "poll", calls)
        errors = [answer for answer in answers if isinstance(answer, LayerUnavailable)]
        if errors and len(errors) == len(answers):
            raise errors[0]
        return [answer for answer in answers if not isinstance(answer, LayerUnavailable)]


def _check_number(numbers: Mapping[str, Sequence[int]]) -> None:
    for channel, of_channel in numbers.items():
        if len(of_channel) > MOST_AT_ONCE:
            raise ValueError(
                f"{len(of_channel):,} messages for channel {channel!r} are more than the Redis layer stores at once: "
                f"all or none of them would hold the server up for too long. Send at most {MOST_AT_ONCE:,} in one call."
            )


def _wrong(prefix: str, using: str, outbox: Any, keys: Any) -> Iterator[str]:
    if not isinstance(prefix, str):
        yield f"CONFIG['prefix'] of the Redis layer must be a string, not {prefix!r}."
    if not isinstance(outbox, bool):
        yield f"CONFIG['outbox'] of the Redis layer must be True or False, not {outbox!r}."
    if using != DEFAULT_DB_ALIAS and using not in django_settings.DATABASES:
        yield f"CONFIG['using'] of the Redis layer names the database {using!r}, which is not in DATABASES."
    if isinstance(keys, str | bytes) or not all(isinstance(key, str | bytes) and key for key in keys or ()):
        yield "CONFIG['symmetric_encryption_keys'] must be a list of keys: the first one encrypts."
    if keys and find_spec("cryptography") is None:
        yield "CONFIG['symmetric_encryption_keys'] needs the package cryptography: pip install cryptography."
