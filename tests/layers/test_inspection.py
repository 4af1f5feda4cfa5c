"""The part of the contract that people look at a layer by, held against every layer."""

from __future__ import annotations

import random
import traceback
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from mailrail.layers import DurableLayer, RedisChannelLayer
from mailrail.layers.store import ERROR_LENGTH, PREVIEW_LENGTH
from mailrail.messages import Message, MessageSummary
from mailrail.tracebacks import error_class, first_line

from ..listed import dead_on, get_one, get_one_dead
from ..servers import ValkeyServer

LEASE = 15.0


def claim(layer: DurableLayer, n: int = 10, channel: str = "work") -> list[Message]:
    return layer.claim("w1", {channel: n}, LEASE).claims


def bury(layer: DurableLayer, error: str, channel: str = "work", **content: Any) -> UUID:
    layer.enqueue([message := Message(channel, content, priority=100)])
    [claimed] = claim(layer, 1, channel)
    assert claimed.id == message.id
    layer.bury(claimed, error)
    return message.id


def raised(error: BaseException) -> str:
    try:
        raise error
    except BaseException:
        return traceback.format_exc()


def ids(listed: list[MessageSummary]) -> list[UUID]:
    return [it.id for it in listed]


class TestTheLastError:
    """Of a run that raised while retries are left."""

    def test_it_is_kept_with_the_message_until_the_next_one(self, layer: DurableLayer) -> None:
        layer.enqueue([message := Message("work", {})])
        for n in (1, 2):
            error = raised(ValueError(f"number {n}\nand more"))
            [claimed] = claim(layer)
            assert claimed.error == ""  # which claims do not read
            layer.retry(claimed, 0.0, error)
            found = get_one(layer, "work", message.id)
            assert found is not None and found.error == error
            [listed] = layer.list_messages(["work"], 5)
            assert (listed.error_class, listed.error) == ("ValueError", error)
            assert first_line(listed.error) == f"ValueError: number {n}"

    def test_it_stays_while_the_next_run_goes_on_and_when_that_is_given_back(
        self, layer: DurableLayer
    ) -> None:
        layer.enqueue([message := Message("work", {})])
        layer.retry(claim(layer)[0], 0.0, "ValueError: no")
        [claimed] = claim(layer)
        [listed] = layer.list_messages(["work"], 5)
        assert (listed.state, listed.error) == ("claimed", "ValueError: no")
        layer.release([claimed])
        found = get_one(layer, "work", message.id)
        assert found is not None and found.error == "ValueError: no"

    def test_it_leaves_nothing_behind_a_message_that_ends(self, layer: DurableLayer) -> None:
        for _ in range(4):
            layer.enqueue([Message("work", {})])
        claims = claim(layer)
        for claimed in claims:
            layer.retry(claimed, 0.0, "failed once")
        cancelled, *_ = claims
        assert layer.cancel("work", [cancelled.id]) == [cancelled.id]
        finished, buried, requeued = claim(layer)
        layer.finish([finished])
        for claimed in (buried, requeued):
            layer.bury(claimed, "failed twice")
        layer.requeue("work", [requeued.id])
        layer.enqueue([Message("work", {}, id=each.id) for each in (finished, cancelled)])
        assert [it.error for it in layer.list_messages(["work"], 5)] == ["", "", ""]
        dead = get_one_dead(layer, "work", buried.id)
        assert dead is not None and dead.error == "failed twice"

    def test_it_may_be_long_and_hold_what_no_database_stores(self, layer: DurableLayer) -> None:
        layer.enqueue([message := Message("work", {})])
        error = raised(ValueError("x" * 30_000 + "\0 \ud83d"))
        layer.retry(claim(layer)[0], 0.0, error)
        found = get_one(layer, "work", message.id)
        assert found is not None and len(found.error) >= 30_000 and found.error.startswith("Traceback")
        [listed] = layer.list_messages(["work"], 5)
        assert len(listed.error) <= ERROR_LENGTH
        [claimed] = claim(layer)
        assert claimed.id == message.id

    def test_a_message_without_one_has_none(self, layer: DurableLayer) -> None:
        layer.enqueue([message := Message("work", {})])
        found = get_one(layer, "work", message.id)
        assert found is not None and found.error == ""
        [listed] = layer.list_messages(["work"], 5)
        assert (listed.error_class, listed.error) == ("", "")


def test_an_encrypted_error_is_read_by_who_has_the_key_only(valkey: ValkeyServer) -> None:
    layer = RedisChannelLayer([valkey.url], symmetric_encryption_keys=["secret"])
    layer.enqueue([message := Message("work", {})])
    layer.retry(claim(layer)[0], 0.0, "ValueError: no")
    found = get_one(layer, "work", message.id)
    assert found is not None and found.error == "ValueError: no"
    stranger = RedisChannelLayer([valkey.url], symmetric_encryption_keys=["other"])
    found = get_one(stranger, "work", message.id)
    assert found is not None and "cannot be read" in found.error
    with valkey.client() as client:
        assert b"ValueError" not in client.hget(b"{mailrail:asgi:work}:errors", message.id.bytes)


SEVERAL_LINES = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    run()
    ~~~^^
psycopg.errors.UndefinedColumn: column "b" does not exist
LINE 1: SELECT b FROM a
               ^

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
django.db.utils.ProgrammingError: column "b" does not exist
LINE 1: SELECT b FROM a
               ^
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SEVERAL_LINES, 'django.db.utils.ProgrammingError: column "b" does not exist'),
        (SEVERAL_LINES[-160:], 'django.db.utils.ProgrammingError: column "b" does not exist'),
        ("Traceback (most recent call last):\n  File \"a\", line 1\nKeyError: 'x'\n", "KeyError: 'x'"),
        ('Traceback (most recent call last):\n  File "a", line 1\nValueError\n', "ValueError"),
        ("It was lost 3 times:\n see above", "It was lost 3 times:"),
        ("\n  no exception  \n", "no exception"),
        ("", ""),
    ],
)
def test_the_first_line_of_an_error_names_its_class_and_what_it_says(error: str, line: str) -> None:
    assert first_line(error) == line


def test_the_first_line_of_a_group_of_exceptions() -> None:
    text = raised(ExceptionGroup("two", [ValueError("a\nb"), KeyError("c")]))
    assert first_line(text).startswith("ExceptionGroup: two (2 sub-exceptions)")


class TestWaiting:
    def test_each_state_is_listed_soonest_due_first(self, layer: DurableLayer) -> None:
        running = Message("work", {"n": 1}, priority=9)
        layer.enqueue([running])
        [claimed] = claim(layer)
        later, sooner = Message("work", {}, delay=200.0), Message("work", {}, delay=100.0, priority=5)
        first, behind = Message("work", {"id": 7}, lane="l", key="k"), Message("other", {}, priority=-3)
        layer.enqueue([later, sooner, first, behind])
        both = ["work", "other", "unheard-of"]
        listed = layer.list_messages(both, 10)
        assert ids(listed) == [first.id, behind.id, running.id, sooner.id, later.id]
        assert [it.state for it in listed] == ["ready", "ready", "claimed", "scheduled", "scheduled"]
        assert ids(layer.list_messages(both, 10, state="ready")) == [first.id, behind.id]
        assert ids(layer.list_messages(both, 10, state="scheduled")) == [sooner.id, later.id]
        [running_now] = layer.list_messages(both, 10, state="claimed")
        assert (running_now.id, running_now.worker, running_now.attempt, running_now.priority) == (
            running.id,
            "w1",
            1,
            9,
        )
        assert running_now.at == pytest.approx(claimed.claimed_until, abs=0.01)
        assert (listed[0].channel, listed[0].preview, listed[0].lane, listed[0].key) == (
            "work",
            '{"id":7}',
            "l",
            "k",
        )
        assert layer.list_messages([], 10) == [] == layer.list_messages(["other"], 10, state="claimed")

    def test_a_lapsed_lease_is_ready(self, layer: DurableLayer) -> None:
        layer.enqueue([Message("work", {})])
        claim(layer)
        layer.advance_time(LEASE + 1)
        assert layer.list_messages(["work"], 10, state="claimed") == []
        [listed] = layer.list_messages(["work"], 10, state="ready")
        assert (listed.state, listed.worker) == ("ready", "w1")

    def test_those_behind_others_of_their_lane_are_listed(self, layer: DurableLayer) -> None:
        names = sorted((uuid4() for _ in range(6)), reverse=True)
        layer.enqueue([Message("work", {}, id=id, due=1.0, lane="l") for id in names])
        assert ids(layer.list_messages(["work"], 10)) == sorted(names)
        assert ids(layer.list_messages(["work"], 10, state="ready")) == sorted(names)
        assert layer.list_messages(["work"], 10, state="scheduled") == []

    @pytest.mark.parametrize("state", [None, "ready", "scheduled"])
    def test_pages_follow_each_other_through_equal_times(self, layer: DurableLayer, state: Any) -> None:
        seed = random.randrange(2**32)
        print(f"seed: {seed}")
        chance = random.Random(seed)
        due = {"ready": [1.0, 2.0, 3.0], "scheduled": [4e9, 5e9]}
        times = due[state] if state else [*due["ready"], *due["scheduled"]]
        messages = [
            Message(
                chance.choice("ab"),
                {},
                id=UUID(int=chance.getrandbits(128)),
                due=chance.choice(times),
                priority=chance.choice([0, 5]),
                lane=chance.choice([None, None, "l"]),
            )
            for _ in range(60)
        ]
        layer.enqueue(messages)
        seen: list[MessageSummary] = []
        while page := layer.list_messages(["a", "b"], 7, state, seen[-1].cursor if seen else None):
            seen += page
        assert ids(seen) == [m.id for m in sorted(messages, key=lambda m: (m.due or 0, m.id))]


class TestDead:
    def test_the_last_buried_come_first(self, layer: DurableLayer) -> None:
        first, second = bury(layer, "one", n=1), bury(layer, "two", "other", n=2)
        third = bury(layer, "three " * ERROR_LENGTH, n=3, text="é" * 20_000)
        listed = layer.list_messages(["work", "other"], 10, "dead")
        assert ids(listed) == [third, second, first]
        assert [it.channel for it in listed] == ["work", "other", "work"]
        assert listed[2].error == "one" and listed[2].preview == '{"n":1}' and listed[2].state == "dead"
        assert len(listed[0].preview) <= PREVIEW_LENGTH and listed[0].preview.startswith('{"n":3,"text":"éé')
        assert listed[0].error == ("three " * ERROR_LENGTH)[-ERROR_LENGTH:] and listed[0].attempt == 1
        assert (
            ids(layer.list_messages(["other"], 10, "dead")) == [second]
            and layer.list_messages([], 10, "dead") == []
        )

    def test_they_are_found_by_what_they_died_of(self, layer: DurableLayer) -> None:
        values = [bury(layer, raised(ValueError(f"no {n}"))) for n in range(3)]
        key = bury(layer, raised(KeyError("k")), "other")
        plain = bury(layer, "lost 3 times")
        both = ["work", "other"]
        assert layer.error_classes(both) == ["", "KeyError", "ValueError"]
        assert layer.error_classes(["other"]) == ["KeyError"] and layer.error_classes([]) == []
        assert ids(layer.list_messages(both, 10, "dead", error_class="ValueError")) == values[::-1]
        assert ids(layer.list_messages(both, 10, "dead", error_class="KeyError")) == [key]
        assert ids(layer.list_messages(both, 10, "dead", error_class="")) == [plain]
        assert layer.list_messages(both, 10, "dead", error_class="TypeError") == []
        [first, *_] = layer.list_messages(both, 2, "dead", error_class="ValueError")
        assert first.error_class == "ValueError"
        assert ids(layer.list_messages(both, 10, "dead", first.cursor, "ValueError")) == values[1::-1]

    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    def test_what_is_gone_is_not_found_by_what_it_died_of(self, layer: DurableLayer, verb: str) -> None:
        kept, gone = bury(layer, raised(ValueError())), bury(layer, raised(KeyError()))
        assert getattr(layer, verb)("work", [gone]) == [gone]
        assert layer.error_classes(["work"]) == ["ValueError"]
        assert layer.list_messages(["work"], 10, "dead", error_class="KeyError") == []
        assert ids(layer.list_messages(["work"], 10, "dead")) == [kept]

    def test_who_died_again_is_found_by_its_last_death(self, layer: DurableLayer) -> None:
        id = bury(layer, raised(ValueError()))
        layer.enqueue([Message("work", {}, id=id)])
        layer.bury(claim(layer)[0], raised(KeyError("x")))
        assert layer.error_classes(["work"]) == ["KeyError"]
        assert layer.list_messages(["work"], 10, "dead", error_class="ValueError") == []
        assert ids(layer.list_messages(["work"], 10, "dead", error_class="KeyError")) == [id]

    @pytest.mark.parametrize("kind", [None, "ValueError"])
    def test_pages_follow_each_other_through_equal_times(self, layer: DurableLayer, kind: Any) -> None:
        layer.enqueue([Message("work", {"n": n}) for n in range(20)])
        for claimed in claim(layer, 20):
            layer.bury(claimed, raised(ValueError()))
        seen: list[MessageSummary] = []
        while page := layer.list_messages(["work"], 7, "dead", seen[-1].cursor if seen else None, kind):
            seen += page
        assert len(set(ids(seen))) == len(seen) == 20
        assert seen == sorted(seen, key=lambda it: it.cursor, reverse=True)


class TestFinding:
    def test_a_message_is_found_while_it_waits_or_is_claimed(self, layer: DurableLayer) -> None:
        waiting = Message("work", {"x": "y" * 5000}, headers={"a": 1}, delay=100.0, lane="l")
        held = Message("work", {}, lane="l")
        running = Message("work", {})
        layer.enqueue([waiting, held, running])
        [claimed] = claim(layer)
        found = get_one(layer, "work", waiting.id)
        assert found and (found.content, found.headers, found.token) == (waiting.content, {"a": 1}, None)
        assert get_one(layer, "work", held.id) is not None
        assert get_one(layer, "work", running.id) == replace(
            claimed, waited=0.0
        )  # which its claim alone tells
        assert get_one(layer, "other", running.id) is None is get_one(layer, "work", uuid4())
        layer.finish([claimed])
        assert get_one(layer, "work", running.id) is None

    def test_a_dead_message_is_found(self, layer: DurableLayer) -> None:
        id = bury(layer, "boom " * 1000, n=1)
        dead = get_one_dead(layer, "work", id)
        assert dead and dead == dead_on(layer, "work")[0] and dead.error == "boom " * 1000
        assert get_one(layer, "work", id) is None is get_one_dead(layer, "other", id)
        layer.requeue("work", [id])
        assert get_one_dead(layer, "work", id) is None and get_one(layer, "work", id) is not None

    def test_channels_are_those_that_hold_something_or_are_paused(self, layer: DurableLayer) -> None:
        assert layer.list_channels() == []
        layer.enqueue([Message("b", {}), Message("a", {}, delay=100.0), Message("c", {}, lane="l")])
        claim(layer, channel="b")
        bury(layer, "boom", "dead")
        layer.pause("paused")
        assert layer.list_channels() == ["a", "b", "c", "dead", "paused"]


def test_of_what_is_encrypted_lists_show_what_is_short(valkey: ValkeyServer) -> None:
    layer = RedisChannelLayer([valkey.url], symmetric_encryption_keys=["a key"])
    short, long = Message("work", {"id": 7}), Message("work", {"id": 7, "text": "x" * PREVIEW_LENGTH})
    layer.enqueue([short, long])
    listed = {it.id: it.preview for it in layer.list_messages(["work"], 10)}
    assert listed == {short.id: '{"id":7}', long.id: ""}
    found = get_one(layer, "work", long.id)
    assert found and found.content == long.content
    id = bury(layer, raised(ValueError("x" * ERROR_LENGTH)))
    [dead] = layer.list_messages(["work"], 10, "dead", error_class="ValueError")
    assert (dead.id, dead.error_class, dead.error) == (id, "ValueError", "")


class TestErrorClass:
    def test_it_is_that_of_the_last_exception(self) -> None:
        class Broken(Exception):
            pass

        assert error_class(raised(ValueError("x"))) == "ValueError"
        assert error_class(raised(ValueError())) == "ValueError"
        assert error_class(raised(Broken("x"))).endswith("<locals>.Broken")
        assert error_class(raised(KeyError("KeyError: no\nTypeError: neither\n  File"))) == "KeyError"
        noted = OSError("first\nsecond: line")
        noted.add_note("Note: this")
        assert error_class(raised(noted)) == "OSError"
        try:
            try:
                raise KeyError("cause")
            except KeyError as cause:
                raise RuntimeError("effect") from cause
        except RuntimeError:
            assert error_class(traceback.format_exc()) == "RuntimeError"
        group = ExceptionGroup("many", [ValueError("a"), KeyError("b")])
        assert error_class(raised(group)) == "ExceptionGroup"
        with pytest.raises(SyntaxError) as wrong:
            compile("a b", "x", "exec")
        assert error_class("".join(traceback.format_exception(wrong.value))) == "SyntaxError"

    def test_of_a_traceback_without_its_beginning_too(self) -> None:
        def deeper(n: int) -> None:
            if n == 0:
                raise LookupError("x")
            deeper(n - 1)

        with pytest.raises(LookupError) as wrong:
            deeper(5)
        text = "".join(traceback.format_exception(wrong.value))
        assert error_class("…" + text[200:]) == "LookupError"

    @pytest.mark.parametrize("text", ["", "lost 3 times", "ValueError: told, not raised", "a\nb: c\n"])
    def test_what_is_no_traceback_has_none(self, text: str) -> None:
        assert error_class(text) == ""
