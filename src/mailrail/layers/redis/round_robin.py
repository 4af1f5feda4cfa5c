"""Claiming channel by channel, where one call of a script reaches one channel: on a cluster.

As many channels as fit into what may still be claimed are asked together, in one round trip to each node. Priorities
hold within a channel; between channels it goes by round_robin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import LayerUnavailable
from ...messages import Message, new_token
from ..store import ClaimCall, ClaimName, Leased, Unconfirmed
from .damage import Damage
from .records import claims_of, parts_of, token_bytes, with_waits
from .scripts import run_each
from .servers import Server


@dataclass
class ChannelRequest:
    """What a call asks of one channel, under a token of its own: some answers may come and others not."""

    channel: str
    token: int
    room: int
    lease: float
    finished: Sequence[Message]
    error: LayerUnavailable | None = None


def by_channel(claims: Iterable[Message]) -> dict[str, list[Message]]:
    """Return claims by their channels, each once."""
    groups: dict[str, list[Message]] = {}
    for claim in {(claim.id, claim.token): claim for claim in claims}.values():
        groups.setdefault(claim.channel, []).append(claim)
    return groups


def channels_of(call: ClaimCall) -> list[str]:
    """Return the channels that a call settles on or claims from."""
    return list(dict.fromkeys([*(claim.channel for claim in call.finished), *call.limits]))


class RoundRobin:
    """One claim that goes round the channels."""

    def __init__(
        self,
        server: Server,
        hash_tag: Callable[[str], bytes],
        read: Callable[[Sequence[str], bytes], list[Message]],
        damage: Damage,
        call: ClaimCall,
    ) -> None:
        self._server = server
        self._hash_tag = hash_tag
        self._read = read
        self._damage = damage
        self._call = call
        self._finished = by_channel(call.finished)
        self._asked: list[ChannelRequest] = []
        self._claims: list[Message] = []
        self._lost: list[ClaimName] = []

    def claim(self, turn: int) -> Leased:
        """Claim. ``turn`` says which channel is the first."""
        left, queue = self._call.total, deque(self._in_turn(turn))
        while part := self._next_part(queue, left):
            left -= self._ask(part, left, queue)
        failed = [asked for asked in self._asked if asked.error]
        # Some nodes may be away: what the others gave is worked on, unless something would pass for finished.
        is_useless = not (self._claims or self._lost or self._call.expired)
        error = (
            failed[0].error if failed and (is_useless or any(asked.finished for asked in failed)) else None
        )
        self._call.unconfirmed.extend(
            Unconfirmed(asked.token, asked.lease, asked.finished, [asked.channel] if asked.room else [])
            for asked in self._asked
            if (asked.error.may_have_run if asked.error else error is not None)
        )
        if error is not None:
            raise error
        self._claims.sort(key=lambda claim: -claim.priority)
        return Leased(self._claims, self._lost)

    def _in_turn(self, turn: int) -> list[str]:
        call = self._call
        channels = list(call.limits)
        first = turn % max(1, len(channels))
        channels = channels[first:] + channels[:first]
        # Then they cannot all be asked at once.
        if sum(call.limits.values()) > call.total and len(channels) > 1:
            answers = run_each(self._server, "is_due", [([self._hash_tag(c)], ()) for c in channels])
            is_due = dict(zip(channels, answers, strict=True))  # an error counts, too: the claim will tell it
            channels = [c for c in channels if is_due[c] or c in self._finished]
        return channels + [channel for channel in self._finished if channel not in call.limits]

    def _next_part(self, queue: deque[str], left: int) -> list[ChannelRequest]:
        """The next channels that can be asked together without claiming more than ``left``."""
        part: list[ChannelRequest] = []
        call, reserved = self._call, 0
        while queue:
            channel = queue[0]
            room, finished = min(call.limits.get(channel, 0), left), self._finished.get(channel, ())
            if part and room and reserved + room > left:
                break
            queue.popleft()
            if room or finished:
                reserved += room
                part.append(
                    ChannelRequest(channel, new_token(), room, call.leases.get(channel, 0.0), finished)
                )
        return part

    def _ask(self, part: list[ChannelRequest], left: int, queue: deque[str]) -> int:
        """Returns how much was claimed. A channel that has only dropped expired messages is asked again."""
        number = 0
        while part:
            answers = run_each(self._server, "claim", [self._arguments(asked) for asked in part])
            cut_short = []
            for asked, answer in zip(part, answers, strict=True):
                self._asked.append(asked)
                if isinstance(answer, LayerUnavailable):
                    asked.error = answer
                    continue
                lost, claims, dropped, is_cut_short, broken, waits = answer
                self._damage.report((asked.channel, reason) for _, reason in parts_of(broken, 2))
                stale = [asked.finished[n - 1] for _, n in parts_of(lost, 2)]
                if is_cut_short:  # they stay lost, and are not to be leased
                    cut_short.append(
                        ChannelRequest(asked.channel, new_token(), asked.room, asked.lease, stale)
                    )
                else:
                    self._lost += [(claim.id, claim.token) for claim in stale]
                claimed = with_waits(self._read([asked.channel], claims), waits)
                self._claims += claimed
                self._call.expired.extend(self._read([asked.channel], dropped))
                number += len(claimed)
            part = cut_short
        return number

    def _arguments(self, asked: ChannelRequest) -> tuple[list[bytes], list[Any]]:
        args = (self._call.worker, token_bytes(asked.token), asked.room, asked.room, asked.lease)
        return [self._hash_tag(asked.channel)], [*args, claims_of(asked.finished)]
