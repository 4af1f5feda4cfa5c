"""``mailrail.testing``, as the tests of a project use it: inside ``TestCase``, with commits, and as fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from mailrail import Channel, Discard, Retry
from mailrail.layers import get_layer
from mailrail.messages import Message
from mailrail.routes import DEFAULT_MAX_LOSSES
from mailrail.routing import route
from mailrail.signals import message_buried, message_finished, message_retried
from mailrail.testing import Ran, advance, drain, sent
from mailrail.worker import IncomingMessage

from .listed import dead_on
from .processes import ROOT

DATABASE = "mailrail.layers.DatabaseChannelLayer"
MEMORY = "mailrail.layers.InMemoryChannelLayer"

seen: list[Any] = []


def remember(message: IncomingMessage) -> None:
    seen.append(message.content)


def remember_batch(messages: list[IncomingMessage]) -> None:
    seen.append([message.content for message in messages])


async def remember_async(message: IncomingMessage) -> None:
    seen.append(message.content)


async def store_async(message: IncomingMessage) -> None:
    await Group.objects.acreate(name=message["name"])
    await Channel("work").asend({"from": message["name"]})


def store(message: IncomingMessage) -> None:
    Group.objects.create(name=message["name"])
    Channel("work").send({"from": message["name"]})
    if message.get("raise"):
        raise RuntimeError("after the writes")


def fail(message: IncomingMessage) -> None:
    seen.append(message.attempt)
    raise RuntimeError("boom")


def retry(message: IncomingMessage) -> None:
    seen.append(message.attempt)
    if message.attempt < 3:
        raise Retry("not yet", after=timedelta(minutes=1))


def discard(message: IncomingMessage) -> None:
    raise Discard("nobody wants it")


def pass_on(message: IncomingMessage) -> None:
    seen.append(message["n"])
    if message["n"]:
        Channel("countdown").send({"n": message["n"] - 1})


def for_ever(message: IncomingMessage) -> None:
    Channel("for-ever").send({})


def paid(message: IncomingMessage, kind: str) -> None:
    seen.append(kind)


channel_routing = [
    route("work", remember),
    route("other", remember),
    route("batch", remember_batch, batch=10),
    route("async", remember_async),
    route("store", store),
    route("store-async", store_async),
    route("atomic", store, atomic=True),
    route("fail", fail, attempts=2, backoff=[60]),
    route("retry", retry),
    route("discard", discard),
    route("countdown", pass_on),
    route("for-ever", for_ever),
    route("invoices", paid, kind="(?P<kind>paid|free)$"),
]


def layers(backend: str, **config: Any) -> dict[str, Any]:
    routing = [r for r in channel_routing if backend == DATABASE or not r.policy.atomic]
    name = "channel_routing" if routing == channel_routing else "plain_routing"
    return {"default": {"BACKEND": backend, "CONFIG": {"routing": f"{__name__}.{name}", **config}}}


plain_routing = [r for r in channel_routing if not r.policy.atomic]


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@pytest.fixture(params=[MEMORY, DATABASE], ids=["memory", "database"])
def layer(request: pytest.FixtureRequest, settings: Any, db: None) -> Any:
    """Each layer, in a test whose transaction is rolled back at the end."""
    settings.CHANNEL_LAYERS = layers(request.param)
    return get_layer()


def contents(messages: list[Message]) -> list[Any]:
    return [message.content for message in messages]


def outcomes(ran: list[Ran]) -> list[str]:
    return [r.outcome for r in ran]


@pytest.mark.usefixtures("layer")
class TestSent:
    def test_it_lists_what_was_sent_on_a_channel_and_nothing_else(self) -> None:
        assert sent("work") == []
        Channel("work").send({"n": 1})
        Channel("other").send({"n": 2})
        Channel("work").send_many([{"n": 3}, {"n": 4}])
        assert contents(sent("work")) == [{"n": 1}, {"n": 3}, {"n": 4}]
        assert contents(sent("other")) == [{"n": 2}]

    def test_it_tells_all_of_a_message(self) -> None:
        id = Channel("work").send({"n": 1}, priority=9, key="k", lane="l", headers={"tenant": "a"})
        [message] = sent("work")
        assert (message.id, message.priority, message.key, message.lane) == (id, 9, "k", "l")
        assert message.headers == {"tenant": "a"}

    def test_it_changes_nothing(self) -> None:
        Channel("work").send({"n": 1})
        assert sent("work") == sent("work") != []

    def test_what_is_for_later_is_listed_too(self) -> None:
        Channel("work").send({"n": 1}, delay=3600)
        assert contents(sent("work")) == [{"n": 1}]

    def test_a_key_that_waits_is_listed_once(self) -> None:
        with transaction.atomic():
            ids = {Channel("work").send({"n": n}, key="k", immediately=not joins()) for n in range(3)}
        assert [m.id for m in sent("work")] == list(ids)

    def test_what_ran_is_not_listed(self) -> None:
        Channel("work").send({"n": 1})
        drain()
        assert sent("work") == []

    def test_an_unrouted_channel_may_be_looked_at(self) -> None:
        Channel("unrouted").send({"n": 1})
        assert contents(sent("unrouted")) == [{"n": 1}]
        assert drain() == []

    def test_a_send_that_is_rolled_back_was_never_sent(self) -> None:
        with transaction.atomic():
            Channel("work").send({"n": 1})
            transaction.set_rollback(True)
        with transaction.atomic():
            Channel("work").send({"n": 2})
        assert contents(sent("work")) == [{"n": 2}]

    def test_a_layer_may_be_named(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {**settings.CHANNEL_LAYERS, "second": layers(MEMORY)["default"]}
        Channel("work", layer="second").send({"n": 1})
        advance(60, layer="second")
        assert (sent("work"), drain()) == ([], [])
        assert contents(sent("work", layer="second")) == [{"n": 1}]
        assert outcomes(drain("work", layer="second")) == ["finished"]


def joins() -> bool:
    return get_layer().joins_transactions


@pytest.mark.usefixtures("layer")
class TestDrain:
    def test_it_runs_what_is_due_and_tells_what_ran(self) -> None:
        id = Channel("work").send({"n": 1})
        [ran] = drain()
        assert (ran.message.id, ran.message.content, ran.outcome, ran.error) == (id, {"n": 1}, "finished", "")
        assert seen == [{"n": 1}]
        assert get_layer().stats() == {}
        assert drain() == []

    def test_only_the_channels_named_when_any_is_named(self) -> None:
        for name in ("work", "other", "async"):
            Channel(name).send({"on": name})
        drain("work", "async")
        assert seen == [{"on": "work"}, {"on": "async"}]
        assert contents(sent("other")) == [{"on": "other"}]

    def test_a_channel_without_a_route_is_named_with_those_that_have_one(self) -> None:
        with pytest.raises(ValueError, match=r"^No route for channel 'wrok'. Routed: .*work"):
            drain("wrok")

    def test_what_a_worker_buries_unseen_drain_buries_unseen(self, layer: Any) -> None:
        """A message with as many losses as its channel allows."""
        Channel("work").send({})
        advance(0)  # in memory, it has waited for the commit
        for _ in range(DEFAULT_MAX_LOSSES):
            assert layer.claim("killed", {"work": 1}, 15.0).claims
            advance(16)
        [ran] = drain(raise_errors=False)
        assert (ran.outcome, seen) == ("buried", []) and "It was lost 3 times" in ran.error

    def test_what_no_route_matches_waits_as_it_would_for_a_worker(self, layer: Any) -> None:
        Channel("invoices").send({"kind": "stolen"})
        advance(100)
        [ran] = drain()
        assert ran.outcome == "released" and "no route of channel 'invoices' matches" in ran.error
        assert drain() == []
        advance(110)
        assert [r.outcome for r in drain()] == ["released"]

    def test_what_consumers_send_runs_too(self) -> None:
        Channel("countdown").send({"n": 3})
        assert len(drain()) == 4
        assert seen == [3, 2, 1, 0]

    def test_a_consumer_that_sends_to_itself_for_ever_is_noticed(self) -> None:
        Channel("for-ever").send({})
        with pytest.raises(AssertionError, match=r"ran 21 messages and there is no end"):
            drain(limit=20)

    def test_higher_priorities_run_first(self) -> None:
        for priority in (0, 50, -50):
            Channel("work").send({"priority": priority}, priority=priority)
        drain()
        assert [c["priority"] for c in seen] == [50, 0, -50]

    def test_a_lane_runs_in_order_although_its_head_is_retried(self) -> None:
        for n in (1, 2):
            Channel("retry").send({"n": n}, lane="l")
        assert outcomes(drain(raise_errors=False)) == ["retried"]
        advance(60)
        drain(raise_errors=False)
        advance(60)
        assert [r.message["n"] for r in drain(raise_errors=False)] == [1, 2]

    def test_filters_and_their_groups_work(self) -> None:
        Channel("invoices").send({"kind": "paid"})
        Channel("invoices").send({"kind": "stolen"})
        assert sorted(outcomes(drain())) == ["finished", "released"]
        assert seen == ["paid"]
        assert contents(sent("invoices")) == [{"kind": "stolen"}]

    def test_a_batch_consumer_gets_a_list(self) -> None:
        Channel("batch").send_many([{"n": 1}, {"n": 2}])
        assert outcomes(drain()) == ["finished", "finished"]
        assert [content for batch in seen for content in batch] == [{"n": 1}, {"n": 2}]

    def test_an_async_consumer_runs_in_the_transaction_of_the_test(self) -> None:
        Channel("store-async").send({"name": "editors"})
        assert outcomes(drain()) == ["finished", "finished"]
        assert Group.objects.filter(name="editors").exists()
        assert seen == [{"from": "editors"}]

    def test_from_an_async_test(self) -> None:
        async def test() -> list[Ran]:
            await Channel("async").asend({"n": 1})
            await Channel("work").asend({"n": 2})
            assert len(await sync_to_async(sent)("async")) == 1
            return await sync_to_async(drain)()

        assert outcomes(async_to_sync(test)()) == ["finished", "finished"]
        assert seen == [{"n": 1}, {"n": 2}]

    def test_signals_are_sent_as_by_a_worker(self) -> None:
        heard: list[Any] = []

        def hear(sender: Any, signal: Any, **facts: Any) -> None:
            heard.append((sender, facts.get("outcome") or facts.get("error", "").splitlines()[-1]))

        signals = (message_finished, message_retried, message_buried)
        for signal in signals:
            signal.connect(hear)
        try:
            Channel("fail").send({})
            drain(raise_errors=False)
            advance(60)
            drain(raise_errors=False)
        finally:
            for signal in signals:
                signal.disconnect(hear)
        boom = ("fail", "RuntimeError: boom")
        assert heard == [boom, ("fail", "retried"), boom, ("fail", "buried")]


@pytest.mark.usefixtures("layer")
class TestConsumersThatFail:
    def test_the_traceback_is_raised_once_the_message_is_settled(self) -> None:
        Channel("fail").send({})
        with pytest.raises(AssertionError, match=r"attempt 1> was retried:\n(?s:.)*RuntimeError: boom") as e:
            drain()
        assert "in fail" in str(e.value)
        assert drain() == [], "its backoff is not over"
        advance(60)
        with pytest.raises(AssertionError, match=r"attempt 2> was buried:\n(?s:.)*RuntimeError: boom"):
            drain()
        assert seen == [1, 2]
        [dead] = dead_on(get_layer(), "fail")
        assert "RuntimeError: boom" in dead.error

    def test_or_the_outcomes_tell(self) -> None:
        Channel("fail").send({})
        Channel("work").send({})
        first = drain(raise_errors=False)
        assert sorted(outcomes(first)) == ["finished", "retried"]
        assert ["boom" in r.error for r in first if r.outcome == "retried"] == [True]
        advance(60)
        assert outcomes(drain(raise_errors=False)) == ["buried"]

    def test_those_that_were_not_run_yet_are_kept_when_one_raises(self) -> None:
        Channel("fail").send({}, priority=1)
        Channel("work").send({})
        with pytest.raises(AssertionError, match="boom"):
            drain()
        assert outcomes(drain()) == ["finished"]

    def test_a_retry_waits_as_long_as_it_says(self) -> None:
        Channel("retry").send({})
        assert outcomes(drain(raise_errors=False)) == ["retried"]
        advance(59)
        assert drain() == []
        advance(1)
        assert outcomes(drain(raise_errors=False)) == ["retried"]
        advance(60)
        assert outcomes(drain()) == ["finished"]
        assert seen == [1, 2, 3]

    def test_a_discarded_message_is_gone_with_its_reason(self) -> None:
        Channel("discard").send({})
        [ran] = drain()
        assert (ran.outcome, ran.error) == ("discarded", "nobody wants it")
        assert get_layer().stats() == {}

    def test_what_it_wrote_before_it_raised_stays_as_with_a_worker(self) -> None:
        Channel("store").send({"name": "editors", "raise": True})
        assert outcomes(drain(raise_errors=False)) == ["retried", "finished"]
        assert Group.objects.filter(name="editors").exists()

    @pytest.mark.parametrize("channel", ["store", "store-async"])
    def test_a_database_error_leaves_the_transaction_of_the_test_usable(self, channel: str) -> None:
        Group.objects.create(name="editors")
        Channel(channel).send({"name": "editors"})
        assert [r.error.splitlines()[-1].partition(":")[0] for r in drain(raise_errors=False)] == [
            "django.db.utils.IntegrityError"
        ]
        assert Group.objects.count() == 1
        assert contents(sent(channel)) == [{"name": "editors"}]
        Group.objects.all().delete()
        advance(3600)
        assert outcomes(drain()) == ["finished", "finished"]

    def test_a_message_that_cannot_be_read_is_buried(self) -> None:
        get_layer().enqueue([Message("work", {"n": 1}, v=99)])
        [ran] = drain(raise_errors=False)
        assert ran.outcome == "buried" and "99" in ran.error
        assert seen == []


class TestAtomicConsumers:
    @pytest.fixture(autouse=True)
    def _database(self, settings: Any, db: None) -> None:
        settings.CHANNEL_LAYERS = layers(DATABASE)

    def test_its_writes_its_sends_and_its_end_happen_together(self) -> None:
        Channel("atomic").send({"name": "editors"})
        assert outcomes(drain()) == ["finished", "finished"]
        assert Group.objects.filter(name="editors").exists()
        assert get_layer().stats() == {}

    def test_or_not_at_all(self) -> None:
        Channel("atomic").send({"name": "editors", "raise": True})
        assert outcomes(drain(raise_errors=False)) == ["retried"]
        assert not Group.objects.exists()
        assert sent("work") == []

    def test_a_database_error_leaves_the_transaction_of_the_test_usable(self) -> None:
        Group.objects.create(name="editors")
        Channel("atomic").send({"name": "editors"})
        assert outcomes(drain(raise_errors=False)) == ["retried"]
        assert Group.objects.count() == 1


@pytest.mark.usefixtures("layer")
class TestAdvance:
    def test_what_was_delayed_becomes_due(self) -> None:
        Channel("work").send({"n": 1}, delay=timedelta(hours=1))
        assert drain() == []
        advance(3599)
        assert drain() == []
        advance(1)
        assert outcomes(drain()) == ["finished"]

    def test_what_expires_is_dropped_and_reported(self) -> None:
        Channel("work").send({"n": 1}, expires=60)
        Channel("work").send({"n": 2}, expires=3600)
        advance(60)
        assert sorted(outcomes(drain())) == ["expired", "finished"]
        assert seen == [{"n": 2}]

    def test_a_claim_that_nobody_renews_lapses(self) -> None:
        Channel("work").send({"n": 1})
        if not joins():
            advance(0)
        [claim] = get_layer().claim("somebody", {"work": 1}, 15.0).claims
        assert drain() == []
        advance(15)
        [ran] = drain()
        assert (ran.message.id, ran.message.losses) == (claim.id, 1)


@override_settings(CHANNEL_LAYERS=layers(DATABASE))
class TestInATestCaseWithTheDatabase(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        Channel("work").send({"n": 0})

    def test_a_send_is_written_in_the_transaction_of_the_test(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            Channel("work").send({"n": 1})
        assert callbacks == []
        assert contents(sent("work")) == [{"n": 0}, {"n": 1}]
        drain()
        assert sent("work") == []

    def test_what_another_test_has_drained_is_there_again(self) -> None:
        assert contents(sent("work")) == [{"n": 0}]
        drain()


@override_settings(CHANNEL_LAYERS=layers(MEMORY))
class TestInATestCaseInMemory(TestCase):
    def test_a_send_that_waits_for_the_commit_counts_as_sent_and_is_run(self) -> None:
        Channel("work").send({"n": 1})
        assert get_layer().stats() == {}
        assert contents(sent("work")) == [{"n": 1}]
        assert outcomes(drain()) == ["finished"]
        assert sent("work") == [] and drain() == []

    def test_other_hooks_are_left_for_the_commit(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            transaction.on_commit(lambda: None)
            Channel("work").send({"n": 1})
            drain()
        assert len(callbacks) == 1

    def test_what_captured_callbacks_have_sent_is_sent_once(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            Channel("work").send({"n": 1})
        assert len(callbacks) == 1
        assert contents(sent("work")) == [{"n": 1}]
        assert outcomes(drain()) == ["finished"]
        assert sent("work") == [] and drain() == []

    def test_a_change_of_the_senders_dictionary_is_not_seen(self) -> None:
        content = {"n": [1]}
        Channel("work").send(content)
        content["n"].append(2)
        assert contents(sent("work")) == [{"n": [1]}]


class TestInATransactionTestCase(TransactionTestCase):
    def test_commits_are_real(self) -> None:
        for backend in (MEMORY, DATABASE):
            with override_settings(CHANNEL_LAYERS=layers(backend)):
                with transaction.atomic():
                    Channel("work").send({"n": 1})
                    transaction.set_rollback(True)
                assert sent("work") == []
                with transaction.atomic():
                    Channel("store").send({"name": backend})
                assert outcomes(drain()) == ["finished", "finished"]
                assert Group.objects.filter(name=backend).exists()
                assert not connection.in_atomic_block

    @override_settings(CHANNEL_LAYERS=layers(DATABASE))
    def test_a_database_error_is_the_consumers_own(self) -> None:
        Group.objects.create(name="editors")
        Channel("store").send({"name": "editors"})
        [ran] = drain(raise_errors=False)
        assert IntegrityError.__name__ in ran.error
        assert contents(sent("store")) == [{"name": "editors"}]


class TestFixtures:
    @pytest.mark.django_db
    def test_mailrail_works_on_the_layer_of_the_project(self, mailrail: Any, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(DATABASE)
        Channel("work").send({"n": 1}, delay=60)
        assert contents(mailrail.sent("work")) == [{"n": 1}]
        mailrail.advance(60)
        assert outcomes(mailrail.drain()) == ["finished"]

    @pytest.mark.parametrize("time", ["first", "second"])
    def test_mailrail_memory_needs_no_database_and_starts_empty(
        self, mailrail_memory: Any, time: str
    ) -> None:
        assert mailrail_memory.sent("unrouted") == []
        Channel("unrouted").send({"n": 1})
        assert contents(mailrail_memory.sent("unrouted")) == [{"n": 1}]

    @pytest.mark.parametrize("configured", [None, {}])
    def test_mailrail_memory_in_a_project_that_configures_no_layer(
        self, settings: Any, request: pytest.FixtureRequest, configured: Any
    ) -> None:
        settings.CHANNEL_LAYERS = configured
        mailrail = request.getfixturevalue("mailrail_memory")
        assert not get_layer().is_durable
        Channel("unrouted").send({"n": 1})
        assert contents(mailrail.sent("unrouted")) == [{"n": 1}]

    def test_mailrail_memory_keeps_the_routing_of_the_project(
        self, settings: Any, request: pytest.FixtureRequest
    ) -> None:
        settings.CHANNEL_LAYERS = layers(MEMORY)
        mailrail = request.getfixturevalue("mailrail_memory")
        Channel("work").send({"n": 1})
        assert outcomes(mailrail.drain("work")) == ["finished"]
        assert seen == [{"n": 1}]


def run_pytest(folder: Path, files: dict[str, str]) -> str:
    """What pytest says in a new project that has these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=folder,
        env=theirs | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_plugin_leaves_a_project_without_django_alone(tmp_path: Path) -> None:
    assert "1 passed" in run_pytest(tmp_path, {"test_it.py": "def test_it():\n    assert True\n"})


def test_the_fixtures_work_in_a_new_project(tmp_path: Path) -> None:
    files = {
        "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = project_settings\n",
        "project_settings.py": """
            INSTALLED_APPS = ["mailrail", "shop"]
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
            """,
        "shop/__init__.py": "",
        "shop/consumers.py": """
            from mailrail.routing import consumer

            seen = []


            @consumer("order")
            def order(message):
                seen.append(message["n"])
            """,
        "test_shop.py": """
            from mailrail import Channel
            from shop.consumers import seen


            def test_on_the_database(mailrail, db):
                Channel("order").send({"n": 1})
                assert [m.content for m in mailrail.sent("order")] == [{"n": 1}]
                mailrail.drain()
                assert seen.pop() == 1


            def test_in_memory(mailrail_memory):
                Channel("order").send({"n": 2})
                mailrail_memory.drain()
                assert seen.pop() == 2


            def test_in_memory_with_a_database(mailrail_memory, db):
                Channel("order").send({"n": 3})
                mailrail_memory.drain()
                assert seen.pop() == 3
            """,
    }
    assert "3 passed" in run_pytest(tmp_path, files)
