"""Every layer against a model of the contract (``tests.layers.model``), driven by Hypothesis.

Times: what the test moves the clock by is a multiple of 40 seconds, and every length of time (a delay, a lease, a
lifetime) an odd multiple of 20, or zero. So whatever is compared with the clock is at least 20 seconds away from it,
or was set to that very moment earlier: the real seconds that pass during an example change nothing.

A soak: ``MAILRAIL_HYPOTHESIS_EXAMPLES=2000``, or ``2000x100`` (examples x steps). A failure prints the steps and a
``@reproduce_failure(…)``, to be put above ``factory`` in ``_run``.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, count, cycle
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.db import connections, transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer, RedisChannelLayer
from mailrail.messages import ChannelStats, Message, Rate, new_token

from ..listed import dead_on, waiting_on
from .model import Asked, Entry, Fate, Model, Token, Wish

SOAK = os.environ.get("MAILRAIL_HYPOTHESIS_EXAMPLES", "")
EXAMPLES, STEPS = (*map(int, SOAK.split("x")), 60)[:2] if SOAK else (30, 60)
SECONDS_PER_TEST = 0 if SOAK else 600  # 0: no limit; it is shrinking a failure that takes long

CHANNELS = ("a", "b")
RATES = {"whole": Rate(4, 160), "halves": Rate(3, 240)}  # a token, half a token every 40 seconds
FOREVER = 40_000

Handle: TypeAlias = str
"""How a claim is named in the steps that are printed.

``c3``: the fourth one that a layer leased; ``c3~``: the same with other particulars, but its id and its token;
``m2``: the third message, never claimed; ``m2+c3``: that message with the token of another; ``?``: made up.
"""

channels = st.sampled_from("aab")
workers = st.sampled_from("vw")
lengths = st.sampled_from([20, 60, 100, 300])
delays = st.sampled_from([0, 0, 0, 20, 100])


def now_and_then(*values: Any) -> st.SearchStrategy[Any]:
    """Rather nothing than something: what is due, lives and belongs together must not be the exception."""
    return st.sampled_from([None] * 2 * len(values) + [*values])


wishes = st.fixed_dictionaries(
    {
        "channel": channels,
        "key": st.sampled_from([None, None, None, "k", "k", "l"]),
        "lane": st.sampled_from([None, None, None, "x", "x", "y", "p", "p", "q"]),
        "priority": now_and_then(5, -100, 100),
        "delay": now_and_then(20, 100),
        "at": now_and_then(-60, -60, -20, 20),
        "lifetime": now_and_then(20, 100, 300, 300),
        "until": now_and_then(None, None, -20, 100),
        "headers": now_and_then({"tenant": "é"}),
        "max_attempts": now_and_then(3),
    }
).map(lambda said: Wish(**{name: value for name, value in said.items() if value is not None}))
lease_lengths = st.sampled_from([20, 100, 300, 300])
leases = st.builds(lambda seconds: dict.fromkeys(CHANNELS, seconds), lease_lengths) | st.fixed_dictionaries(
    dict.fromkeys(CHANNELS, lease_lengths)
)
renewals = leases | st.fixed_dictionaries(dict.fromkeys(CHANNELS, st.just(0) | lengths))
batches = st.lists(st.tuples(wishes, st.integers(0, 9)), min_size=1, max_size=6)
limits = st.dictionaries(st.sampled_from(CHANNELS), st.sampled_from([0, 1, 2, 3, 10]), max_size=2)
asked = st.builds(
    Asked,
    worker=workers,
    limits=limits | st.just(dict.fromkeys(CHANNELS, 10)),
    lease=leases,
    total=st.sampled_from([None, None, None, 0, 1, 2, 3]),
)
verbs = st.lists(
    st.sampled_from(["finish", "retry", "release", "bury", "bury", "renew", *["keep"] * 4]),
    min_size=1,
    max_size=4,
)
transactions = st.sampled_from(["none", "none", "committed", "rolled back"])


def of_machine(choices: Callable[[Any], Sequence[str]]) -> st.SearchStrategy[str]:
    """One of the names that the machine knows by now."""
    return st.runner().flatmap(lambda machine: st.sampled_from(choices(machine) or ["?"]))


def names_of(*fates: Fate) -> st.SearchStrategy[list[str]]:
    """Names of messages, most of them of those that stand so; some twice, some unknown."""
    fitting = of_machine(lambda machine: machine.names(*fates))
    any_name = of_machine(lambda machine: [*machine.sent, "?"])
    return st.lists(fitting | fitting | any_name, min_size=1, max_size=6)


held = of_machine(lambda machine: machine.held_handles())
handles = held | held | of_machine(lambda machine: machine.all_handles())
handle_lists = st.lists(handles, min_size=1, max_size=5)


class Machine(RuleBasedStateMachine):
    """A layer and the model of it, told the same.

    All names that a layer may keep beyond an example (of channels, workers and buckets) are this example's own.
    """

    def __init__(self, layer: DurableLayer) -> None:
        super().__init__()
        self.layer = layer
        self.model = Model(self.layer.orders_channels)
        self.salt = uuid4()
        self.began = time.time()
        if isinstance(layer, RedisChannelLayer) and layer.is_on_cluster:
            store: Any = layer._store
            store._turns = count()  # else the same steps, taken once more, would claim others

    @rule(seconds=st.sampled_from([40, 40, 80, 120, 400]))
    def advance_time(self, seconds: int) -> None:
        self.layer.advance_time(float(seconds))
        self.model.now += seconds

    def _own(self, name: str) -> str:
        return f"{name}-{self.salt.hex}"

    def _is_left(self, found: float, expected: float) -> bool:
        """Is a time from now the model's? It was counted from a moment since the beginning of this example."""
        return expected - (time.time() - self.began) - 0.5 <= found <= expected + 0.5


class MessageMachine(Machine):
    """All that befalls messages."""

    def __init__(self, layer: DurableLayer) -> None:
        super().__init__(layer)
        self.sent: dict[str, tuple[UUID, Wish, dict[str, Any]]] = {}
        self.claims: dict[Handle, Message] = {}

    # -- names --------------------------------------------------------------------------------------------------

    def _new(self, wish: Wish, rank: int) -> str:
        """Name a message to be sent. ``rank``: ids need not grow with time, as several machines make them."""
        number = len(self.sent)
        id = UUID(int=(rank << 120) + (self.salt.int >> 40 << 32) + number)
        self.sent[f"m{number}"] = id, wish, {"n": number, "nested": [None, 1.5, {"é": "漢"}]}
        return f"m{number}"

    def _ids(self, names: Sequence[str]) -> list[UUID]:
        return [self.sent[name][0] if name in self.sent else uuid4() for name in names]

    def names(self, *fates: Fate) -> list[str]:
        ids = {e.id for e in self.model.entries if e.fate in fates}
        return [name for name, (id, *_) in self.sent.items() if id in ids]

    def held_handles(self) -> list[Handle]:
        return [handle for handle, claim in self.claims.items() if self.model.held(claim)]

    def all_handles(self) -> list[Handle]:
        """Claims good and stale, altered and made up."""
        claims, held = list(self.claims), self.held_handles()
        mixed = [f"{name}+{handle}" for name in list(self.sent)[-5:] for handle in claims[-3:]]
        return [*claims, *claims, *(f"{handle}~" for handle in held), *self.sent, *mixed, "?"]

    def _claim(self, handle: Handle) -> Message:
        if handle == "?":
            return Message(self._own("a"), {}, token=new_token(), due=0.0)
        if handle.endswith("~"):
            return replace(
                self.claims[handle[:-1]], attempt=77, losses=5, worker="other", due=0.0, content={}
            )
        if handle in self.claims:
            return self.claims[handle]
        name, _, other = handle.partition("+")
        id, wish, content = self.sent[name]
        token = self.claims[other].token if other else None
        return Message(self._own(wish.channel), content, id=id, token=token, due=0.0)

    def _claims(self, handles: Sequence[Handle]) -> list[Message]:
        return [self._claim(handle) for handle in handles]

    # -- sending ------------------------------------------------------------------------------------------------

    @initialize(batch=batches)
    def begin(self, batch: list[tuple[Wish, int]]) -> None:
        self.enqueue(batch, "none", "")

    @rule(
        batch=batches,
        within=transactions,
        beside=st.sampled_from(["", "", "", "", "itself", "{}", "no spaces"]),
    )
    def enqueue(self, batch: list[tuple[Wish, int]], within: str, beside: str) -> None:
        """Send new messages in one call; ``beside``: with the first of them once more, or with one that is refused."""
        sent = [self.sent[self._new(wish, rank)] for wish, rank in batch]
        if beside in ("", "itself"):
            self._enqueue([*sent, *sent[: beside == "itself"]], within)
            return
        messages = [self._message(*one, time.time()) for one in sent]
        refused = (
            Message("no spaces", {}) if beside == "no spaces" else Message(self._own("a"), {"x": object()})
        )
        with pytest.raises((TypeError, ValueError)):
            self.layer.enqueue([*messages, refused])

    @rule(wish=wishes, ranks=st.lists(st.integers(0, 9), min_size=1, max_size=4), within=transactions)
    def enqueue_alike(self, wish: Wish, ranks: list[int], within: str) -> None:
        """Send messages that only their ids and contents tell apart."""
        self._enqueue([self.sent[self._new(wish, rank)] for rank in ranks], within)

    @precondition(lambda self: self.names(Fate.DEAD))
    @rule(names=names_of(Fate.DEAD))
    def enqueue_the_dead_again(self, names: list[str]) -> None:
        """Then there are two of an id, one of them dead."""
        self.enqueue_again(names, {}, "none")

    @precondition(lambda self: len(self.sent) > 5)
    @rule(
        names=names_of(Fate.WAITING, Fate.CLAIMED),
        changes=st.fixed_dictionaries(
            {}, optional={"delay": lengths, "priority": st.just(50), "lane": st.just("y")}
        ),
        within=transactions,
    )
    def enqueue_again(self, names: list[str], changes: dict[str, Any], within: str) -> None:
        """Repeat ids; only if the first is neither waiting nor claimed does it matter what else the repeat says."""
        again = [self.sent[name] for name in names if name in self.sent]
        self._enqueue([(id, replace(wish, **changes), content) for id, wish, content in again], within)

    def _enqueue(self, sent: Sequence[tuple[UUID, Wish, dict[str, Any]]], within: str) -> None:
        now = time.time()
        with self._within(within) as model:
            got = self.layer.enqueue([self._message(*one, now) for one in sent])
            assert got == model.enqueue(sent)

    def _message(self, id: UUID, wish: Wish, content: dict[str, Any], now: float) -> Message:
        return Message(
            self._own(wish.channel),
            content,
            id=id,
            headers=dict(wish.headers),
            lane=wish.lane,
            places=wish.places,
            key=wish.key,
            priority=wish.priority,
            max_attempts=wish.max_attempts,
            due=None if wish.at is None else now + wish.at,
            delay=float(wish.delay),
            expires=None if wish.until is None else now + wish.until,
            lifetime=wish.lifetime,
        )

    @contextmanager
    def _within(self, kind: str) -> Iterator[Model]:
        """Inside a transaction of the caller's, where the layer joins it. Gives the model, or a copy to roll back."""
        if kind == "none" or not self.layer.joins_transactions:
            yield self.model
            return
        with transaction.atomic(self.layer.using):
            yield copy.deepcopy(self.model) if kind == "rolled back" else self.model
            transaction.set_rollback(kind == "rolled back", self.layer.using)

    # -- working ------------------------------------------------------------------------------------------------

    @rule(asked=asked, finished=st.just([]) | handle_lists)
    def claim(self, asked: Asked, finished: list[Handle]) -> None:
        settled = self._claims(finished)
        worker, limits, lease = self._own(asked.worker), self._owned(asked.limits), self._lease(asked.lease)
        answer = self.layer.claim(worker, limits, lease, settled, total=asked.total)
        expired = [self.model.live(m.id) for m in answer.expired]
        lost = self.model.claimed(asked, settled, answer)
        _check_lost(answer.lost, lost, settled)
        for message, entry in zip(answer.expired, expired, strict=True):
            self._check_message(message, entry)
        for claim in answer.claims:
            self.claims[f"c{len(self.claims)}"] = claim
            self._check_message(claim, self.model.held(claim))

    def _claim_some(self, worker: str, room: int, lease: int) -> list[Handle]:
        seen = len(self.claims)
        self.claim(Asked(worker, dict.fromkeys(CHANNELS, room), dict.fromkeys(CHANNELS, lease), None), [])
        return list(self.claims)[seen:]

    @rule(worker=workers, room=st.integers(1, 4), lease=lease_lengths, verbs=verbs, delay=delays)
    def work(self, worker: str, room: int, lease: int, verbs: list[str], delay: int) -> None:
        """A worker's round: claim, and settle the claims one way and another."""
        for handle, verb in zip(self._claim_some(worker, room, lease), cycle(verbs), strict=False):
            if verb == "finish":
                self.finish([handle], "none")
            elif verb == "retry":
                self.retry(handle, delay, alone=True)
            elif verb == "release":
                self.release([handle], delay)
            elif verb == "bury":
                self.bury([handle], "at work")
            elif verb == "renew":
                self.renew([handle], dict.fromkeys(CHANNELS, delay))

    @rule(worker=workers, room=st.integers(1, 4))
    def die(self, worker: str, room: int) -> None:
        """A worker claims and is never heard of again: its leases lapse."""
        self._claim_some(worker, room, 20)
        self.advance_time(40)

    @precondition(lambda self: len(self.names(Fate.DEAD)) < 8)
    @rule(worker=workers, rounds=st.integers(1, 3))
    def fail(self, worker: str, rounds: int) -> None:
        """A worker whose every message fails for good, one after the other of a lane."""
        for _ in range(rounds):
            self.bury(self._claim_some(worker, 2, 100), "failed")

    def _owned(self, per_channel: Mapping[str, int]) -> dict[str, int]:
        return {self._own(channel): value for channel, value in per_channel.items()}

    def _lease(self, lease: Mapping[str, int]) -> float | dict[str, float]:
        """One number for all channels where it is the same, else a number for each."""
        if len(set(lease.values())) == 1:
            return float(lease[CHANNELS[0]])
        return {channel: float(seconds) for channel, seconds in self._owned(lease).items()}

    @precondition(lambda self: self.claims)
    @rule(handles=handle_lists, lease=renewals)
    def renew(self, handles: list[Handle], lease: dict[str, int]) -> None:
        claims = self._claims(handles)
        _check_lost(self.layer.renew(claims, self._lease(lease)), self.model.renew(claims, lease), claims)

    @precondition(lambda self: self.claims)
    @rule(handles=handle_lists, within=transactions)
    def finish(self, handles: list[Handle], within: str) -> None:
        claims = self._claims(handles)
        with self._within(within) as model:
            _check_lost(self.layer.finish(claims), model.finish(claims), claims)

    @precondition(lambda self: self.claims)
    @rule(handle=handles, delay=st.just(0) | lengths, alone=st.booleans())
    def retry(self, handle: Handle, delay: int, alone: bool) -> None:
        claim = self._claim(handle)
        lost = self.layer.retry(claim, float(delay), "boom", alone=alone)
        _check_lost(lost, self.model.retry([claim], delay, alone), [claim])

    @precondition(lambda self: self.claims)
    @rule(handles=handle_lists, delay=st.just(0) | lengths)
    def release(self, handles: list[Handle], delay: int) -> None:
        claims = self._claims(handles)
        _check_lost(self.layer.release(claims, float(delay)), self.model.release(claims, delay), claims)

    @precondition(lambda self: self.claims)
    @rule(handles=handle_lists, why=st.sampled_from(["é", "…\nboom"]))
    def bury(self, handles: list[Handle], why: str) -> None:
        for handle in handles:
            claim, error = self._claim(handle), f"{why} {handle}"
            _check_lost(self.layer.bury(claim, error), self.model.bury([claim], error), [claim])

    # -- operations ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.names(Fate.WAITING)) > 3)
    @rule(channel=channels, names=names_of(Fate.WAITING, Fate.CLAIMED))
    def cancel(self, channel: str, names: list[str]) -> None:
        ids = self._ids(names)
        _check_ids(self.layer.cancel(self._own(channel), iter(ids)), self.model.cancel(channel, ids))

    @precondition(lambda self: self.names(Fate.DEAD))
    @rule(channel=channels, names=names_of(Fate.DEAD))
    def requeue(self, channel: str, names: list[str]) -> None:
        ids = self._ids(names)
        _check_ids(self.layer.requeue(self._own(channel), iter(ids)), self.model.requeue(channel, ids))

    @precondition(lambda self: len(self.names(Fate.DEAD)) > 3)
    @rule(channel=channels, names=names_of(Fate.DEAD))
    def discard(self, channel: str, names: list[str]) -> None:
        ids = self._ids(names)
        _check_ids(self.layer.discard(self._own(channel), iter(ids)), self.model.discard(channel, ids))

    @rule(room=st.integers(1, 10), seconds=st.sampled_from([0, 0, 40, 120]))
    def pause_a_while(self, room: int, seconds: int) -> None:
        """Pause the channel where most things happen, and try to work."""
        self._pause("a")
        self.layer_and_model_agree()
        self.advance_time(seconds)
        self._claim_some("w", room, 20)
        self.layer_and_model_agree()
        self._resume("a")

    @precondition(lambda self: not self.model.paused)
    @rule(channel=st.just("b"))
    def pause(self, channel: str) -> None:
        """The other channel may be paused for longer."""
        self._pause(channel)

    @precondition(lambda self: self.model.paused)
    @rule(channel=st.just("b"))
    def resume(self, channel: str) -> None:
        self._resume(channel)

    def _pause(self, channel: str) -> None:
        self.layer.pause(self._own(channel))
        self.model.paused.add(channel)

    def _resume(self, channel: str) -> None:
        self.layer.resume(self._own(channel))
        self.model.paused.discard(channel)

    @precondition(lambda self: len(self.names(Fate.DEAD)) > 1)
    @rule(channel=channels, size=st.integers(1, 3))
    def page(self, channel: str, size: int) -> None:
        """Read the lists in parts."""
        name = self._own(channel)
        assert waiting_on(self.layer, name, limit=size) == waiting_on(self.layer, name, limit=1000)[:size]
        whole = dead_on(self.layer, name, limit=1000)
        paged = dead_on(self.layer, name, limit=size)
        while len(paged) < len(whole) and (page := dead_on(self.layer, name, limit=size, before=paged[-1])):
            paged += page
        assert paged == whole

    @precondition(lambda self: len(self.names(Fate.WAITING, Fate.CLAIMED)) > 12)
    @rule()
    def drain(self) -> None:
        """Whatever waits or is claimed can be claimed and finished in the end."""
        self.advance_time(FOREVER)
        self._resume("b")
        for _ in range(1 + sum(e.is_live for e in self.model.entries)):
            self.finish(self._claim_some("w", 1000, 20), "none")
        assert not any(e.is_live for e in self.model.entries)

    # -- after every step ---------------------------------------------------------------------------------------

    @invariant()
    def layer_and_model_agree(self) -> None:
        self._counts_agree()
        self._the_waiting_wait()
        self._the_dead_lie()
        self._poll_knows_when_the_next_is_due()
        self._lanes_run_one_at_a_time_in_order()

    def _counts_agree(self) -> None:
        stats = {name: counts for name, counts in self.layer.stats().items() if name.endswith(self.salt.hex)}
        expected = {
            self._own(channel): counts for channel in CHANNELS if (counts := self.model.stats(channel))
        }
        assert set(stats) == set(expected)
        for name, found in stats.items():
            assert found.paused == expected[name].paused
            assert replace(found, oldest_due=None, pause=None) == replace(
                expected[name], oldest_due=None, pause=None
            )
            self._check_age(found, expected[name])

    def _check_age(self, found: ChannelStats, expected: ChannelStats) -> None:
        assert (found.oldest_due is None) == (expected.oldest_due is None)
        if found.oldest_due is not None and expected.oldest_due is not None:
            assert self._is_left(-found.oldest_due, -expected.oldest_due)

    def _the_waiting_wait(self) -> None:
        """Whole and unchanged, soonest due first, and of each key no more than one has not started."""
        for channel in CHANNELS:
            listed = waiting_on(self.layer, self._own(channel), limit=1000)
            there = {e.id: e for e in self.model.standing(channel, Fate.WAITING)}
            assert [m.id for m in listed] == list(dict.fromkeys(m.id for m in listed))
            assert {m.id for m in listed} == set(there)
            for message in listed:
                self._check_message(message, there[message.id])
            dues = [there[m.id].due.at for m in listed]
            assert dues == sorted(dues)
            _check_places(listed, there)
            fresh = [m.key for m in listed if m.key and not there[m.id].started]
            assert len(fresh) == len(set(fresh))

    def _the_dead_lie(self) -> None:
        """With their reason, the last buried first."""
        for channel in CHANNELS:
            listed = dead_on(self.layer, self._own(channel), limit=1000)
            there = {e.id: e for e in self.model.standing(channel, Fate.DEAD)}
            assert sorted(d.message.id for d in listed) == sorted(there)
            for dead in listed:
                entry = there[dead.message.id]
                assert dead.error == entry.error and self._is_at(dead.buried_at, entry.buried_at)
                self._check_message(dead.message, entry)
            buried = [there[d.message.id].buried_at for d in listed]
            assert buried == sorted(buried, reverse=True)

    def _poll_knows_when_the_next_is_due(self) -> None:
        for channels in ((), ("a",), ("b",), CHANNELS):
            found = self.layer.poll([self._own(channel) for channel in channels])
            expected = self.model.next_due(channels)
            if self.layer.may_poll_early or self.model.has_places(channels):
                if expected is not None:
                    assert found is not None and (found <= expected or self._is_left(found, expected))
                continue
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                assert found == 0 if expected == 0 else self._is_left(found, expected)

    def _lanes_run_one_at_a_time_in_order(self) -> None:
        for one, other in combinations([e for e in self.model.entries if e.is_live and e.wish.lane], 2):
            if one.shares_lane_with(other) and other.place > one.place and not one.wish.places:
                assert other.fate is Fate.WAITING or other.token is None

    # -- what a layer says of a message -------------------------------------------------------------------------

    def _check_message(self, found: Message, entry: Entry | None) -> None:
        assert entry is not None
        wish = entry.wish
        assert (found.id, found.channel, found.content) == (entry.id, self._own(wish.channel), entry.content)
        assert (found.headers, found.key, found.lane) == (wish.headers, wish.key, wish.lane)
        assert (found.priority, found.max_attempts) == (wish.priority, wish.max_attempts)
        assert (found.attempt, found.losses, found.alone) == (entry.attempt, entry.losses, entry.alone)
        assert (found.v, found.defect) == (1, None)
        assert wish.places or (found.lane_seq is None) == (wish.lane is None)
        assert (found.expires is None) == (entry.expires is None)
        assert found.expires is None or self._is_at(found.expires, entry.expires or 0)
        assert found.sent_at is not None and self._is_at(found.sent_at, entry.sent_at)
        if entry.is_live:
            assert found.due is not None and self._is_at(found.due, entry.due.at)
            assert (found.worker, found.token) == (entry.worker and self._own(entry.worker), entry.token)

    def _is_at(self, found: float, expected: int) -> bool:
        """Is a stored time the model's, give or take the real time that this example has taken?"""
        return self._is_left(found - time.time(), expected - self.model.now)


class RateMachine(Machine):
    """Token buckets, and the workers' signs of life."""

    @rule(bucket=st.sampled_from(sorted(RATES)), n=st.sampled_from([0, 1, 1, 2, 3, 9, -1, -9]))
    def take(self, bucket: str, n: int) -> None:
        granted, retry_after = self.layer.take(self._own(bucket), n, RATES[bucket])
        expected, wait = self.model.take(bucket, n, RATES[bucket])
        if n >= 0:  # the contract does not say what giving back returns
            assert granted == expected
            assert retry_after == 0.0 if granted == n else self._is_left(retry_after, float(wait))

    @rule(worker=workers, info=st.none() | st.fixed_dictionaries({"pid": st.integers(1, 3)}))
    def heartbeat(self, worker: str, info: dict[str, Any] | None) -> None:
        self.layer.heartbeat(self._own(worker), info)
        self.model.heartbeat(worker, info)

    @invariant()
    def the_living_are_listed(self) -> None:
        found = {w.id: (w.info, w.age) for w in self.layer.workers() if w.id.endswith(self.salt.hex)}
        expected = {self._own(w): at for w, at in self.model.workers.items() if self.model.now - at[1] < 60}
        assert {id: info for id, (info, _) in found.items()} == {
            id: info for id, (info, _) in expected.items()
        }
        assert all(self._is_left(-age, expected[id][1] - self.model.now) for id, (_, age) in found.items())


def _check_lost(found: Sequence[Message], lost: set[Token], claims: Sequence[Message]) -> None:
    """Exactly the claims whose token is stale are lost, as they were given. How often one is named is left open."""
    assert {(m.id, m.token) for m in found} == lost
    assert all(m in claims for m in found)


def _check_places(listed: Sequence[Message], entries: Mapping[UUID, Entry]) -> None:
    """Within a lane, places grow in the order of acceptance."""
    for one, other in combinations(listed, 2):
        if entries[one.id].shares_lane_with(entries[other.id]) and not entries[one.id].wish.places:
            is_lower = entries[one.id].place < entries[other.id].place
            assert ((one.lane_seq or 0) < (other.lane_seq or 0)) == is_lower


def _check_ids(found: Sequence[UUID], expected: set[UUID]) -> None:
    assert sorted(found) == sorted(expected)


def _emptied(layer: DurableLayer) -> DurableLayer:
    """The layer without what other examples left in it: to be quick, no rule depends on it."""
    if isinstance(layer, DatabaseChannelLayer):
        with connections[layer.using].cursor() as cursor:
            for model in apps.get_app_config("mailrail").get_models():
                cursor.execute(f"DELETE FROM {model._meta.db_table}")
    if isinstance(layer, RedisChannelLayer):
        layer._claims_so_far = 0  # an example that is repeated begins with the same channel
        for node in (node for store in layer.stores for node in store.server.nodes()):
            node.ask("FLUSHALL")
    return InMemoryChannelLayer() if isinstance(layer, InMemoryChannelLayer) else layer


def _run(machine: type[Machine], layer: DurableLayer, examples: int) -> None:
    """Run a machine on a layer; a failure tells the steps, as few as can be, and how to run them again."""

    def factory() -> Machine:  # where @reproduce_failure(…) goes
        return machine(_emptied(layer))

    profile = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=False,
        print_blob=True,
        phases=[phase for phase in Phase if phase is not Phase.explain],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(  # a function that makes one will do, too
        factory,  # type: ignore[arg-type]
        settings=settings(profile, database=None) if "CI" in os.environ else profile,
    )


@pytest.mark.timeout(SECONDS_PER_TEST)
class TestWhateverTheOrderOfVerbs:
    def test_a_layer_keeps_its_promises(self, layer: DurableLayer) -> None:
        _run(MessageMachine, layer, _examples(layer))

    def test_rates_and_signs_of_life_are_kept(self, layer: DurableLayer) -> None:
        _run(RateMachine, layer, max(_examples(layer) // 2, 20))


def _examples(layer: DurableLayer) -> int:
    """Fewer where another layer runs the same scripts, and only the way to them is new."""
    return EXAMPLES if layer.orders_channels or SOAK else EXAMPLES // 3
