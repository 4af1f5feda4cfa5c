"""The contract of a layer (``mailrail.layers.base.DurableLayer``), held against every layer."""

from __future__ import annotations

import threading
import time
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections

from mailrail.errors import MessageTooLarge
from mailrail.layers import DurableLayer
from mailrail.messages import Message, Rate, id_of_content, new_token, uuid7
from mailrail.pauses import Pause
from mailrail.worker.presence import end_leases_of

from ..listed import dead_on, waiting_on

LEASE = 15.0


def send(
    layer: DurableLayer, channel: str = "work", content: dict[str, Any] | None = None, **fields: Any
) -> Message:
    message = Message(channel=channel, content=content if content is not None else {"n": 1}, **fields)
    [id] = layer.enqueue([message])
    assert fields.get("key") or id == message.id
    return message


def claim(
    layer: DurableLayer, n: int = 10, channel: str = "work", worker: str = "w1", **more: Any
) -> list[Message]:
    return layer.claim(worker, {channel: n}, LEASE, **more).claims


def ids(messages: list[Message]) -> list[Any]:
    return [message.id for message in messages]


class TestSending:
    def test_a_message_arrives_with_all_it_carried(self, layer: DurableLayer) -> None:
        sent = send(
            layer,
            content={"id": 7, "who": ["é", "漢", None, 1.5]},
            headers={"tenant": "a"},
            priority=3,
            key="k",
        )
        [got] = claim(layer)
        assert (got.id, got.channel, got.content, got.headers) == (
            sent.id,
            "work",
            sent.content,
            {"tenant": "a"},
        )
        assert (got.priority, got.key, got.v, got.attempt, got.losses, got.alone) == (3, "k", 1, 1, 0, False)
        assert got.worker == "w1" and got.token
        assert got.sent_at == pytest.approx(time.time(), abs=5)
        assert got.claimed_until == pytest.approx(time.time() + LEASE, abs=5)

    def test_a_repeated_id_is_harmless_while_the_first_waits_or_runs_and_runs_again_after(
        self, layer: DurableLayer
    ) -> None:
        message = send(layer)
        assert layer.enqueue([message]) == [message.id]
        [got] = claim(layer)
        assert layer.enqueue([message]) == [message.id]
        assert claim(layer) == []
        layer.finish([got])
        layer.enqueue([message])
        assert ids(claim(layer)) == [message.id]

    def test_a_repeated_id_with_a_key_and_a_lane_is_harmless_too(self, layer: DurableLayer) -> None:
        message = send(layer, key="k", lane="l")
        assert layer.enqueue([message]) == [message.id]
        [got] = claim(layer)
        assert layer.enqueue([message]) == [message.id]
        assert claim(layer) == [] and layer.finish([got]) == []

    def test_each_of_many_arrives_with_all_it_carried(self, layer: DurableLayer) -> None:
        """Also what has a meaning in an array of a database's."""
        odd = ['"', "\\", '\\"', "NULL", "{a,b}", "", " ", "é漢👍", "'; --", "%s", "\n\t\u2028"]
        moment = time.time() - 1000.25
        sent = [
            Message("work", {"n": word, word: [None, 1.5]}, headers={"h": word}, due=moment + n, priority=-n)
            for n, word in enumerate(odd)
        ]
        sent += [
            Message("work", {"n": "b"}, priority=-50, attempt=2, losses=1, alone=True, max_attempts=7, v=3),
            Message("work", {"n": "c"}, priority=-60, expires=time.time() + 5000.5, lifetime=5000.5),
        ]
        layer.enqueue(sent)
        got = claim(layer, len(sent) + 1)
        assert ids(got) == ids(sent)
        for ours, theirs in zip(sent, got, strict=True):
            for name in ("content", "headers", "priority", "v", "losses", "alone", "max_attempts"):
                assert getattr(theirs, name) == getattr(ours, name), name
            assert (theirs.expires is None) == (ours.expires is None)
            assert ours.expires is None or theirs.expires == pytest.approx(ours.expires, abs=5)
            assert theirs.attempt == ours.attempt + 1

    def test_all_or_none(self, layer: DurableLayer) -> None:
        with pytest.raises(TypeError, match="content"):
            layer.enqueue([Message("work", {"n": 1}), Message("work", {"n": object()})])
        with pytest.raises(ValueError, match="channel name"):
            layer.enqueue([Message("work", {}), Message("no spaces", {})])
        with pytest.raises(MessageTooLarge):
            layer.enqueue([Message("work", {}), Message("work", {"x": "y" * 1_100_000})])
        assert claim(layer) == []

    def test_what_the_sender_changes_afterwards_stays_at_home(self, layer: DurableLayer) -> None:
        content: dict[str, Any] = {"list": [1]}
        send(layer, content=content)
        content["list"].append(2)
        assert claim(layer)[0].content == {"list": [1]}

    def test_a_delayed_message_waits_for_its_time(self, layer: DurableLayer) -> None:
        sent = send(layer, delay=60)
        assert claim(layer) == []
        layer.advance_time(59)
        assert claim(layer) == []
        layer.advance_time(2)
        assert ids(claim(layer)) == [sent.id]

    def test_due_in_the_past_is_due_now(self, layer: DurableLayer) -> None:
        sent = send(layer, due=time.time() - 1000)
        assert ids(claim(layer)) == [sent.id]


class TestClaiming:
    def test_highest_priority_first_then_oldest_due_then_order_of_sending(self, layer: DurableLayer) -> None:
        now = time.time()
        sent = [
            send(layer, due=now - due, priority=priority)
            for due, priority in ((1, 0), (5, 0), (1, 10), (9, -1), (5, 0), (2, 10))
        ]
        order = [sent[i].id for i in (5, 2, 1, 4, 0, 3)]
        assert ids(claim(layer, 4)) + ids(claim(layer, 4)) == order

    @pytest.mark.parametrize("fields", [{}, {"due": time.time() - 100}], ids=["due now", "of one moment"])
    def test_messages_of_records_go_in_the_order_of_their_records(
        self, layer: DurableLayer, fields: dict[str, Any]
    ) -> None:
        """Whose ids are made of their content; those of several calls, too."""
        contents = [{"id": str(uuid7())} for _ in range(90)]
        for begin in (0, 30, 60):
            layer.enqueue(
                [Message("work", c, id_of_content("work", c), **fields) for c in contents[begin : begin + 30]]
            )
        claims = claim(layer, 50) + claim(layer, 50)
        assert [c.content for c in claims] == contents
        layer.release(claims[:20])
        assert [c.content for c in claim(layer, 50)] == contents[:20]

    def test_order_holds_across_channels(self, layer: DurableLayer) -> None:
        now = time.time()
        sent = [
            send(layer, channel, due=now - due, priority=priority)
            for channel, due, priority in (("a", 1, 0), ("b", 2, 0), ("a", 3, 0), ("b", 1, 5))
        ]
        got = layer.claim("w", {"a": 5, "b": 5}, LEASE).claims
        if layer.orders_channels:
            assert ids(got) == [sent[i].id for i in (3, 2, 1, 0)]
        else:
            assert [[m.id for m in got if m.channel == c] for c in "ab"] == [
                [sent[2].id, sent[0].id],
                [sent[3].id, sent[1].id],
            ]

    def test_a_full_channel_starves_no_other(self, layer: DurableLayer) -> None:
        """Where channels are put in order, the oldest due comes first, whatever its channel."""
        layer.enqueue([Message("busy", {}, due=1000 + n) for n in range(20)])
        send(layer, "quiet", due=999)
        claims = [
            layer.claim("w", {"busy": 1, "quiet": 1, "empty": 1}, LEASE, total=1).claims for _ in range(3)
        ]
        assert "quiet" in [claim.channel for [claim] in claims]

    def test_limits_per_channel_and_in_total(self, layer: DurableLayer) -> None:
        for channel in ("a", "b"):
            layer.enqueue([Message(channel, {}) for _ in range(10)])
        got = layer.claim("w", {"a": 3, "b": 2}, LEASE).claims
        assert sorted(m.channel for m in got) == ["a"] * 3 + ["b"] * 2
        assert len(layer.claim("w", {"a": 5, "b": 5}, LEASE, total=4).claims) == 4
        assert layer.claim("w", {"a": 5}, LEASE, total=0).claims == []
        assert layer.claim("w", {"a": 0}, LEASE).claims == []
        assert layer.claim("w", {}, LEASE).claims == []

    @pytest.mark.parametrize("name", ["null", "NULL", "true", "-", "."])
    def test_a_word_of_the_storage_is_a_name_like_others(self, layer: DurableLayer, name: str) -> None:
        sent = send(layer, name)
        assert layer.poll([name]) == 0.0
        assert ids(claim(layer, channel=name)) == [sent.id]

    def test_other_channels_are_left_alone(self, layer: DurableLayer) -> None:
        send(layer, "a")
        assert claim(layer, channel="b") == []

    def test_a_claimed_message_is_not_claimed_again_before_its_lease_lapses(
        self, layer: DurableLayer
    ) -> None:
        send(layer)
        assert len(claim(layer)) == 1
        layer.advance_time(LEASE - 1)
        assert claim(layer, worker="w2") == []

    def test_a_lapsed_lease_is_claimed_again_as_a_loss_without_burning_an_attempt(
        self, layer: DurableLayer
    ) -> None:
        send(layer)
        [first] = claim(layer)
        layer.advance_time(LEASE + 1)
        [second] = claim(layer, worker="w2")
        assert (second.attempt, second.losses, second.worker) == (1, 1, "w2")
        assert second.token != first.token

    def test_the_leases_of_a_dead_worker_may_be_ended(self, layer: DurableLayer) -> None:
        send(layer)
        send(layer)
        send(layer, "a")
        [first, second] = claim(layer, worker="dead")
        [other] = claim(layer, channel="a", worker="alive")
        assert end_leases_of(layer, "dead", {first.id}) == 1
        [again] = claim(layer, worker="w2")
        assert (again.id, again.losses, again.attempt) == (second.id, 1, 1)
        assert layer.finish([first, other]) == [] and layer.finish([second]) == [second]
        assert end_leases_of(layer, "dead", ()) == 0

    def test_leases_may_differ_per_channel(self, layer: DurableLayer) -> None:
        send(layer, "a")
        send(layer, "b")
        layer.claim("w", {"a": 1, "b": 1}, {"a": 10.0, "b": 100.0})
        layer.advance_time(50)
        assert [m.channel for m in layer.claim("w", {"a": 1, "b": 1}, LEASE).claims] == ["a"]

    def test_finished_are_settled_by_the_same_call(self, layer: DurableLayer) -> None:
        send(layer)
        [first] = claim(layer)
        second = send(layer)
        result = layer.claim("w1", {"work": 5}, LEASE, finished=[first])
        assert ids(result.claims) == [second.id] and result.lost == []
        layer.advance_time(LEASE + 1)
        assert ids(claim(layer)) == [second.id]

    def test_an_expired_lease_that_nobody_reclaimed_can_be_finished_inside_claim(
        self, layer: DurableLayer
    ) -> None:
        send(layer)
        [first] = claim(layer)
        layer.advance_time(LEASE + 1)
        assert layer.claim("w1", {"work": 5}, LEASE, finished=[first]) == ([], [], [])
        assert claim(layer) == []

    def test_a_stale_finished_is_reported_lost_and_not_leased_by_that_call(self, layer: DurableLayer) -> None:
        send(layer)
        [first] = claim(layer)
        layer.advance_time(LEASE + 1)
        [second] = claim(layer, worker="w2")
        layer.advance_time(LEASE + 1)  # lapsed again: due, and its id is in `finished` with a stale token
        result = layer.claim("w1", {"work": 5}, LEASE, finished=[first])
        assert result.claims == [] and result.lost == [first]
        [third] = claim(layer)
        assert third.id == second.id and third.losses == 2

    def test_finished_may_come_without_any_channel(self, layer: DurableLayer) -> None:
        send(layer)
        [first] = claim(layer)
        assert layer.claim("w1", {}, LEASE, finished=[first]) == ([], [], [])
        assert layer.stats().get("work") is None

    def test_two_workers_never_hold_the_same_message(self, layer: DurableLayer) -> None:
        layer.enqueue([Message("work", {"n": n}) for n in range(300)])
        taken: list[Any] = []

        def work(name: str) -> None:
            while claims := claim(layer, 7, worker=name):
                taken.extend(ids(claims))
            _close_connections()

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 300 and len(set(taken)) == 300


class TestSettling:
    def test_finish_removes(self, layer: DurableLayer) -> None:
        send(layer)
        assert layer.finish(claim(layer)) == []
        layer.advance_time(LEASE + 1)
        assert claim(layer) == [] and layer.stats() == {}

    def test_retry_comes_back_later_and_keeps_the_attempt(self, layer: DurableLayer) -> None:
        send(layer)
        [first] = claim(layer)
        assert layer.retry(first, 30, "boom", alone=True) == []
        assert claim(layer) == []
        layer.advance_time(31)
        [second] = claim(layer)
        assert (second.attempt, second.losses, second.alone) == (2, 0, True)
        layer.retry(second, 0, "boom")
        assert claim(layer)[0].alone  # once alone, always alone

    def test_release_takes_the_attempt_back(self, layer: DurableLayer) -> None:
        send(layer)
        assert layer.release(claim(layer)) == []
        [second] = claim(layer)
        assert (second.attempt, second.losses) == (1, 0)
        layer.release([second], delay=30)
        assert claim(layer) == []
        layer.advance_time(31)
        assert claim(layer)[0].attempt == 1

    def test_release_after_a_loss_keeps_the_loss(self, layer: DurableLayer) -> None:
        send(layer)
        claim(layer)
        layer.advance_time(LEASE + 1)
        layer.release(claim(layer))
        [third] = claim(layer)
        assert (third.attempt, third.losses) == (1, 1)

    def test_an_error_that_is_no_text_is_kept_as_one(self, layer: DurableLayer) -> None:
        send(layer)
        [m] = claim(layer)
        assert layer.bury(m, "no such file: \udcff") == []
        [dead] = dead_on(layer, "work")
        assert dead.error.encode() == b"no such file: \\udcff"

    def test_bury_keeps_message_and_error(self, layer: DurableLayer) -> None:
        sent = send(layer, content={"id": 7}, headers={"a": 1}, key="k", priority=4)
        assert layer.bury(claim(layer)[0], "Traceback: \0 boom é") == []
        [dead] = dead_on(layer, "work")
        assert (
            dead.message.id == sent.id
            and dead.message.content == {"id": 7}
            and dead.message.headers == {"a": 1}
        )
        assert dead.message.token is None and (dead.message.key, dead.message.priority) == ("k", 4)
        assert "boom é" in dead.error and dead.buried_at == pytest.approx(time.time(), abs=5)
        layer.advance_time(LEASE + 1)
        assert claim(layer) == []

    def test_renew_pushes_the_lease(self, layer: DurableLayer) -> None:
        send(layer)
        claims = claim(layer)
        layer.advance_time(LEASE - 1)
        assert layer.renew(claims, LEASE) == []
        layer.advance_time(LEASE - 1)
        assert claim(layer, worker="w2") == []

    def test_renew_works_on_a_lapsed_lease_nobody_reclaimed(self, layer: DurableLayer) -> None:
        send(layer)
        claims = claim(layer)
        layer.advance_time(LEASE + 1)
        assert layer.renew(claims, LEASE) == []
        assert claim(layer, worker="w2") == []

    def test_a_lease_of_zero_gives_up_at_once_and_counts_as_a_loss(self, layer: DurableLayer) -> None:
        send(layer)
        assert layer.renew(claim(layer), 0.0) == []
        [second] = claim(layer)
        assert (second.attempt, second.losses) == (1, 1)

    @pytest.mark.parametrize("verb", ["renew", "finish", "retry", "release", "bury"])
    def test_a_stale_token_settles_nothing(self, layer: DurableLayer, verb: str) -> None:
        send(layer)
        [first] = claim(layer)
        layer.advance_time(LEASE + 1)
        [second] = claim(layer, worker="w2")
        assert _settle(layer, verb, first) == [first]
        assert dead_on(layer, "work") == []
        assert claim(layer) == []
        assert layer.finish([second]) == []

    @pytest.mark.parametrize("verb", ["renew", "finish", "retry", "release", "bury"])
    def test_a_settled_claim_cannot_be_settled_again(self, layer: DurableLayer, verb: str) -> None:
        send(layer)
        [first] = claim(layer)
        layer.release([first])
        assert _settle(layer, verb, first) == [first]
        [second] = claim(layer)
        assert _settle(layer, verb, first) == [first]  # same attempt number, other token: the ABA hole
        assert second.attempt == first.attempt
        assert layer.finish([second]) == []
        assert _settle(layer, verb, second) == [second]

    @pytest.mark.parametrize("verb", ["renew", "finish", "retry", "release", "bury"])
    def test_a_made_up_claim_settles_nothing(self, layer: DurableLayer, verb: str) -> None:
        made_up = Message("work", {}, token=new_token(), due=0.0)
        assert _settle(layer, verb, made_up) == [made_up]
        waiting = send(layer)
        assert _settle(layer, verb, waiting) == [waiting]  # never claimed: no token
        assert ids(claim(layer)) == [waiting.id]

    @pytest.mark.parametrize("verb", ["renew", "finish", "release", "claim"])
    def test_a_claim_and_a_stale_one_of_the_same_message_are_told_apart(
        self, layer: DurableLayer, verb: str
    ) -> None:
        sent = send(layer)
        [first] = claim(layer)
        layer.advance_time(LEASE + 1)
        [second] = claim(layer)
        verbs: dict[str, Any] = {
            "renew": lambda claims: layer.renew(claims, LEASE),
            "claim": lambda claims: layer.claim("w", {}, LEASE, finished=claims).lost,
        }
        settle = verbs.get(verb) or getattr(layer, verb)
        assert settle([first, second, sent]) == [first, sent]
        assert verb in ("renew", "release") or layer.get("work", [sent.id]) == []

    def test_settling_nothing_is_fine(self, layer: DurableLayer) -> None:
        assert layer.finish([]) == layer.release([]) == layer.renew([], LEASE) == []


def _settle(layer: DurableLayer, verb: str, claim: Message) -> list[Message]:
    if verb == "renew":
        return layer.renew([claim], LEASE)
    if verb == "retry":
        return layer.retry(claim, 0, "boom")
    if verb == "bury":
        return layer.bury(claim, "boom")
    result: list[Message] = getattr(layer, verb)([claim])
    return result


class TestKeys:
    def test_a_waiting_key_is_the_message(self, layer: DurableLayer) -> None:
        first = send(layer, content={"n": 1}, key="7")
        assert layer.enqueue([Message("work", {"n": 2}, key="7")]) == [first.id]
        [got] = claim(layer)
        assert got.content == {"n": 1}

    def test_the_earlier_due_wins(self, layer: DurableLayer) -> None:
        first = send(layer, key="7", delay=100)
        send(layer, key="7", delay=500)
        layer.advance_time(101)
        send(layer, key="8", delay=100)
        send(layer, key="8")
        assert sorted(m.key or "" for m in claim(layer)) == ["7", "8"]
        assert first.key == "7"

    def test_the_later_expiry_wins_and_never_is_the_latest(self, layer: DurableLayer) -> None:
        for key, lives in (("a", (10, 100)), ("b", (100, 10)), ("c", (10, None)), ("d", (None, 10))):
            for life in lives:
                send(layer, key=key, lifetime=life)
        layer.advance_time(50)
        assert sorted(m.key or "" for m in claim(layer)) == ["a", "b", "c", "d"]

    def test_a_key_is_free_again_once_its_message_started(self, layer: DurableLayer) -> None:
        send(layer, key="7")
        [running] = claim(layer)
        second = send(layer, key="7")
        assert ids(claim(layer)) == [second.id]
        layer.retry(running, 0, "boom")  # takes nothing back
        third = send(layer, key="7")
        assert layer.enqueue([Message("work", {}, key="7")]) == [third.id]
        assert sorted(ids(claim(layer))) == sorted([running.id, third.id])

    def test_release_and_a_lapsed_lease_do_not_take_the_key_back(self, layer: DurableLayer) -> None:
        send(layer, key="7")
        layer.release(claim(layer))
        second = send(layer, key="7")
        assert len(claim(layer)) == 2
        layer.advance_time(LEASE + 1)
        third = send(layer, key="7")
        assert third.id in ids(claim(layer)) and second.id != third.id

    def test_keys_belong_to_their_channel(self, layer: DurableLayer) -> None:
        a, b = send(layer, "a", key="7"), send(layer, "b", key="7")
        assert len({*ids(claim(layer, channel="a")), *ids(claim(layer, channel="b"))} & {a.id, b.id}) == 2

    def test_cancelled_and_expired_keys_are_free(self, layer: DurableLayer) -> None:
        first = send(layer, key="7")
        layer.cancel("work", [first.id])
        second = send(layer, key="7", lifetime=10)
        layer.advance_time(11)
        assert claim(layer) == []
        third = send(layer, key="7")
        assert ids(claim(layer)) == [third.id] and second.id != third.id

    def test_one_call_may_hold_the_same_key_twice(self, layer: DurableLayer) -> None:
        one, two = Message("work", {"n": 1}, key="k"), Message("work", {"n": 2}, key="k")
        assert layer.enqueue([one, two]) == [one.id, one.id]
        assert [m.content for m in claim(layer)] == [{"n": 1}]


class TestLanes:
    def test_one_at_a_time_in_order_of_acceptance_whatever_the_priority(self, layer: DurableLayer) -> None:
        sent = [send(layer, lane="l", priority=p) for p in (0, 50, 100)]
        for message in sent:
            [got] = claim(layer)
            assert got.id == message.id
            assert claim(layer) == []
            layer.finish([got])

    def test_lanes_do_not_hold_each_other_nor_messages_without(self, layer: DurableLayer) -> None:
        for lane in ("x", "y", None):
            send(layer, lane=lane)
            send(layer, lane=lane)
        assert sorted(m.lane or "" for m in claim(layer)) == ["", "", "x", "y"]
        send(layer, "other", lane="x")
        assert len(claim(layer, channel="other")) == 1

    def test_finishing_inside_claim_hands_the_lane_on_in_the_same_call(self, layer: DurableLayer) -> None:
        _, second = send(layer, lane="l"), send(layer, lane="l")
        [first] = claim(layer)
        assert ids(layer.claim("w1", {"work": 5}, LEASE, finished=[first]).claims) == [second.id]

    def test_only_what_was_really_settled_frees_its_lane(self, layer: DurableLayer) -> None:
        send(layer, lane="l"), send(layer, lane="l")
        [stale] = claim(layer)
        layer.advance_time(LEASE + 1)
        [fresh] = claim(layer, worker="w2")
        result = layer.claim("w1", {"work": 5}, LEASE, finished=[stale])
        assert result.claims == [] and result.lost == [stale]
        assert fresh.id == stale.id

    def test_a_scheduled_or_retrying_head_holds_its_lane(self, layer: DurableLayer) -> None:
        head = send(layer, lane="l", delay=60)
        send(layer, lane="l")
        assert claim(layer) == []
        layer.advance_time(61)
        [got] = claim(layer)
        assert got.id == head.id
        layer.retry(got, 60, "boom")
        assert claim(layer) == []
        layer.advance_time(61)
        assert ids(claim(layer)) == [head.id]

    def test_a_lapsed_head_is_claimed_again_before_the_next(self, layer: DurableLayer) -> None:
        head = send(layer, lane="l")
        send(layer, lane="l")
        claim(layer)
        layer.advance_time(LEASE + 1)
        assert ids(claim(layer, worker="w2")) == [head.id]

    def test_release_keeps_the_head(self, layer: DurableLayer) -> None:
        head = send(layer, lane="l")
        send(layer, lane="l")
        layer.release(claim(layer))
        assert ids(claim(layer)) == [head.id]

    def test_bury_cancel_and_expiry_free_the_lane(self, layer: DurableLayer) -> None:
        first, second = send(layer, lane="l"), send(layer, lane="l")
        send(layer, lane="l", lifetime=30)
        last = send(layer, lane="l")
        layer.bury(claim(layer)[0], "boom")
        [got] = claim(layer)
        assert got.id == second.id
        layer.release([got], delay=100)
        layer.cancel("work", [second.id])
        layer.advance_time(31)
        result = layer.claim("w", {"work": 5}, LEASE)
        assert len(result.expired) == 1
        assert ids(result.claims or claim(layer)) == [last.id]
        assert [dead.message.id for dead in dead_on(layer, "work")] == [first.id]

    def test_cancelling_inside_a_lane_leaves_the_head_in_place(self, layer: DurableLayer) -> None:
        first, second, third = (send(layer, lane="l") for _ in range(3))
        layer.cancel("work", [second.id])
        [got] = claim(layer)
        assert got.id == first.id
        layer.finish([got])
        assert ids(claim(layer)) == [third.id]

    def test_requeue_joins_the_tail(self, layer: DurableLayer) -> None:
        first, second = send(layer, lane="l"), send(layer, lane="l")
        layer.bury(claim(layer)[0], "boom")
        layer.requeue("work", [first.id])
        [got] = claim(layer)
        assert got.id == second.id
        layer.finish([got])
        assert ids(claim(layer)) == [first.id]

    def test_requeue_keeps_the_order_it_is_given(self, layer: DurableLayer) -> None:
        first, second = send(layer, lane="l"), send(layer, lane="l")
        for _ in range(2):
            layer.bury(claim(layer)[0], "boom")
        layer.requeue("work", [second.id, first.id])
        [got] = claim(layer)
        assert got.id == second.id
        assert claim(layer) == []

    def test_an_emptied_lane_starts_anew(self, layer: DurableLayer) -> None:
        for _ in range(3):
            message = send(layer, lane="l")
            [got] = claim(layer)
            assert got.id == message.id
            layer.finish([got])

    def test_a_key_inside_a_lane(self, layer: DurableLayer) -> None:
        first = send(layer, lane="l", key="k")
        assert layer.enqueue([Message("work", {}, lane="l", key="k")]) == [first.id]
        second = send(layer, lane="l")
        [got] = claim(layer)
        assert got.id == first.id
        layer.finish([got])
        assert ids(claim(layer)) == [second.id]


class TestLanesWithSeveralPlaces:
    """``Message.places``: at most so many of the lane are claimed at once, over all workers, in any order."""

    def test_no_more_are_claimed_than_there_are_places(self, layer: DurableLayer) -> None:
        sent = [send(layer, lane="l", places=2) for _ in range(4)]
        first = claim(layer, n=1)
        second = claim(layer, worker="w2")
        assert ids(first + second) == ids(sent[:2])
        assert claim(layer, worker="w3") == []
        assert [(m.attempt, m.losses) for m in layer.get("work", ids(sent[2:]))] == [(0, 0)] * 2
        assert layer.poll(["work"]) == pytest.approx(LEASE, abs=5)  # the end of a lease: nothing to look for

    def test_a_claim_that_is_known_by_its_token_alone_gives_its_place_back(self, layer: DurableLayer) -> None:
        _, behind = send(layer, lane="l", places=1), send(layer, lane="l", places=1)
        [held] = claim(layer, n=2)
        layer.release([Message("work", {}, id=held.id, token=held.token, due=0.0)], 20.0)
        assert ids(claim(layer, n=2)) == [behind.id]

    def test_those_behind_in_other_lanes_are_claimed_by_the_same_call(self, layer: DurableLayer) -> None:
        full = [send(layer, lane="full", places=1) for _ in range(30)]
        other, plain = send(layer, lane="other", places=1), send(layer)
        assert set(ids(claim(layer, n=3))) == {full[0].id, other.id, plain.id}
        assert claim(layer) == []
        stats = layer.stats()["work"]
        assert (stats.ready, stats.claimed, stats.scheduled) == (29, 3, 0)
        assert len(layer.list_messages(["work"], 100, "ready")) == 29

    @pytest.mark.parametrize("end", ["finish", "finish in claim", "retry", "release", "bury", "expire"])
    def test_every_end_gives_the_place_back(self, layer: DurableLayer, end: str) -> None:
        first = send(layer, lane="l", places=1, lifetime=LEASE / 2 if end == "expire" else None)
        second, third = send(layer, lane="l", places=1), send(layer, lane="l", places=1)
        [got] = claim(layer)
        assert got.id == first.id and claim(layer) == []
        finished = []
        if end == "finish":
            layer.finish([got])
        elif end == "retry":
            layer.retry(got, 60, "boom")
        elif end == "release":
            layer.release([got], 60)
        elif end == "bury":
            layer.bury(got, "boom")
        elif end == "expire":
            layer.advance_time(LEASE + 1)
        else:
            finished = [got]
        result = layer.claim("w1", {"work": 5}, LEASE, finished=finished)
        [got] = result.claims or claim(layer)
        assert (got.id, got.attempt) == (second.id, 1)
        layer.finish([got])
        assert ids(claim(layer)) == [third.id]

    def test_a_retried_one_comes_back_and_waits_for_a_place(self, layer: DurableLayer) -> None:
        first, second = send(layer, lane="l", places=1), send(layer, lane="l", places=1)
        layer.retry(claim(layer)[0], 30, "boom")
        [got] = claim(layer)
        assert got.id == second.id
        layer.renew([got], 100.0)
        layer.advance_time(31)
        assert claim(layer) == []
        layer.finish([got])
        [again] = claim(layer)
        assert (again.id, again.attempt) == (first.id, 2)

    def test_the_place_of_a_killed_holder_is_free_with_the_end_of_its_lease(
        self, layer: DurableLayer
    ) -> None:
        sent = [send(layer, lane="l", places=1) for _ in range(2)]
        claim(layer)
        assert claim(layer, worker="w2") == []
        layer.advance_time(LEASE + 1)
        first = claim(layer, worker="w2")
        assert claim(layer, worker="w3") == []
        layer.finish(first)
        second = claim(layer, worker="w2")
        assert sorted(ids(first + second)) == ids(sent)
        assert [m.losses for m in first + second if m.id == sent[0].id] == [1]

    def test_a_holder_that_renews_keeps_its_place(self, layer: DurableLayer) -> None:
        send(layer, lane="l", places=1), send(layer, lane="l", places=1)
        holder = claim(layer)
        for _ in range(3):
            assert layer.renew(holder, LEASE) == []
            layer.advance_time(LEASE - 5)
            assert claim(layer, worker="w2") == []

    def test_a_holder_that_was_late_and_settles_costs_nobody_a_place(self, layer: DurableLayer) -> None:
        sent = [send(layer, lane="l", places=1) for _ in range(3)]
        [late] = claim(layer)
        layer.advance_time(LEASE + 1)
        running = claim(layer, worker="w2")
        for claims in (running, [late]) if late.id != running[0].id else (running,):
            layer.finish(claims)
        left = claim(layer)
        assert len(left) == 1
        layer.finish(left)
        rest = claim(layer)
        assert {late.id, *ids(running), *ids(left), *ids(rest)} == set(ids(sent))

    def test_the_highest_priority_gets_the_next_place_then_the_oldest(self, layer: DurableLayer) -> None:
        send(layer, lane="l", places=1)
        running = claim(layer)
        low, old, high = (send(layer, lane="l", places=1, priority=p) for p in (-5, 0, 7))
        young = send(layer, lane="l", places=1)
        assert claim(layer) == []
        order = []
        while running:
            layer.finish(running)
            running = claim(layer)
            order += ids(running)
        assert order == ids([high, old, young, low])

    def test_what_is_scheduled_takes_no_place_before_it_is_due(self, layer: DurableLayer) -> None:
        later = send(layer, lane="l", places=1, delay=60)
        now = send(layer, lane="l", places=1)
        [got] = claim(layer)
        assert got.id == now.id
        layer.finish([got])
        layer.advance_time(61)
        assert ids(claim(layer)) == [later.id]

    def test_a_cancelled_message_leaves_the_others_their_turn(self, layer: DurableLayer) -> None:
        first, second, third = (send(layer, lane="l", places=1) for _ in range(3))
        [got] = claim(layer)
        assert got.id == first.id and claim(layer) == []
        assert layer.cancel("work", [second.id]) == [second.id]
        layer.release([got])
        layer.cancel("work", [first.id])
        assert ids(claim(layer)) == [third.id]

    def test_a_requeued_message_waits_for_a_place_again(self, layer: DurableLayer) -> None:
        first, second = send(layer, lane="l", places=1), send(layer, lane="l", places=1)
        layer.bury(claim(layer)[0], "boom")
        [got] = claim(layer)
        layer.requeue("work", [first.id])
        assert got.id == second.id and claim(layer) == []
        layer.finish([got])
        assert ids(claim(layer)) == [first.id]

    def test_a_key_stays_taken_while_its_message_waits_for_a_place(self, layer: DurableLayer) -> None:
        send(layer, lane="l", places=1)
        claim(layer)
        waiting = send(layer, lane="l", places=1, key="k")
        assert claim(layer) == []
        assert layer.enqueue([Message("work", {}, lane="l", places=1, key="k")]) == [waiting.id]

    def test_more_places_than_before_are_used(self, layer: DurableLayer) -> None:
        """The number is that of the messages which wait; a deploy may raise it."""
        send(layer, lane="l", places=1)
        [got] = claim(layer)
        for _ in range(4):
            send(layer, lane="l", places=3)
        assert len(claim(layer)) == 2
        layer.finish([got])
        assert len(claim(layer)) == 1

    def test_a_plain_lane_of_the_same_name_is_another_one(self, layer: DurableLayer) -> None:
        placed = [send(layer, lane="l", places=2)]
        running = claim(layer)
        plain = [send(layer, lane="l") for _ in range(2)]
        placed += [send(layer, lane="l", places=2) for _ in range(2)]
        ran = ids(running)
        for _ in range(6):
            for message in running:
                assert layer.finish([message]) == []
            running = claim(layer)
            assert len(set(ids(running)) & set(ids(plain))) <= 1
            ran += ids(running)
        assert sorted(ran) == sorted(ids(placed + plain)) and layer.stats() == {}

    def test_a_plain_lane_that_waits_keeps_its_order_beside_places_of_its_name(
        self, layer: DurableLayer
    ) -> None:
        plain = [send(layer, lane="l") for _ in range(3)]
        placed = send(layer, lane="l", places=1)
        ran = [first := claim(layer)]
        assert set(ids(first)) == {plain[0].id, placed.id}
        while ran[-1]:
            ran.append(layer.claim("w1", {"work": 5}, LEASE, finished=ran[-1]).claims or claim(layer))
        assert [id for some in ran for id in ids(some) if id != placed.id] == ids(plain)

    def test_a_thousand_in_a_full_lane_do_not_keep_others_waiting(self, layer: DurableLayer) -> None:
        layer.enqueue([Message("work", {"n": n}, lane="full", places=2) for n in range(2500)])
        other = send(layer, lane="other", places=2)
        found: list[Any] = []
        for _ in range(3):
            found += ids(claim(layer, n=4))
        assert other.id in found and len(found) == 3

    def test_at_most_so_many_at_once_with_many_workers_at_a_time(self, layer: DurableLayer) -> None:
        lanes, running, most = ("a", "b", "c"), dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
        layer.enqueue([Message("work", {"n": n}, lane=lanes[n % 3], places=2) for n in range(60)])
        done, lock = list[Any](), threading.Lock()

        def work(name: str) -> None:
            try:
                while len(done) < 60:
                    claims = layer.claim(name, {"work": 3}, 60.0).claims
                    with lock:
                        for message in claims:
                            running[str(message.lane)] += 1
                            most[str(message.lane)] = max(most[str(message.lane)], running[str(message.lane)])
                    for n, message in enumerate(claims):
                        with lock:
                            running[str(message.lane)] -= 1
                            done.append(message.id)
                        layer.finish([message]) if n % 2 else layer.claim(name, {}, 60.0, finished=[message])
            finally:
                connections.close_all()

        workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert len(set(done)) == 60 and max(most.values()) <= 2


class TestExpiry:
    def test_expired_messages_are_dropped_and_reported(self, layer: DurableLayer) -> None:
        sent = send(layer, content={"n": 9}, lifetime=30)
        layer.advance_time(31)
        result = layer.claim("w", {"work": 5}, LEASE)
        assert result.claims == [] and ids(result.expired) == [sent.id]
        assert result.expired[0].content == {"n": 9}
        assert layer.claim("w", {"work": 5}, LEASE).expired == []
        assert layer.stats() == {}

    def test_a_claim_is_safe_from_its_expiry_until_its_lease_is_over(self, layer: DurableLayer) -> None:
        send(layer, lifetime=5)
        [got] = claim(layer)
        layer.advance_time(6)
        assert layer.claim("w", {"work": 5}, LEASE).expired == []
        assert layer.finish([got]) == []

    def test_a_lapsed_claim_past_its_expiry_is_dropped(self, layer: DurableLayer) -> None:
        send(layer, lifetime=5)
        claim(layer)
        layer.advance_time(LEASE + 1)
        result = layer.claim("w", {"work": 5}, LEASE)
        assert result.claims == [] and len(result.expired) == 1

    def test_expired_ones_ahead_do_not_hide_the_living(self, layer: DurableLayer) -> None:
        layer.enqueue([Message("work", {}, lifetime=5, priority=10) for _ in range(2500)])
        layer.advance_time(6)
        living = send(layer)
        assert ids(claim(layer, 1)) == [living.id]

    def test_an_expired_message_scheduled_for_later_is_dropped_too(self, layer: DurableLayer) -> None:
        send(layer, lifetime=5, delay=1000)
        layer.advance_time(6)
        assert len(layer.claim("w", {"work": 5}, LEASE).expired) == 1


class TestOperations:
    def test_cancel_removes_what_nobody_claimed(self, layer: DurableLayer) -> None:
        waiting, scheduled = send(layer, delay=100), send(layer, delay=100)
        running = send(layer)
        [claimed] = claim(layer)
        gone = layer.cancel("work", [waiting.id, scheduled.id, running.id, uuid4()])
        assert sorted(gone) == sorted([waiting.id, scheduled.id])
        assert layer.finish([claimed]) == []
        other = send(layer, "other")
        assert layer.cancel("work", [other.id]) == []

    def test_waiting_lists_the_unclaimed_soonest_first(self, layer: DurableLayer) -> None:
        late, soon = send(layer, delay=100), send(layer)
        send(layer)
        claim(layer, 1)
        listed = ids(waiting_on(layer, "work"))
        assert len(listed) == 2 and listed[-1] == late.id
        assert len(waiting_on(layer, "work", limit=1)) == 1
        assert soon.channel == "work"

    def test_waiting_messages_of_one_moment_are_listed_by_id_whatever_the_limit(
        self, layer: DurableLayer
    ) -> None:
        """Also behind others of their lane."""
        names = sorted((uuid4() for _ in range(9)), reverse=True)
        layer.enqueue([Message("work", {}, id=id, due=1.0, lane="l") for id in names[:6]])
        assert ids(claim(layer)) == names[:1]
        layer.enqueue([Message("work", {}, id=id, due=1.0) for id in names[6:]])
        listed = ids(waiting_on(layer, "work"))
        assert listed == sorted(names[1:])
        assert all(ids(waiting_on(layer, "work", limit=n)) == listed[:n] for n in range(1, 9))

    def test_dead_pages_from_the_last_buried(self, layer: DurableLayer) -> None:
        sent = [send(layer) for _ in range(5)]
        for got in claim(layer):
            layer.bury(got, f"error of {got.id}")
        first = dead_on(layer, "work", limit=2)
        second = dead_on(layer, "work", limit=2, before=first[-1])
        third = dead_on(layer, "work", limit=2, before=second[-1])
        seen = [d.message.id for d in (*first, *second, *third)]
        assert sorted(seen) == sorted(ids(sent)) and len(seen) == 5
        assert all(str(d.message.id) in d.error for d in first)
        assert dead_on(layer, "other") == []

    def test_requeue_gives_all_attempts_back_and_no_expiry(self, layer: DurableLayer) -> None:
        sent = send(layer, lifetime=30)
        layer.bury(claim(layer)[0], "boom")
        layer.advance_time(100)
        assert layer.requeue("work", [sent.id, uuid4()]) == [sent.id]
        [got] = claim(layer)
        assert (got.id, got.attempt, got.losses) == (sent.id, 1, 0)
        assert dead_on(layer, "work") == []
        assert layer.requeue("work", [sent.id]) == []

    def test_requeue_of_what_died_of_losses_keeps_one(self, layer: DurableLayer) -> None:
        sent = send(layer)
        claim(layer)
        for _ in range(3):
            layer.advance_time(LEASE + 1)
            [got] = claim(layer)
        layer.bury(got, "lost 3 times")
        layer.requeue("work", [sent.id])
        assert claim(layer)[0].losses == 1

    def test_discard_forgets(self, layer: DurableLayer) -> None:
        sent = send(layer)
        layer.bury(claim(layer)[0], "boom")
        assert layer.discard("other", [sent.id]) == []
        assert layer.discard("work", [sent.id, uuid4()]) == [sent.id]
        assert dead_on(layer, "work") == [] and layer.stats() == {}

    def test_existing_ids_are_of_those_that_wait_or_are_claimed_or_dead(self, layer: DurableLayer) -> None:
        claimed, dead, finished = send(layer), send(layer), send(layer)
        claims = {got.id: got for got in claim(layer)}
        layer.bury(claims[dead.id], "boom")
        layer.finish([claims[finished.id]])
        waiting, scheduled = send(layer, lane="l"), send(layer, lane="l", delay=60)
        elsewhere, never = send(layer, "elsewhere"), uuid4()
        asked = [m.id for m in (claimed, dead, finished, waiting, scheduled, elsewhere)]
        assert layer.existing_ids("work", [*asked, never]) == {claimed.id, dead.id, waiting.id, scheduled.id}
        assert layer.existing_ids("work", []) == set() == layer.existing_ids("unheard-of", asked)

    def test_a_dead_id_may_be_sent_and_die_again(self, layer: DurableLayer) -> None:
        sent = send(layer)
        layer.bury(claim(layer)[0], "first")
        layer.enqueue([sent])
        layer.bury(claim(layer)[0], "second")
        assert [d.error for d in dead_on(layer, "work")] == ["second"]

    def test_a_paused_channel_keeps_what_it_gets(self, layer: DurableLayer) -> None:
        send(layer)
        [running] = claim(layer)
        layer.pause("work")
        layer.pause("work")
        second = send(layer)
        assert claim(layer) == [] and layer.poll(["work"]) is None
        assert layer.claim("w", {"work": 1}, LEASE, finished=[running]) == ([], [], [])
        assert layer.stats()["work"].paused and {*layer.paused()} == {"work"}
        layer.resume("work")
        assert layer.paused() == {}
        assert ids(claim(layer)) == [second.id]

    def test_a_pause_tells_since_when_by_whom_and_why(self, layer: DurableLayer) -> None:
        layer.pause("work", by="alice", reason="the \N{SNOWMAN} server\nmoves")
        pause = layer.stats()["work"].pause
        assert pause is not None and layer.paused() == {"work": pause}
        assert (pause.by, pause.reason) == ("alice", "the \N{SNOWMAN} server\nmoves")
        assert pause.since is not None and abs(time.time() - pause.since) < 60
        layer.pause("work", by="bob")
        assert layer.paused() == {"work": pause}  # bob gave no reason, so alice's stands
        layer.pause("work", by="bob", reason="not yet")
        assert layer.paused() == {"work": Pause(pause.since, "bob", "not yet")}
        layer.advance_time(100)
        assert layer.paused()["work"].since == pytest.approx(pause.since - 100)
        layer.resume("work")
        layer.pause("work")
        again = layer.paused()["work"]
        assert (again.by, again.reason) == ("", "") and again.since is not None and again.since >= pause.since

    def test_who_and_why_of_a_pause_are_texts_of_bounded_length(self, layer: DurableLayer) -> None:
        layer.pause("work", "b" * 200, "\0\ud800" + "\N{SNOWMAN}" * 998)
        with pytest.raises(ValueError, match=r"reason has 1,001 characters: say it in at most 1,000\."):
            layer.pause("work", reason="r" * 1001)
        with pytest.raises(ValueError, match="by has 201 characters"):
            layer.pause("work", by="b" * 201)
        with pytest.raises(TypeError, match="reason must be a string, not None"):
            layer.pause("work", reason=None)  # type: ignore[arg-type]
        [pause] = layer.paused().values()
        assert (len(pause.by), len(pause.reason), pause.reason[-1]) == (200, 1000, "\N{SNOWMAN}")

    def test_stats_count_each_state(self, layer: DurableLayer) -> None:
        for n in range(7):
            send(layer, content={"n": n})
        send(layer, delay=100)
        for got in claim(layer, 3):
            layer.bury(got, "x") if got.content["n"] == 0 else None
        layer.pause("empty")
        stats = layer.stats()
        work = stats["work"]
        assert (work.ready, work.scheduled, work.claimed, work.dead) == (4, 1, 2, 1)
        assert work.oldest_due is not None and 0 <= work.oldest_due < 5 and not work.paused
        assert stats["empty"].paused and stats["empty"].oldest_due is None
        layer.advance_time(LEASE + 1)
        assert layer.stats()["work"].ready == 6  # lapsed leases are ready again

    def test_heartbeats(self, layer: DurableLayer) -> None:
        layer.heartbeat("a", {"pid": 1})
        layer.heartbeat("b", {"pid": 2})
        layer.heartbeat("a", {"pid": 3})
        assert [(w.id, w.info) for w in layer.workers()] == [("a", {"pid": 3}), ("b", {"pid": 2})]
        layer.heartbeat("b", None)
        layer.advance_time(10)
        assert [w.id for w in layer.workers()] == ["a"]
        assert layer.workers()[0].age == pytest.approx(10, abs=2)
        layer.advance_time(60)
        assert layer.workers() == []


class TestRates:
    def test_a_bucket_is_full_at_first_and_fills_with_time(self, layer: DurableLayer) -> None:
        rate = Rate.parse("10/m")
        assert layer.take("b", 4, rate) == (4, 0.0)
        granted, retry_after = layer.take("b", 20, rate)
        assert granted == 6 and 0 < retry_after <= 6
        assert layer.take("b", 1, rate).granted == 0
        layer.advance_time(13)
        assert layer.take("b", 20, rate).granted == 2
        layer.advance_time(3600)
        assert layer.take("b", 20, rate).granted == 10

    def test_tokens_can_be_given_back(self, layer: DurableLayer) -> None:
        rate = Rate.parse("10/h")
        layer.take("b", 10, rate)
        layer.take("b", -3, rate)
        assert layer.take("b", 10, rate).granted == 3
        layer.take("b", -100, rate)
        assert layer.take("b", 100, rate).granted == 10

    def test_buckets_are_apart(self, layer: DurableLayer) -> None:
        rate = Rate.parse("1/h")
        assert layer.take("a", 1, rate).granted == layer.take("b", 1, rate).granted == 1

    def test_threads_share_a_bucket(self, layer: DurableLayer) -> None:
        rate = Rate.parse("50/h")
        granted: list[int] = []

        def grab() -> None:
            granted.extend(layer.take("b", 1, rate).granted for _ in range(30))
            _close_connections()

        threads = [threading.Thread(target=grab) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(granted) == 50


class TestWaiting:
    def test_poll_tells_when_the_next_is_due(self, layer: DurableLayer) -> None:
        assert layer.poll(["work"]) is None and layer.poll([]) is None
        send(layer, delay=100, priority=5)
        assert layer.poll(["work"]) == pytest.approx(100, abs=2)
        send(layer, delay=50, priority=-5)
        assert layer.poll(["work"]) == pytest.approx(50, abs=2)
        send(layer)
        assert layer.poll(["work"]) == 0
        assert layer.poll(["other"]) is None

    def test_wait_returns_when_a_message_is_sent(self, layer: DurableLayer) -> None:
        def later() -> None:
            started.wait()
            send(layer)
            _close_connections()

        started = threading.Event()
        thread = threading.Thread(target=later)
        thread.start()
        begun = time.monotonic()
        started.set()
        layer.wait(["work"], timeout=30)
        thread.join()
        assert time.monotonic() - begun < 10
        assert len(claim(layer)) == 1

    def test_wait_returns_when_something_becomes_due(self, layer: DurableLayer) -> None:
        send(layer, delay=0.2)
        begun = time.monotonic()
        layer.wait(["work"], timeout=30)
        assert 0.1 < time.monotonic() - begun < 10

    def test_wait_ends_with_its_timeout_and_with_wake(self, layer: DurableLayer) -> None:
        layer.wait(["work"], timeout=0.05)
        seen = layer.wakes
        layer.wake()
        begun = time.monotonic()
        layer.wait(["work"], timeout=30, seen=seen)
        assert time.monotonic() - begun < 10


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()
