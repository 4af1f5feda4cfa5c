"""What is particular to PostgreSQL: several connections at once, the planner, notifications, lost answers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError, connections, transaction

from mailrail.errors import LayerUnavailable, WouldDeadlock
from mailrail.layers import DatabaseChannelLayer, DurableLayer
from mailrail.layers.postgresql import lanes
from mailrail.layers.postgresql.lanes import passed_over
from mailrail.layers.postgresql.rows import lane_number
from mailrail.layers.postgresql.scan_floor import SLOW_CLAIM_S, SLOW_CLAIMS_IN_A_ROW, Level, ScanFloor
from mailrail.layers.postgresql.statements import STATEMENTS
from mailrail.layers.store import ClaimCall, Unconfirmed
from mailrail.messages import Message, Rate
from mailrail.routing import route
from mailrail.worker import maintenance

from ..listed import waiting_on
from ..plans import buffers, forget_statistics, plan_of, prepared_plan_of, rows
from ..processes import until
from ..worker.test_worker import Running, Seen
from .test_plans import CLAIMING, SETTLING, VALUES

pytestmark = pytest.mark.django_db(transaction=True, databases=["postgres"])

LEASE = 15.0


@pytest.fixture
def layer() -> Iterator[Any]:
    layer = DatabaseChannelLayer(using="postgres")
    yield layer
    layer.stop_listening()


@pytest.fixture
def of_new_sessions(layer: Any) -> Iterator[Callable[..., None]]:
    """Set parameters of sessions that begin from now on, as an administrator may for a database or a role."""
    given: list[str] = []

    def set_them(**parameters: str) -> None:
        with connections["postgres"].cursor() as cursor:
            for name, value in parameters.items():
                given.append(name)
                cursor.execute(f"ALTER DATABASE mailrail SET {name} = '{value}'")
        connections["postgres"].close()

    yield set_them
    with connections["postgres"].cursor() as cursor:
        for name in given:
            cursor.execute(f"ALTER DATABASE mailrail RESET {name}")
    connections["postgres"].close()


def send(layer: DurableLayer, channel: str = "work", **fields: Any) -> UUID:
    [id] = layer.enqueue([Message(channel, {"n": 1}, **fields)])
    return id


def claim(layer: DurableLayer, n: int = 10, channel: str = "work", **more: Any) -> list[Message]:
    return layer.claim("w", {channel: n}, LEASE, **more).claims


class TestSeveralConnections:
    def test_what_another_claims_just_now_is_passed_over(self, layer: Any, elsewhere: Any) -> None:
        ids = [send(layer) for _ in range(4)]
        with transaction.atomic("postgres"):
            assert [m.id for m in claim(layer, 2)] == ids[:2]
            assert [m.id for m in elsewhere(claim, layer, 10)] == ids[2:]
        assert elsewhere(claim, layer) == []

    def test_four_workers_claim_each_message_once(self, layer: Any) -> None:
        ids = {m for _ in range(10) for m in layer.enqueue([Message("work", {}) for _ in range(100)])}

        def work(worker: str) -> list[UUID]:
            done: list[UUID] = []
            claims: list[Message] = []
            while True:
                claimed = layer.claim(worker, {"work": 7}, LEASE, claims)
                assert claimed.lost == []
                done += [m.id for m in claims]
                claims = claimed.claims
                if not claims and layer.poll(["work"]) is None:
                    connections.close_all()
                    return done

        with ThreadPoolExecutor(4) as pool:
            done = [id for part in pool.map(work, "abcd") for id in part]
        assert sorted(done) == sorted(ids)

    @pytest.mark.parametrize("lane", [None, "l"], ids=["plain", "of a lane"])
    @pytest.mark.parametrize("verb", ["finish", "release", "retry", "bury", "renew", "finished by a claim"])
    def test_who_settles_while_another_claims_has_lost(
        self, layer: Any, elsewhere: Any, verb: str, lane: str | None
    ) -> None:
        """A row that changed while its lock was waited for is looked at again, token and all."""
        send(layer, lane=lane)
        [stale] = claim(layer)
        layer.advance_time(LEASE + 1)

        def settle() -> list[Message]:
            if verb == "finished by a claim":
                return layer.claim("w", {}, LEASE, [stale]).lost  # type: ignore[no-any-return]
            if verb == "renew":
                return layer.renew([stale], LEASE)  # type: ignore[no-any-return]
            if verb == "bury":
                return layer.bury(stale, "no use")  # type: ignore[no-any-return]
            if verb == "retry":
                return layer.retry(stale, 0, "once more")  # type: ignore[no-any-return]
            return getattr(layer, verb)([stale])  # type: ignore[no-any-return]

        with transaction.atomic("postgres"):
            [holder] = claim(layer)
            assert holder.token != stale.token
            settling = elsewhere.submit(settle)
            if verb == "renew":  # waits for nobody, and does not know yet
                assert settling.result(30) == []
            else:
                until(lambda: waits_for_a_lock(layer), what="the wait for the claim")
        assert verb == "renew" or settling.result(30) == [stale]
        assert layer.renew([holder], LEASE) == []
        assert layer.finish([holder]) == [] and layer.stats() == {}

    def test_a_waiting_key_is_locked_until_the_sender_of_its_duplicate_commits(
        self, layer: Any, elsewhere: Any
    ) -> None:
        id = send(layer, key="reindex 7")
        with transaction.atomic("postgres"):
            assert send(layer, key="reindex 7") == id
            assert elsewhere(claim, layer) == []  # it would not see what the sender is about to commit
        assert [m.id for m in elsewhere(claim, layer)] == [id]

    def test_two_senders_of_one_key_agree_on_one_message(self, layer: Any) -> None:
        def send_some(_: int) -> set[UUID]:
            try:
                return {send(layer, key="k") for _ in range(20)}
            finally:
                connections.close_all()

        with ThreadPoolExecutor(4) as pool:
            [id] = set.union(*pool.map(send_some, range(4)))
        assert [m.id for m in claim(layer)] == [id]

    def test_rows_a_user_has_locked_do_not_hold_up_others(self, layer: Any, elsewhere: Any) -> None:
        from mailrail.models import StoredMessage

        first, second = send(layer), send(layer)
        with transaction.atomic("postgres"):
            locked = StoredMessage.objects.using("postgres").select_for_update().get(id=first)
            assert locked.id == first
            assert [m.id for m in elsewhere(claim, layer)] == [second]
        assert [m.id for m in elsewhere(claim, layer)] == [first]


class TestManyChannels:
    CHANNELS = ("a", "b", "c", "d", "e", "f")

    def claim(self, layer: DurableLayer, total: int) -> list[str]:
        claims = layer.claim("w", dict.fromkeys(self.CHANNELS, 8), LEASE, total=total).claims
        return [message.channel for message in claims]

    def test_a_claim_locks_no_more_than_it_takes(self, layer: Any, elsewhere: Any) -> None:
        for channel in self.CHANNELS:
            layer.enqueue([Message(channel, {}) for _ in range(8)])
        with transaction.atomic("postgres"):
            assert len(self.claim(layer, 4)) == 4
            assert len(elsewhere(self.claim, layer, 100)) == 44

    def test_the_best_of_all_channels_come_first(self, layer: Any) -> None:
        for n, channel in enumerate(self.CHANNELS):
            send(layer, channel, due=float(n))
            send(layer, channel, due=10.0 - n, priority=n % 2)
        assert self.claim(layer, 3) == ["f", "d", "b"]  # of the higher priority, oldest due first
        assert self.claim(layer, 5) == ["a", "b", "c", "d", "e"]

    def test_the_best_ones_locked_for_long_hold_up_nobody(self, layer: Any, elsewhere: Any) -> None:
        for n, channel in enumerate(self.CHANNELS):
            send(layer, channel, key="k", due=float(n))
        with transaction.atomic("postgres"):
            for channel in self.CHANNELS[:-1]:
                send(layer, channel, key="k")  # a duplicate: locks the one that waits
            assert elsewhere(self.claim, layer, 1) == ["f"]


class TestTransactions:
    def test_a_send_is_part_of_the_transaction_around_it(self, layer: Any, elsewhere: Any) -> None:
        with transaction.atomic("postgres"):
            id = send(layer)
            with transaction.atomic("postgres"):
                send(layer)
                transaction.set_rollback(True, "postgres")
            assert elsewhere(claim, layer) == []
        assert [m.id for m in elsewhere(claim, layer)] == [id]

    def test_immediately_goes_past_the_transaction(self, layer: Any, elsewhere: Any) -> None:
        with transaction.atomic("postgres"):
            [id] = layer.enqueue_immediately([Message("work", {"n": 1})])
            assert [m.id for m in elsewhere(claim, layer)] == [id]
            transaction.set_rollback(True, "postgres")

    def test_immediately_says_so_where_it_would_wait_for_itself(
        self, layer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mailrail.second_connection.LOCK_TIMEOUT_S", 0.1)
        with transaction.atomic("postgres"):
            send(layer, key="k")
            with pytest.raises(WouldDeadlock, match="same key"):
                layer.enqueue_immediately([Message("work", {}, key="k")])
        assert len(claim(layer)) == 1

    def test_short_ones_of_our_own_see_what_was_committed_while_they_waited(
        self, layer: Any, elsewhere: Any, of_new_sessions: Callable[..., None]
    ) -> None:
        of_new_sessions(default_transaction_isolation="repeatable read")
        assert layer.take("bucket", 1, Rate(10, 3600)).granted == 1
        with transaction.atomic("postgres"):
            assert layer.take("bucket", 7, Rate(10, 3600)).granted == 7
            taking = elsewhere.submit(layer.take, "bucket", 7, Rate(10, 3600))
            until(lambda: waits_for_a_lock(layer), what="the bucket")
        assert taking.result(30).granted == 2

    def test_tables_that_are_not_there_are_named_with_the_command(self, layer: Any) -> None:
        with connections["postgres"].cursor() as cursor:
            cursor.execute("ALTER TABLE mailrail_message RENAME TO hidden")
            try:
                for verb in (lambda: send(layer), lambda: claim(layer), lambda: layer.poll(["work"])):
                    with pytest.raises(LayerUnavailable, match="migrate mailrail"):
                        verb()
            finally:
                cursor.execute("ALTER TABLE hidden RENAME TO mailrail_message")


class TestLanes:
    def test_a_sender_in_a_long_transaction_does_not_hold_up_the_lane(
        self, layer: Any, elsewhere: Any
    ) -> None:
        first = send(layer, lane="l")
        [running] = elsewhere(claim, layer)
        with transaction.atomic("postgres"):
            second = send(layer, lane="l")
            assert elsewhere(layer.finish, [running]) == []
            assert elsewhere(claim, layer) == []
        assert [m.id for m in elsewhere(claim, layer)] == [second] != [first]

    def test_one_that_commits_while_the_head_is_being_removed_is_let_go(
        self, layer: Any, elsewhere: Any
    ) -> None:
        send(layer, lane="l")
        [running] = claim(layer)
        with transaction.atomic("postgres"):
            assert layer.finish([running]) == []
            second = elsewhere(send, layer, lane="l")
            assert elsewhere(claim, layer) == []  # its head is not gone yet; nor can it be parked behind it
        assert [m.id for m in claim(layer)] == [second]

    def test_one_parked_before_the_head_is_removed_is_let_go(self, layer: Any, elsewhere: Any) -> None:
        first, second = send(layer, lane="l"), send(layer, lane="l")
        [running] = elsewhere(claim, layer)
        assert (running.id, elsewhere(claim, layer)) == (first, [])  # parks the second
        assert [m.id for m in elsewhere(claim, layer, finished=[running])] == [second]

    def test_removing_two_neighbours_at_once_lets_the_third_go(self, layer: Any, elsewhere: Any) -> None:
        ids = [send(layer, lane="l") for _ in range(3)]
        [head] = claim(layer)
        assert claim(layer) == []
        with transaction.atomic("postgres"):
            assert layer.cancel("work", [ids[1]]) == [ids[1]]
            finishing = elsewhere.submit(layer.finish, [head])  # waits for the second, to know who is next
        assert finishing.result(30) == []
        assert [m.id for m in claim(layer)] == [ids[2]]

    def test_nobody_is_left_behind_one_that_is_cancelled_while_the_head_ends(
        self, layer: Any, elsewhere: Any
    ) -> None:
        ids = [send(layer, lane="l") for _ in range(3)]
        [head] = claim(layer, 1)
        with transaction.atomic("postgres"):
            assert layer.cancel("work", [ids[1]]) == [ids[1]]
            assert elsewhere(claim, layer) == []  # parks the third, and cannot park the second
            finishing = elsewhere.submit(layer.finish, [head])
            until(lambda: waits_for_a_lock(layer), what="the second, to know who is next")
        assert finishing.result(30) == []
        assert [m.id for m in claim(layer)] == [ids[2]]

    def test_nor_behind_one_that_is_cancelled_just_after(self, layer: Any, elsewhere: Any) -> None:
        ids = [send(layer, lane="l") for _ in range(3)]
        [head] = claim(layer, 1)
        with transaction.atomic("postgres"):
            assert layer.finish([head]) == []
            assert elsewhere(claim, layer) == []  # parks the third, behind the second: the head is locked
            cancelling = elsewhere.submit(layer.cancel, "work", [ids[1]])
            until(lambda: waits_for_a_lock(layer), what="the head, to know who is next")
        assert cancelling.result(30) == [ids[1]]
        assert [m.id for m in claim(layer)] == [ids[2]]

    def test_who_cancels_behind_the_head_keeps_nobody_from_running_it(
        self, layer: Any, elsewhere: Any
    ) -> None:
        ids = [send(layer, lane="l") for _ in range(3)]
        with transaction.atomic("postgres"):
            assert layer.cancel("work", [ids[2]]) == [ids[2]]
            [head] = elsewhere(claim, layer, 1)
            [second] = elsewhere(claim, layer, 1, finished=[head])
        assert (head.id, second.id) == (ids[0], ids[1])

    def test_places_follow_the_order_of_commits_whatever_the_isolation(
        self, layer: Any, elsewhere: Any
    ) -> None:
        with transaction.atomic("postgres"):
            connections["postgres"].cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            claim(layer, channel="other")  # takes the snapshot
            before = elsewhere(send, layer, lane="l")
            after = send(layer, lane="l")  # does not see it
        [first] = claim(layer)
        assert first.id == before and claim(layer) == []
        assert [m.id for m in claim(layer, finished=[first])] == [after]

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    @pytest.mark.parametrize("verb", ["finish", "cancel"])
    def test_a_transaction_that_sees_the_past_keeps_nobody_held(
        self, layer: Any, elsewhere: Any, level: str, verb: str
    ) -> None:
        head = send(layer, lane="l", delay=0.0 if verb == "finish" else 1000.0)
        running = claim(layer)
        with transaction.atomic("postgres"):
            connections["postgres"].cursor().execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            claim(layer, channel="other")  # takes the snapshot
            second = elsewhere(send, layer, lane="l")
            assert elsewhere(claim, layer) == []  # parks it
            if verb == "finish":
                assert layer.finish(running) == []
            else:
                assert layer.cancel("work", [head]) == [head]
        assert [m.id for m in claim(layer)] == [second]

    def test_a_long_lane_is_parked_and_what_is_behind_it_in_the_index_found(self, layer: Any) -> None:
        ids = layer.enqueue([Message("work", {}, lane="long") for _ in range(2500)])
        other = send(layer)
        assert [m.id for m in claim(layer, 2)] == [ids[0], other]

    def test_of_two_who_requeue_at_once_one_does(self, layer: Any) -> None:
        ids = [send(layer) for _ in range(3)]
        for got in claim(layer, 3):
            layer.bury(got, "why")

        def requeue_late(ids: list[UUID]) -> list[UUID]:
            try:
                return layer.requeue("work", ids)  # type: ignore[no-any-return]
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic("postgres"):
                assert {*layer.requeue("work", ids)} == {*ids}
                late = pool.submit(requeue_late, ids[::-1])
                until(lambda: waits_for_a_lock(layer))
                assert layer.finish(claim(layer, 3)) == []  # they are gone when the other one goes on
            assert late.result(20) == []
        assert layer.stats() == {}

    @pytest.mark.parametrize("level", ["read committed", "repeatable read"])
    def test_in_order_one_at_a_time_whatever_happens(
        self, layer: Any, level: str, of_new_sessions: Callable[..., None]
    ) -> None:
        """Senders that commit late, workers that finish, retry, bury and die; a person who requeues."""
        of_new_sessions(default_transaction_isolation=level)
        chance = random.Random(seed := random.randrange(10**6))
        print(f"seed: {seed}")
        lanes, per_sender = ["a", "b"], 40
        order: dict[str, list[tuple[int, UUID]]] = {lane: [] for lane in lanes}
        running: dict[str, set[UUID]] = {lane: set() for lane in lanes}
        guard = threading.Lock()
        sending = [True]

        def send_some(sender: int) -> None:
            mine = random.Random(seed + sender)
            for n in range(per_sender):
                lane = mine.choice(lanes)
                with transaction.atomic("postgres"):
                    layer.enqueue([Message("work", {"sender": sender, "n": n}, lane=lane)])
                    if mine.random() < 0.2:
                        transaction.set_rollback(True, "postgres")
            connections.close_all()

        def work(worker: str) -> None:
            mine = random.Random(f"{seed}{worker}")
            while sending[0] or layer.stats().get("work") is not None:
                for got in layer.claim(worker, {"work": 2}, LEASE).claims:
                    with guard:
                        assert not running[got.lane], "two of a lane at a time"
                        running[got.lane].add(got.id)
                    verb = mine.choice(["finish", "finish", "retry", "bury", "release"])
                    with guard:
                        running[got.lane].discard(got.id)
                        if verb in ("finish", "bury"):
                            order[got.lane].append((got.lane_seq, got.id))
                        lost = {
                            "finish": lambda got=got: layer.finish([got]),
                            "retry": lambda got=got: layer.retry(got, 0.0, "again"),
                            "bury": lambda got=got: layer.bury(got, "why"),
                            "release": lambda got=got: layer.release([got]),
                        }[verb]()
                        assert lost == []
                    if verb == "bury":
                        assert layer.requeue("work", [got.id]) == [got.id]
            connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            workers = [pool.submit(work, name) for name in "uvwx"]
            for sender in [pool.submit(send_some, chance.randrange(10**6)) for _ in range(4)]:
                sender.result(60)
            sending[0] = False
            for worker in workers:
                worker.result(60)
        for places in order.values():
            assert places == sorted(places)
        assert layer.stats() == {}


class TestPlaces:
    """Several places in one lane, and transactions that are open for long."""

    @pytest.mark.parametrize("verb", ["cancel", "send a duplicate"])
    def test_one_that_was_locked_while_a_place_became_free_gets_it_with_the_next_maintenance(
        self, layer: Any, elsewhere: Any, verb: str
    ) -> None:
        send(layer, lane="l", places=1)
        parked = send(layer, lane="l", places=1, key="k", lifetime=60)
        [running] = claim(layer)
        with transaction.atomic("postgres"):
            if verb == "cancel":
                assert layer.cancel("work", [parked]) == [parked]
                transaction.set_rollback(True, "postgres")
            else:
                assert send(layer, lane="l", places=1, key="k", lifetime=600) == parked
            assert elsewhere(layer.finish, [running]) == []
            elsewhere(layer.maintain)  # cannot have it yet
        layer.maintain()
        assert [m.id for m in claim(layer)] == [parked]

    @pytest.mark.parametrize("verb", ["cancel", "send its twin"])
    def test_a_worker_looks_again_at_what_was_locked_while_a_place_became_free(
        self, layer: Any, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        monkeypatch.setattr(maintenance, "RELAY_INTERVAL_S", 1000.0)  # it must not be maintenance
        gate, seen = threading.Event(), Seen()

        def consume(message: Any) -> None:
            seen(message)
            gate.wait(30)

        send(layer, lane="l", places=1)
        with Running(layer, route("work", consume)):
            until(lambda: len(seen) == 1)
            parked = send(layer, lane="l", places=1, key="k", lifetime=60)
            until(lambda: is_held(parked), what="parking")
            with transaction.atomic("postgres"):
                if verb == "cancel":
                    assert layer.cancel("work", [parked]) == [parked]
                    transaction.set_rollback(True, "postgres")
                else:
                    assert send(layer, lane="l", places=1, key="k", lifetime=600) == parked
                gate.set()
                until(lambda: passed_over("postgres").seconds_left(["work"]) is not None, what="passing over")
            until(lambda: len(seen) == 2, timeout=30, what="the second run")
        assert layer.poll(["work"]) is None

    def test_only_claims_of_its_channel_look_again_at_a_lane(
        self, layer: Any, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "LOOK_AGAIN_S", 0.0)
        send(layer, lane="l", places=1)
        parked = send(layer, lane="l", places=1)
        [running] = claim(layer)
        with transaction.atomic("postgres"):
            assert layer.cancel("work", [parked]) == [parked]
            assert elsewhere(layer.finish, [running]) == []
            transaction.set_rollback(True, "postgres")
        assert layer.poll(["other"]) is None and layer.poll(["work"]) == 0
        assert claim(layer, channel="other") == [] and layer.poll(["work"]) == 0
        assert [m.id for m in claim(layer)] == [parked]

    @pytest.mark.parametrize("verb", ["retry", "release"])
    def test_a_claim_is_given_back_together_with_its_place(
        self, layer: Any, elsewhere: Any, verb: str
    ) -> None:
        send(layer, lane="l", places=1)
        waiting = send(layer, lane="l", places=1)
        [running] = claim(layer)
        reschedule = {
            "retry": lambda: layer.retry(running, 60, "no"),
            "release": lambda: layer.release([running], 60),
        }
        lane = lane_number(("work", "l"), lock="mailrail places")
        with transaction.atomic("postgres"):
            connections["postgres"].cursor().execute(STATEMENTS["lock_places"], {"lanes": [lane]})
            rescheduling = elsewhere.submit(reschedule[verb])
            until(lambda: waits_for_a_lock(layer), what="the lane")
            assert layer.stats()["work"].claimed == 1
        rescheduling.result(30)
        assert [m.id for m in claim(layer)] == [waiting]

    def test_who_cancels_in_a_long_transaction_holds_up_nobody_in_the_lane(
        self, layer: Any, elsewhere: Any
    ) -> None:
        sent = [send(layer, lane="l", places=2) for _ in range(3)]
        [running] = claim(layer, 1)  # the second has a place, too
        with transaction.atomic("postgres"):
            assert layer.cancel("work", [sent[1]]) == [sent[1]]
            assert [m.id for m in elsewhere(claim, layer, finished=[running])] == [sent[2]]
            parked = [elsewhere(send, layer, lane="l", places=2) for _ in range(2)]
            assert elsewhere(claim, layer) == []
        assert {m.id for m in claim(layer)} == {parked[0]}

    @pytest.mark.parametrize("level", ["repeatable read", "serializable"])
    def test_a_transaction_that_sees_the_past_gives_places_after_its_commit(
        self, layer: Any, elsewhere: Any, of_new_sessions: Any, level: str
    ) -> None:
        sent = [send(layer, lane="l", places=2) for _ in range(4)]
        first, second = claim(layer)
        statements: list[str] = []

        def note(execute: Any, sql: str, *rest: Any) -> Any:
            statements.append(sql)
            return execute(sql, *rest)

        of_new_sessions(default_transaction_isolation=level)
        with connections["postgres"].execute_wrapper(note), transaction.atomic("postgres"):
            claim(layer, channel="other")  # takes the snapshot
            assert elsewhere(layer.finish, [second]) == []
            assert layer.finish([first]) == []
        assert statements.count(STATEMENTS["lock_places"]) == 2  # in vain, and after the commit
        assert {m.id for m in claim(layer)} == {*sent[2:]}

    def test_a_worker_does_this_maintenance(self, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(maintenance, "RELAY_INTERVAL_S", 0.05)
        send(layer, lane="l", places=1)
        with connections["postgres"].cursor() as cursor:
            cursor.execute("UPDATE mailrail_message SET held = 1")
        seen = Seen()
        with Running(layer, route("work", seen)):
            until(lambda: len(seen) == 1)

    def test_maintenance_gives_no_more_than_the_places_of_each_lane(self, layer: Any) -> None:
        layer.enqueue([Message("work", {}, lane=f"l{n % 150}", places=2) for n in range(600)])
        with connections["postgres"].cursor() as cursor:
            cursor.execute("UPDATE mailrail_message SET held = 1")
        layer.maintain()
        layer.maintain()
        claims = claim(layer, 1000)
        assert Counter(m.lane for m in claims) == {f"l{n}": 2 for n in range(150)}


def is_held(id: UUID) -> bool:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT held FROM mailrail_message WHERE id = %s", [id])
        return bool(cursor.fetchone()[0])


def waits_for_a_lock(layer: Any) -> bool:
    with connections[layer.using].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@contextmanager
def answers_are_lost(layer: Any) -> Iterator[None]:
    """The server does what is asked of it in this block, and the connection breaks before it has said so."""
    usual = layer._store._session.execute_prepared

    def lose_the_answer(statement: str, values: Any) -> Any:
        usual(statement, values)
        raise OperationalError("the connection is lost")

    layer._store._session.execute_prepared = lose_the_answer
    with pytest.raises(OperationalError):
        yield
    del layer._store._session.execute_prepared


class TestLostAnswers:
    def test_claims_whose_answer_was_lost_are_recovered(self, layer: Any) -> None:
        done = send(layer)
        [finished] = claim(layer)
        ids = [send(layer), send(layer)]
        with answers_are_lost(layer):
            claim(layer, finished=[finished])
        claimed = layer.claim("w", {"work": 10}, LEASE, [finished])
        assert [(m.id, m.attempt, m.losses) for m in claimed.claims] == [(id, 1, 0) for id in ids]
        assert layer.finish(claimed.claims) == []
        # what it was to finish is gone because of it, and is not called lost
        assert claimed.lost == [] and done not in {m.id for m in waiting_on(layer, "work")}

    def test_what_a_call_without_room_has_finished_is_not_called_lost(self, layer: Any) -> None:
        send(layer)
        [finished] = claim(layer)
        with answers_are_lost(layer):
            layer.claim("w", {}, LEASE, [finished])
        assert layer.claim("w", {"work": 10}, LEASE, [finished]) == ([], [], [])

    def test_only_by_the_worker_that_made_the_call(self, layer: Any) -> None:
        send(layer)
        token = claim(layer)[0].token or 0
        layer._unconfirmed.note(
            ClaimCall("w", {}, {}, [], 1, unconfirmed=[Unconfirmed(token, LEASE, [], [])])
        )
        assert layer.claim("another", {"work": 10}, LEASE).claims == []
        [recovered] = claim(layer)
        assert recovered.token != token
        assert layer.finish([recovered]) == []


class TestClaimsThatFailHalfWay:
    """The first statement of a claim has settled, leased and dropped; one that follows fails."""

    @pytest.fixture
    def fail_to_park(self, layer: Any) -> Iterator[Callable[[str], None]]:
        """The next statement that parks messages of a lane fails with this SQLSTATE, and no other one."""

        def fail(sqlstate: str) -> None:
            cursor.execute(
                f"""
                CREATE SEQUENCE parkings;
                CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('parkings') = 1 THEN RAISE EXCEPTION 'once' USING ERRCODE = '{sqlstate}'; END IF;
                    RETURN NULL;
                END $$;
                CREATE TRIGGER fail_once BEFORE UPDATE OF held ON mailrail_message
                FOR EACH STATEMENT EXECUTE FUNCTION fail_once()
                """
            )

        with connections["postgres"].cursor() as cursor:
            yield fail
            cursor.execute("DROP FUNCTION IF EXISTS fail_once CASCADE; DROP SEQUENCE IF EXISTS parkings")

    def test_a_deadlock_makes_nothing_lost_of_what_was_finished(self, layer: Any, fail_to_park: Any) -> None:
        send(layer)
        [finished] = claim(layer)
        head, _ = send(layer, lane="l"), send(layer, lane="l")
        gone = send(layer, expires=1.0)
        fail_to_park("40P01")
        claimed = layer.claim("w", {"work": 10}, LEASE, [finished])
        assert claimed.lost == []
        assert [m.id for m in claimed.claims] == [head] and [m.id for m in claimed.expired] == [gone]

    def test_what_it_has_dropped_is_told_by_the_next_claim(self, layer: Any, fail_to_park: Any) -> None:
        send(layer)
        [finished] = claim(layer)
        head, _ = send(layer, lane="l"), send(layer, lane="l")
        gone = send(layer, expires=1.0)
        fail_to_park("57014")
        with pytest.raises(OperationalError):
            layer.claim("w", {"work": 10}, LEASE, [finished])
        assert layer.claim("another", {"other": 1}, LEASE).expired == []
        claimed = layer.claim("w", {"work": 10}, LEASE, [finished])
        assert [m.id for m in claimed.expired] == [gone]
        assert [m.id for m in claimed.claims] == [head] and claimed.lost == []
        assert claim(layer) == []  # told once
        assert layer.claim("w", {"work": 1}, LEASE).expired == []


class TestHearing:
    def test_a_commit_elsewhere_notifies(self, layer: Any, elsewhere: Any) -> None:
        until(lambda: layer.wait(["work"], 0.05) or layer._waiting.listener.is_live, what="listening")
        waiting = elsewhere.submit(_seconds_of, layer.wait, ["work"], 30.0)
        send(layer)
        assert waiting.result(30) < 10

    def test_other_channels_wake_nobody(self, layer: Any, elsewhere: Any) -> None:
        until(lambda: layer.wait(["work"], 0.05) or layer._waiting.listener.is_live, what="listening")
        seen = layer.wakes
        send(layer, channel="other")
        send(layer)
        until(lambda: layer.wakes > seen, what="the notification")
        assert layer.wakes == seen + 1

    def test_a_cut_connection_is_made_anew(self, layer: Any, postgres_server: Any) -> None:
        until(lambda: layer.wait(["work"], 0.05) or layer._waiting.listener.is_live, what="listening")
        with postgres_server.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN mailrail'"
            )
        until(lambda: not layer._waiting.listener.is_live, what="the end of listening")
        until(lambda: layer._waiting.listener.is_live, what="listening again")
        seen = layer.wakes
        send(layer)
        until(lambda: layer.wakes > seen, what="the notification")

    def test_without_notifications_it_looks_often(self, layer: Any, elsewhere: Any) -> None:
        layer._waiting.listener._is_in_vain = True
        waiting = elsewhere.submit(_seconds_of, layer.wait, ["work"], 30.0)
        send(layer)
        assert waiting.result(30) < 10 and not layer._waiting.listener.is_live

    def test_close_ends_the_thread_and_its_connection(self, layer: Any) -> None:
        until(lambda: layer.wait(["work"], 0.05) or layer._waiting.listener.is_live, what="listening")
        layer.stop_listening()
        assert "mailrail-listener" not in {thread.name for thread in threading.enumerate()}
        layer.wait(["work"], 0.05)  # opens it again
        until(lambda: layer._waiting.listener.is_live, what="listening again")


def _seconds_of(action: Callable[..., Any], *arguments: Any) -> float:
    begun = time.monotonic()
    try:
        action(*arguments)
        return time.monotonic() - begun
    finally:
        connections.close_all()


class TestLanesOfBothKinds:
    """A deploy may give a lane several places while messages wait in it."""

    def test_one_of_a_plain_lane_does_not_wait_for_those_with_a_place(self, layer: Any) -> None:
        placed = send(layer, lane="l", places=1)
        assert [m.id for m in claim(layer)] == [placed]
        plain, _ = send(layer, lane="l"), send(layer, lane="l", places=1)
        assert [m.id for m in claim(layer, 1)] == [plain]

    def test_locks_of_lanes_are_gone_before_others_are_taken(
        self, layer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send(layer, lane="l")
        behind = send(layer, lane="l")
        done, claims, within = claim(layer), layer._store._claims, []
        choose = claims._choose

        def look(call: Any) -> Any:
            within.append(connections["postgres"].in_atomic_block)
            return choose(call)

        monkeypatch.setattr(claims, "_choose", look)
        assert [m.id for m in claim(layer, finished=done)] == [behind]
        assert within == [False]


class TestScanFloor:
    LEVEL = Level("work", 0)

    def learn(
        self, scan_floor: ScanFloor, times: int, seconds: float, full: bool = True, due: float = 5.0
    ) -> None:
        for _ in range(times):
            scan_floor.learn("w", scan_floor.min_dues("w"), [(self.LEVEL, due)], seconds, full)

    def test_one_slow_claim_is_nobody_s_fault(self) -> None:
        scan_floor = ScanFloor()
        self.learn(scan_floor, SLOW_CLAIMS_IN_A_ROW - 1, SLOW_CLAIM_S * 2)
        assert scan_floor.min_dues("w") is None

    def test_slow_claims_in_a_row_tell_where_to_begin(self) -> None:
        scan_floor = ScanFloor()
        self.learn(scan_floor, SLOW_CLAIMS_IN_A_ROW, 10.0)
        assert scan_floor.min_dues("w") == {self.LEVEL: 5.0} and scan_floor.min_dues("another") is None
        self.learn(scan_floor, 1, 0.001, due=9.0)
        assert scan_floor.min_dues("w") == {self.LEVEL: 9.0}

    def test_one_that_stood_still_is_no_measure_of_the_others(self) -> None:
        scan_floor = ScanFloor()
        self.learn(scan_floor, SLOW_CLAIMS_IN_A_ROW - 1, SLOW_CLAIM_S * 2)
        self.learn(scan_floor, 1, 60.0)
        assert scan_floor._known["w"].until - time.monotonic() < 1.0

    def test_a_claim_that_was_not_full_ends_it(self) -> None:
        scan_floor = ScanFloor()
        self.learn(scan_floor, SLOW_CLAIMS_IN_A_ROW, 10.0)
        self.learn(scan_floor, 1, 0.001, full=False)
        assert scan_floor.min_dues("w") is None

    def test_a_claim_begins_where_it_says_and_then_at_the_front_again(self, layer: Any) -> None:
        early, late = send(layer, due=1.0), send(layer, due=100.0)
        layer._store._claims.scan_floor._known["w"] = _known({Level("work", 0): 50.0})
        assert [m.id for m in claim(layer, 1)] == [late]
        assert [m.id for m in claim(layer, 1)] == [early]  # nothing more from there on
        assert claim(layer, 1) == []

    def test_a_claim_that_finds_nothing_has_looked_everywhere(self, layer: Any) -> None:
        other = send(layer, channel="other")
        layer._store._claims.scan_floor._known["w"] = _known({Level("work", 0): 50.0})
        claimed = layer.claim("w", {"work": 1, "other": 1}, LEASE, total=1)
        assert [m.id for m in claimed.claims] == [other]


def _known(min_dues: dict[Level, float]) -> Any:
    from mailrail.layers.postgresql.scan_floor import _Known

    return _Known(min_dues, time.monotonic() + 60)


@pytest.mark.parametrize("batch", [8, 200])
def test_statistics_of_an_empty_queue_make_no_scans_of_a_full_one(layer: Any, batch: int) -> None:
    """Nor look-ups of all ids once for each of them, prepared or not."""
    with connections["postgres"].cursor() as cursor:
        forget_statistics(cursor, "mailrail_message")
        ids = layer.enqueue([Message("c1", {}) for _ in range(8000)])[:batch]
        values = VALUES | {
            "ids": ids,
            "tokens": [1] * batch,
            "total": batch,
            "rooms": [batch] * 50,
            "besides": ids,
        }
        values |= {"lanes": ["l"] * 50, "known_priorities": [0], "min_dues": [0.0]}
        for name, plan in product([*CLAIMING, *SETTLING], (plan_of, prepared_plan_of)):
            with transaction.atomic("postgres"):
                cursor.execute("UPDATE mailrail_message SET token = 1 WHERE id = ANY (%s)", [ids])
                nodes = plan(cursor, STATEMENTS[name], values)
                transaction.set_rollback(True, "postgres")
            read = [(rows(n), n) for n in nodes if n.get("Relation Name") == "mailrail_message"]
            assert sum(count for count, _ in read) < 1000 + 100 * batch, (
                name,
                max(count for count, _ in read),
            )
            assert buffers(nodes) < 400 + 25 * batch, name


def test_a_plan_made_for_an_empty_queue_does_not_last(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has nothing to do claims, too, and its plans are kept."""
    for _ in range(20):
        claim(layer, 8)
    ids = layer.enqueue([Message("work", {}) for _ in range(5000)])
    monkeypatch.setattr("mailrail.layers.postgresql.session.PLANS_LAST_S", 0.0)
    with transaction.atomic("postgres"):
        before = whole_scans()
        assert [m.id for m in claim(layer, 8)] == ids[:8]
        assert whole_scans() == before


def whole_scans() -> int:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'mailrail_message'")
        [(count,)] = cursor.fetchall()
    return int(count)


def test_psycopg_2_alone_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from mailrail.errors import InvalidSettings

    monkeypatch.setattr("mailrail.layers.database.find_spec", lambda name: None)
    with pytest.raises(InvalidSettings, match=r'pip install "mailrail\[postgresql\]"'):
        DatabaseChannelLayer(using="postgres")


def test_the_tables_are_vacuumed_by_the_number_of_dead_rows() -> None:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'mailrail_message'")
        [(options,)] = cursor.fetchall()
    assert "autovacuum_vacuum_scale_factor=0" in options and "vacuum_truncate=off" in options


def test_a_claim_leaves_messages_on_their_pages(layer: Any) -> None:
    """PostgreSQL logs the whole of a version that moves to another page, and locks the one before."""
    content = {"id": "0190a0b0-c0d0-7000-8000-000000000001"}
    layer.enqueue([Message("mailrail.mail.default", {**content, "n": n}) for n in range(100)])
    before = pages_of_messages()
    assert len(layer.claim("a-machine:12345:1a2b", {"mailrail.mail.default": 100}, LEASE).claims) == 100
    assert pages_of_messages() == before


def pages_of_messages() -> dict[UUID, int]:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT id, (ctid::text::point)[0]::int FROM mailrail_message")
        return dict(cursor.fetchall())
