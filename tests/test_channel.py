"""The producer: what ``Channel.send`` takes, refuses, returns, and how it follows transactions."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.core.exceptions import SynchronousOnlyOperation
from django.db import IntegrityError, connections, transaction
from django.utils import timezone

from mailrail import Channel, InvalidSettings, MessageTooLarge, NoRoute, WouldDeadlock
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Message, Statement, id_of_content

from .listed import waiting_on

MEMORY = {"BACKEND": "mailrail.layers.InMemoryChannelLayer"}
YEAR = 365 * 86400

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def memory(settings: Any) -> DurableLayer:
    settings.CHANNEL_LAYERS = {"default": MEMORY}
    return get_layer()


@pytest.fixture
def sqlite() -> DurableLayer:
    return get_layer()  # what a project gets that configures none


@pytest.fixture(params=["memory", "sqlite"])
def layer(request: pytest.FixtureRequest) -> DurableLayer:
    found: DurableLayer = request.getfixturevalue(request.param)
    return found


def stored(layer: DurableLayer, channel: str = "work") -> list[Message]:
    return waiting_on(layer, channel)


def contents(layer: DurableLayer, channel: str = "work") -> list[Any]:
    return [message.content for message in stored(layer, channel)]


@contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    with transaction.atomic(using):
        yield
        transaction.set_rollback(True, using)


def a_group(name: str) -> Statement:
    return "INSERT INTO auth_group (name) VALUES (%(group)s)", {"group": name}


class TestWithARecord:
    """Where the layer has no way of its own to store both."""

    def test_both_are_stored(self, layer: DurableLayer) -> None:
        id = Channel("work").send_with_record(a_group("a"), {"n": 1}, priority=7, using="default")
        assert [(m.id, m.content, m.priority) for m in stored(layer)] == [(id, {"n": 1}, 7)]
        assert Group.objects.get().name == "a"

    def test_a_rollback_takes_both(self, layer: DurableLayer) -> None:
        with rolled_back():
            Channel("work").send_with_record(a_group("a"), {"n": 1}, using="default")
        assert contents(layer) == [] and not Group.objects.exists()

    @pytest.mark.parametrize(
        "record", [None, "", b"x", (), ("INSERT",), ("INSERT", None), ("INSERT", [1]), (b"INSERT", {})]
    )
    def test_what_is_no_statement_with_its_values_is_refused(self, layer: DurableLayer, record: Any) -> None:
        with pytest.raises(TypeError, match=r"^record must be \(statement, \{name: value\}\), not "):
            Channel("work").send_with_record(record, {"n": 1}, using="default")
        assert contents(layer) == []

    def test_a_record_that_is_refused_leaves_no_message(self, layer: DurableLayer) -> None:
        Group.objects.create(name="taken")
        with pytest.raises(IntegrityError):
            Channel("work").send_with_record(a_group("taken"), {"n": 1}, using="default")
        assert contents(layer) == []


class TestNaming:
    @pytest.mark.parametrize("name", ["", "no spaces", "a" * 100, "é", "a!b", None, 7])
    def test_a_bad_name_is_refused_when_the_channel_is_made(self, name: Any) -> None:
        with pytest.raises(ValueError, match="A channel name is 1 to 99"):
            Channel(name)

    def test_a_channel_shows_its_name(self) -> None:
        assert repr(Channel("work")) == "Channel('work')"

    def test_a_layer_that_is_not_configured_is_named(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": MEMORY}
        with pytest.raises(InvalidSettings, match=r"no layer 'nope' \(it has: 'default'\)"):
            Channel("work", layer="nope").send({})

    def test_the_layer_can_be_named_here_or_in_the_settings(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": MEMORY, "second": MEMORY}
        Channel("work", layer="second").send({"n": 1})
        assert contents(get_layer("second")) == [{"n": 1}] and contents(get_layer("default")) == []
        settings.MAILRAIL = {"LAYER": "second"}
        Channel("work").send({"n": 2})
        assert contents(get_layer("second")) == [{"n": 1}, {"n": 2}]


@pytest.mark.django_db  # nothing is ever sent
class TestArguments:
    """The same for both layers, and nothing is sent after any error."""

    @pytest.mark.parametrize(
        ("options", "error", "rule"),
        [
            ({"at": dt.datetime(2026, 1, 1)}, ValueError, "^at must be an aware datetime"),  # noqa: DTZ001
            ({"at": dt.date(2026, 1, 1)}, TypeError, "^at must be an aware datetime"),
            ({"at": 1_800_000_000}, TypeError, "^at must be an aware datetime"),
            ({"at": "2026-01-01T00:00Z"}, TypeError, "^at must be an aware datetime"),
            (
                {"delay": -1},
                ValueError,
                "^delay must be seconds or a timedelta, zero or more and at most 100 years, not",
            ),
            ({"delay": -0.001}, ValueError, "^delay must be seconds or a timedelta, zero or more"),
            (
                {"delay": dt.timedelta(seconds=-1)},
                ValueError,
                "^delay must be seconds or a timedelta, zero or more",
            ),
            ({"delay": math.nan}, ValueError, "^delay must be seconds or a timedelta, zero or more"),
            ({"delay": math.inf}, ValueError, "^delay must be seconds or a timedelta, zero or more"),
            ({"delay": 101 * YEAR}, ValueError, "^delay must be seconds or a timedelta, zero or more"),
            ({"delay": dt.timedelta.max}, ValueError, "^delay must be seconds or a timedelta, zero or more"),
            ({"delay": "5"}, TypeError, "^delay must be seconds or a timedelta"),
            ({"delay": True}, TypeError, "^delay must be seconds or a timedelta"),
            ({"delay": 1, "at": timezone.now()}, ValueError, "^Give delay or at, not both"),
            ({"delay": 0, "at": timezone.now()}, ValueError, "^Give delay or at, not both"),
            ({"priority": 101}, ValueError, "^priority must be a whole number from -100 to 100, not 101"),
            ({"priority": -101}, ValueError, "^priority must be a whole number from -100 to 100"),
            ({"priority": 10**400}, ValueError, "^priority must be a whole number from"),
            ({"priority": True}, TypeError, "^priority must be a whole number"),
            ({"priority": "1"}, TypeError, "^priority must be a whole number"),
            ({"priority": 1.0}, TypeError, "^priority must be a whole number"),
            ({"priority": None}, TypeError, "^priority must be a whole number"),
            ({"key": ""}, ValueError, "^key must be 1 to 255 printable characters"),
            ({"key": "k" * 256}, ValueError, "^key must be 1 to 255"),
            ({"key": "a\0b"}, ValueError, "^key must be 1 to 255"),
            ({"key": "a\nb"}, ValueError, "^key must be 1 to 255"),
            ({"key": "\ud800"}, ValueError, "^key must be 1 to 255"),
            ({"key": 7}, TypeError, "^key must be a string, not 7"),
            ({"key": b"k"}, TypeError, "^key must be a string"),
            ({"lane": ""}, ValueError, "^lane must be 1 to 255"),
            ({"lane": "l" * 256}, ValueError, "^lane must be 1 to 255"),
            ({"lane": 7}, TypeError, "^lane must be a string"),
            ({"expires": -1}, ValueError, "^expires must be seconds or a timedelta, zero or more"),
            (
                {"expires": dt.timedelta(days=-1)},
                ValueError,
                "^expires must be seconds or a timedelta, zero or more",
            ),
            ({"expires": math.nan}, ValueError, "^expires must be seconds or a timedelta, zero or more"),
            ({"expires": dt.datetime(2026, 1, 1)}, ValueError, "^expires must be an aware"),  # noqa: DTZ001
            ({"expires": "tomorrow"}, TypeError, "^expires must be seconds or a timedelta"),
            ({"headers": []}, TypeError, "^headers must be a dict, not list"),
            ({"headers": "x"}, TypeError, "^headers must be a dict, not str"),
            ({"headers": {"at": timezone.now()}}, TypeError, r'^headers\["at"\] is a datetime'),
            ({"headers": {"x": "y" * 2_000_000}}, MessageTooLarge, "^headers is 2,000,008 bytes"),
            ({"colour": "red"}, TypeError, "colour"),
        ],
    )
    @pytest.mark.parametrize("many", [False, True], ids=["send", "send_many"])
    def test_a_bad_one_is_named_with_its_rule_and_nothing_is_sent(
        self,
        layer: DurableLayer,
        settings: Any,
        options: dict[str, Any],
        error: type[Exception],
        rule: str,
        many: bool,
    ) -> None:
        settings.USE_TZ = True
        channel = Channel("work")
        of_one = many and "key" in options  # a key is one message's
        with pytest.raises(TypeError if of_one else error, match="argument 'key'" if of_one else rule):
            channel.send_many([{}], **options) if many else channel.send({}, **options)
        assert layer.stats() == {}

    @pytest.mark.parametrize(
        ("content", "error", "rule"),
        [
            ([], TypeError, "^content must be a dict, not list"),
            ({"when": timezone.now()}, TypeError, r'^content\["when"\] is a datetime'),
            ({"x": "y" * 1_048_576}, MessageTooLarge, "^content is 1,048,584 bytes"),
        ],
    )
    @pytest.mark.parametrize("deferred", [False, True], ids=["at once", "at commit"])
    def test_bad_content_is_refused_by_send_itself_also_when_the_message_waits_for_a_commit(
        self, layer: DurableLayer, content: Any, error: type[Exception], rule: str, deferred: bool
    ) -> None:
        with transaction.atomic(), pytest.raises(error, match=rule):
            Channel("work").send(content, using="default" if deferred else None)
        assert layer.stats() == {}


class TestWhatIsStored:
    @pytest.mark.parametrize(
        "options",
        [
            {"priority": -100},
            {"priority": 100},
            {"key": "k" * 255},
            {"lane": "a lane: 漢 😀"},
            {"delay": 0},
            {"expires": 0.5},
            {"headers": {}},
            {"headers": None},
        ],
    )
    def test_the_last_good_value_is_taken(self, layer: DurableLayer, options: dict[str, Any]) -> None:
        assert isinstance(Channel("work").send({}, **options), UUID)
        assert len(stored(layer)) == 1

    def test_the_returned_id_is_the_messages(self, layer: DurableLayer) -> None:
        id = Channel("work").send({"n": 1})
        [message] = stored(layer)
        assert (message.id, message.channel, message.content, message.headers) == (id, "work", {"n": 1}, {})
        assert id.version == 7

    def test_priority_lane_key_and_headers_arrive(self, layer: DurableLayer) -> None:
        Channel("work").send({}, priority=7, lane="l", key="k", headers={"tenant": "a"})
        [message] = stored(layer)
        assert (message.priority, message.lane, message.key, message.headers) == (
            7,
            "l",
            "k",
            {"tenant": "a"},
        )

    @pytest.mark.parametrize("delay", [60, 60.0, dt.timedelta(minutes=1)])
    def test_a_delay_counts_from_now(self, layer: DurableLayer, delay: Any) -> None:
        Channel("work").send({}, delay=delay)
        assert layer.poll(["work"]) == pytest.approx(60, abs=5)

    def test_at_is_a_moment_in_any_time_zone(self, layer: DurableLayer) -> None:
        at = timezone.now().astimezone(dt.timezone(dt.timedelta(hours=9))) + dt.timedelta(minutes=1)
        Channel("work").send({}, at=at)
        assert stored(layer)[0].due == pytest.approx(at.timestamp(), abs=1e-3)

    def test_at_in_the_past_is_due_now(self, layer: DurableLayer) -> None:
        Channel("work").send({}, at=timezone.now() - dt.timedelta(days=10_000))
        assert layer.poll(["work"]) == 0

    @pytest.mark.parametrize(
        "expires",
        [
            pytest.param(lambda: 60, id="seconds"),
            pytest.param(lambda: dt.timedelta(minutes=1), id="timedelta"),
            pytest.param(lambda: timezone.now() + dt.timedelta(minutes=1), id="datetime"),
        ],
    )
    def test_a_message_that_did_not_start_before_it_expires_is_dropped(
        self, layer: DurableLayer, expires: Callable[[], Any]
    ) -> None:
        id = Channel("work").send({}, expires=expires())
        layer.advance_time(30)
        assert [m.id for m in stored(layer)] == [id]
        layer.advance_time(31)
        claimed = layer.claim("w", {"work": 1}, 15.0)
        assert claimed.claims == [] and [m.id for m in claimed.expired] == [id]

    def test_a_duplicate_gets_the_id_of_the_message_that_waits_under_its_key(
        self, layer: DurableLayer
    ) -> None:
        first = Channel("work").send({"n": 1}, key="k")
        assert Channel("work").send({"n": 2}, key="k") == first
        assert Channel("other").send({"n": 3}, key="k") != first
        assert contents(layer) == [{"n": 1}]


class TestSendingMany:
    def test_ids_come_in_the_order_of_the_contents(self, layer: DurableLayer) -> None:
        ids = Channel("work").send_many([{"n": n} for n in range(5)])
        by_id = {m.id: m.content["n"] for m in stored(layer)}
        assert [by_id[id] for id in ids] == [0, 1, 2, 3, 4]
        assert ids == sorted(ids)

    def test_nothing_is_sent_for_no_contents(self, layer: DurableLayer) -> None:
        assert Channel("work").send_many([]) == []
        assert Channel("work").send_many([], immediately=True) == []
        assert layer.stats() == {}

    def test_a_generator_is_taken(self, layer: DurableLayer) -> None:
        ids = Channel("work").send_many({"n": n} for n in range(3))
        assert len(ids) == 3 and contents(layer) == [{"n": 0}, {"n": 1}, {"n": 2}]

    def test_options_hold_for_all_of_them(self, layer: DurableLayer) -> None:
        Channel("work").send_many([{}, {}], priority=5, lane="l", headers={"h": 1}, delay=60)
        assert [(m.priority, m.lane, m.headers) for m in stored(layer)] == [(5, "l", {"h": 1})] * 2
        assert layer.poll(["work"]) == pytest.approx(60, abs=5)

    @pytest.mark.parametrize("bad", [7, {"a": object()}, {"a": "x" * 1_048_576}])
    def test_one_bad_content_and_none_is_sent(self, layer: DurableLayer, bad: Any) -> None:
        with pytest.raises((TypeError, MessageTooLarge)):
            Channel("work").send_many([{"n": 1}, bad])
        assert layer.stats() == {}

    def test_a_generator_that_breaks_half_way_sends_none(self, layer: DurableLayer) -> None:
        def broken() -> Iterator[dict[str, Any]]:
            yield {"n": 1}
            raise RuntimeError("the source went away")

        with pytest.raises(RuntimeError, match="went away"):
            Channel("work").send_many(broken())
        assert layer.stats() == {}

    def test_a_single_content_given_to_send_many_is_refused(self, layer: DurableLayer) -> None:
        with pytest.raises(TypeError, match="content must be a dict, not str"):
            Channel("work").send_many({"id": 7})  # type: ignore[dict-item]
        assert layer.stats() == {}


class TestFromAsyncCode:
    def test_asend_takes_the_options_of_send(self, layer: DurableLayer) -> None:
        id = async_to_sync(Channel("work").asend)({"n": 1}, priority=3, delay=60)
        [message] = stored(layer)
        assert (message.id, message.priority) == (id, 3)

    def test_asend_many_takes_the_options_of_send_many(self, layer: DurableLayer) -> None:
        ids = async_to_sync(Channel("work").asend_many)([{"n": 1}, {"n": 2}], lane="l")
        assert [m.id for m in stored(layer)] == ids

    def test_errors_are_those_of_send(self, layer: DurableLayer) -> None:
        with pytest.raises(ValueError, match=r"^priority must be"):
            async_to_sync(Channel("work").asend)({}, priority=1000)
        with pytest.raises(TypeError, match=r"^content must be"):
            async_to_sync(Channel("work").asend_many)([7])  # type: ignore[list-item]

    def test_asend_joins_the_transaction_of_the_sync_code_around_it(self, layer: DurableLayer) -> None:
        with rolled_back():
            async_to_sync(Channel("work").asend)({"n": 1})
        assert layer.stats() == {}

    def test_a_plain_send_in_async_code_names_the_async_one(self, sqlite: DurableLayer) -> None:
        async def view() -> None:
            Channel("work").send({"n": 1})

        with pytest.raises(SynchronousOnlyOperation) as raised:
            async_to_sync(view)()
        assert raised.value.__notes__ == ["In async code: await Channel('work').asend(…), or asend_many(…)."]


class TestTransactions:
    def test_a_rollback_sends_nothing(self, layer: DurableLayer) -> None:
        with rolled_back():
            Channel("work").send({"n": 1})
            Channel("work").send_many([{"n": 2}, {"n": 3}])
            Channel("work").send({"n": 4}, key="k", lane="l")
        assert layer.stats() == {}

    def test_a_commit_sends_all_in_order_with_the_ids_that_were_returned(self, layer: DurableLayer) -> None:
        with transaction.atomic():
            ids = [Channel("work").send({"n": n}) for n in range(3)]
            ids += Channel("work").send_many([{"n": 3}, {"n": 4}])
        assert [m.id for m in stored(layer)] == ids
        assert contents(layer) == [{"n": n} for n in range(5)]

    def test_a_savepoint_rolled_back_takes_only_its_own_sends_with_it(self, layer: DurableLayer) -> None:
        with transaction.atomic():
            Channel("work").send({"n": 1})
            with rolled_back():
                Channel("work").send({"n": 2})
            with transaction.atomic():
                Channel("work").send({"n": 3})
        assert contents(layer) == [{"n": 1}, {"n": 3}]

    def test_an_inner_block_waits_for_the_outermost_as_with_atomic_requests(
        self, layer: DurableLayer
    ) -> None:
        with rolled_back(), transaction.atomic(), transaction.atomic(durable=False):
            Channel("work").send({"n": 1})
        assert layer.stats() == {}

    def test_a_refused_send_leaves_the_callers_transaction_usable(self, layer: DurableLayer) -> None:
        with transaction.atomic():
            with pytest.raises(TypeError):
                Channel("work").send({"bad": object()})
            Channel("work").send({"n": 1})
        assert contents(layer) == [{"n": 1}]

    def test_on_the_database_the_message_is_a_row_of_the_transaction(self, sqlite: DurableLayer) -> None:
        with transaction.atomic():
            Channel("work").send({"n": 1})
            assert contents(sqlite) == [{"n": 1}]
            assert connections["default"].run_on_commit == []

    def test_in_memory_it_waits_for_the_commit_of_the_default_database(self, memory: DurableLayer) -> None:
        with transaction.atomic():
            id = Channel("work").send({"n": 1})
            assert memory.stats() == {}
        assert [m.id for m in stored(memory)] == [id]

    def test_deferred_sends_run_in_the_order_of_on_commit(self, memory: DurableLayer) -> None:
        seen: list[Any] = []
        with transaction.atomic():
            transaction.on_commit(lambda: seen.append(contents(memory)))
            Channel("work").send({"n": 1})
            transaction.on_commit(lambda: seen.append(contents(memory)))
            Channel("work").send({"n": 2})
            transaction.on_commit(lambda: seen.append(contents(memory)))
        assert seen == [[], [{"n": 1}], [{"n": 1}, {"n": 2}]]

    def test_a_send_from_on_commit_is_sent_at_once(self, layer: DurableLayer) -> None:
        with transaction.atomic():
            transaction.on_commit(partial(Channel("work").send, {"n": 1}))
            assert layer.stats() == {}
        assert contents(layer) == [{"n": 1}]

    def test_what_the_sender_changes_before_the_commit_stays_at_home(self, layer: DurableLayer) -> None:
        content, headers = {"list": [1]}, {"h": [1]}
        with transaction.atomic():
            Channel("work").send(content, headers=headers)
            Channel("work").send_many([content])
            content["list"].append(2)
            headers["h"].append(2)
        assert contents(layer) == [{"list": [1]}] * 2
        assert stored(layer)[0].headers == {"h": [1]}

    def test_a_deferred_send_with_a_waiting_key_returns_its_own_id(self, memory: DurableLayer) -> None:
        first = Channel("work").send({"n": 1}, key="k")
        with transaction.atomic():
            assert Channel("work").send({"n": 2}, key="k") != first
        assert [m.id for m in stored(memory)] == [first]


class TestAnotherDatabasesTransaction:
    def test_the_send_waits_for_the_commit_it_names(self, layer: DurableLayer) -> None:
        with transaction.atomic(using="other"):
            id = Channel("work").send({"n": 1}, using="other")
            assert layer.stats() == {}
        assert [m.id for m in stored(layer)] == [id]

    def test_its_rollback_sends_nothing(self, layer: DurableLayer) -> None:
        with rolled_back("other"):
            Channel("work").send_many([{"n": 1}, {"n": 2}], using="other")
        assert layer.stats() == {}

    def test_a_savepoint_of_it_counts_too(self, layer: DurableLayer) -> None:
        with transaction.atomic(using="other"):
            with rolled_back("other"):
                Channel("work").send({"n": 1}, using="other")
            Channel("work").send({"n": 2}, using="other")
        assert contents(layer) == [{"n": 2}]

    def test_a_database_without_an_open_transaction_is_not_waited_for(self, layer: DurableLayer) -> None:
        Channel("work").send({"n": 1}, using="other")
        assert contents(layer) == [{"n": 1}]

    def test_a_transaction_that_was_not_named_does_not_hold_it(self, layer: DurableLayer) -> None:
        with transaction.atomic(using="other"):
            Channel("work").send({"n": 1})
            assert contents(layer) == [{"n": 1}]

    def test_what_the_sender_changes_before_the_commit_stays_at_home(self, layer: DurableLayer) -> None:
        content = {"list": [1]}
        with transaction.atomic(using="other"):
            Channel("work").send(content, using="other")
            content["list"].append(2)
        assert contents(layer) == [{"list": [1]}]

    def test_a_delay_counts_from_the_commit(self, layer: DurableLayer) -> None:
        with transaction.atomic(using="other"):
            Channel("work").send({}, using="other", delay=60)
        assert layer.poll(["work"]) == pytest.approx(60, abs=5)

    def test_a_database_that_is_not_configured_is_refused(self, layer: DurableLayer) -> None:
        with pytest.raises(Exception, match="nope"):
            Channel("work").send({}, using="nope")
        assert layer.stats() == {}

    def test_a_layer_told_to_use_another_database_follows_that_one(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {**MEMORY, "CONFIG": {"using": "other"}}}
        with transaction.atomic(using="other"):
            Channel("work").send({"n": 1})
            assert get_layer().stats() == {}
        assert contents(get_layer()) == [{"n": 1}]

    def test_a_database_layer_on_another_database_is_written_inside_its_transaction(
        self, settings: Any
    ) -> None:
        backend = "mailrail.layers.DatabaseChannelLayer"
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"using": "other"}}}
        with rolled_back("other"):
            Channel("work").send({"n": 1})
            assert contents(get_layer()) == [{"n": 1}]
        assert get_layer().stats() == {}
        with transaction.atomic(using="default"):  # not its own: waits for the commit when it is named
            Channel("work").send({"n": 2}, using="default")
            assert get_layer().stats() == {}
        assert contents(get_layer()) == [{"n": 2}]


class TestUnique:
    def test_until_it_has_finished_sending_it_again_changes_nothing(self, layer: DurableLayer) -> None:
        id = Channel("work").send({"a": 1, "b": [2]}, unique=True)
        assert Channel("work").unique_id({"b": [2], "a": 1}) == id
        assert Channel("work").send({"b": [2], "a": 1}, unique=True, priority=9) == id
        [claim] = layer.claim("w", {"work": 9}, 15.0).claims
        assert (claim.id, claim.priority) == (id, 0)
        assert Channel("work").send({"a": 1, "b": [2]}, unique=True) == id
        layer.retry(claim, 0.0, "again")
        assert Channel("work").send({"a": 1, "b": [2]}, unique=True) == id
        [claim] = layer.claim("w", {"work": 9}, 15.0).claims
        layer.finish([claim])
        assert layer.stats() == {}
        assert Channel("work").send({"a": 1, "b": [2]}, unique=True) == id
        assert [m.id for m in stored(layer)] == [id]

    def test_other_contents_and_other_channels_have_other_ids(self, layer: DurableLayer) -> None:
        ids = Channel("work").send_many([{"n": 1}, {"n": "1"}, {"n": 2}, {"n": 1}], unique=True)
        assert len(set(ids)) == 3 == len(stored(layer)) and ids[0] == ids[3]
        assert Channel("elsewhere").send({"n": 1}, unique=True) not in ids

    def test_the_id_of_a_content_stays_what_it_is(self) -> None:
        """Messages of an earlier release wait under it."""
        content = {"id": 7, "who": ["é", None, 1.5]}
        assert id_of_content("send-invite", content) == UUID("bc31f388-5cb7-53fc-8891-7e9807ab3197")

    def test_the_id_of_a_record_with_a_uuid7_begins_with_its_time_and_stays_what_it_is(self) -> None:
        record = "019a5f3c-7d21-7abc-9def-0123456789ab"
        assert id_of_content("work", {"id": record}) == UUID("019a5f3c-7d21-8abc-aefe-b16d9d3cee2e")
        assert id_of_content("work", {"id": record, "call": 1}) == UUID(
            "019a5f3c-7d21-8abc-95aa-dbca058a417b"
        )

    @pytest.mark.parametrize(
        "value", ["a", "é", "\x7f", 'a"\n\\/', 1, True, 1.5, {"b": 1, "a": 2}, [{"b": 1, "a": 2}]]
    )
    def test_the_id_of_one_value_is_that_of_its_sorted_json(self, value: Any) -> None:
        """Most contents have one plain value, and their JSON is not written twice."""
        text = json.dumps({"id": value}, sort_keys=True, separators=(",", ":"))
        name = UUID("0e5c1f3a-6f53-5d0c-9c5b-2f6a1d9a7b41")
        assert id_of_content("work", {"id": value}) == uuid5(name, f"work\0{text}")

    def test_what_json_cannot_hold_is_named(self) -> None:
        with pytest.raises(TypeError, match=r'content\["at"\] is a datetime'):
            Channel("work").send({"at": timezone.now()}, unique=True)


class TestImmediately:
    def test_outside_a_transaction_it_changes_nothing(self, layer: DurableLayer) -> None:
        id = Channel("work").send({"n": 1}, immediately=True)
        assert [m.id for m in stored(layer)] == [id]

    def test_inside_a_transaction_on_sqlite_it_is_refused_and_the_transaction_stays_usable(
        self, sqlite: DurableLayer
    ) -> None:
        with transaction.atomic():
            with pytest.raises(WouldDeadlock, match="immediately=True inside a transaction"):
                Channel("work").send({"n": 1}, immediately=True)
            with pytest.raises(WouldDeadlock):
                Channel("work").send_many([{"n": 1}], immediately=True)
            Channel("work").send({"n": 2})
        assert contents(sqlite) == [{"n": 2}]

    def test_in_memory_it_is_sent_before_the_commit_and_survives_the_rollback(
        self, memory: DurableLayer
    ) -> None:
        with rolled_back():
            Channel("work").send({"n": 1}, immediately=True)
            assert contents(memory) == [{"n": 1}]
        assert contents(memory) == [{"n": 1}]


class TestAutocommitOff:
    @pytest.fixture(autouse=True)
    def _by_hand(self) -> Iterator[None]:
        connections["default"].ensure_connection()
        transaction.set_autocommit(False)
        yield
        transaction.rollback()
        transaction.set_autocommit(True)

    def test_the_callers_rollback_undoes_the_send(self, sqlite: DurableLayer) -> None:
        Channel("work").send({"n": 1})
        Channel("work").send_many([{"n": 2}, {"n": 3}], lane="l")
        transaction.rollback()
        assert sqlite.stats() == {}

    def test_the_callers_commit_keeps_it(self, sqlite: DurableLayer) -> None:
        Channel("work").send({"n": 1})
        transaction.commit()
        transaction.rollback()
        assert contents(sqlite) == [{"n": 1}]

    def test_immediately_is_refused_as_it_would_wait_for_the_caller(self, sqlite: DurableLayer) -> None:
        with pytest.raises(WouldDeadlock):
            Channel("work").send({"n": 1}, immediately=True)

    def test_where_there_is_no_commit_to_wait_for_django_says_so_and_nothing_is_sent(
        self, memory: DurableLayer
    ) -> None:
        with pytest.raises(transaction.TransactionManagementError, match="on_commit"):
            Channel("work").send({"n": 1})
        assert memory.stats() == {}
        Channel("work").send({"n": 2}, immediately=True)
        assert contents(memory) == [{"n": 2}]


class TestUnrouted:
    """A channel that nobody consumes, by a typing error say."""

    def test_its_messages_are_kept(self, db: None) -> None:
        Channel("send-invit").send({})
        assert get_layer().stats()["send-invit"].ready == 1

    def test_raise_refuses_to_send_and_says_where_consumers_are_looked_for(
        self, db: None, settings: Any
    ) -> None:
        settings.MAILRAIL = {"UNROUTED": "raise"}
        Channel("send-invite").send({})
        for send in (Channel("send-invit").send, lambda content: Channel("send-invit").send_many([content])):
            with pytest.raises(NoRoute) as refused:
                send({})
            assert str(refused.value).startswith("No route for channel 'send-invit'. Routed: ")
            assert (
                "Is it 'send-invite'? Consumers were looked for in consumers.py of the installed apps (@consumer). "
                "MAILRAIL['UNROUTED'] = 'raise' refuses to send there" in str(refused.value)
            )
        assert set(get_layer().stats()) == {"send-invite"}

    def test_consumers_of_channels_4_count(self, db: None, settings: Any) -> None:
        settings.MAILRAIL = {"UNROUTED": "raise"}
        settings.ASGI_APPLICATION = "tests.consumers4.application"
        Channel("bare").send({"type": "generate"})
