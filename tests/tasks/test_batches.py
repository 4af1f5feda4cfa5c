"""Batches: what belongs to them, when they end, and what follows, on every layer."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailrail import Channel, testing
from mailrail.layers import DurableLayer
from mailrail.reconciliation import reconcilers
from mailrail.signals import worker_maintenance
from mailrail.tasks import (
    Batch,
    BatchRecord,
    TaskRecord,
    batch,
    batch_ends,
    cancel,
    control,
    enqueue_many,
    retention,
)
from mailrail.tasks.compat import HAS_BACKPORT, InvalidTask, task_backends
from mailrail.testing.messages import send_deferred
from mailrail.worker import IncomingMessage

from ..processes import ROOT
from . import batched, defined
from .conftest import LAYERS
from .defined import ran

TASKS_OF_DJANGO = "django_tasks" if HAS_BACKPORT else "django.tasks"

pytestmark = [
    pytest.mark.usefixtures("on_layer"),
    pytest.mark.parametrize("on_layer", LAYERS[1:], indirect=True),
]

FOLLOWERS: Any = {
    "then": batched.then,
    "on_failure": batched.on_failure,
    "on_finish": batched.on_finish,
}


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()
    batched.broken.clear()


def using() -> str:
    backend: Any = task_backends["default"]
    return str(backend.database)


def records() -> Any:
    return TaskRecord.objects.using(using())


def consumers() -> Any:
    """Return the module, which must not be imported before the databases of the tests are known."""
    return import_module("mailrail.tasks.consumers")


def drain() -> list[str]:
    """Run all that is due, and return which followers ran, in the order of the alphabet."""
    testing.drain(raise_errors=False)
    return sorted(what for what in ran if not what.startswith(("member", "grow")) and isinstance(what, str))


def prune_later() -> None:
    """Remove what workers remove once all times are over."""
    for model in (TaskRecord, BatchRecord):
        model._base_manager.using(using()).exclude(kept_until=None).update(kept_until=timezone.now())
    retention.prune(using())
    retention.prune(using())


def batch_of(*whats: str, **options: Any) -> Batch:
    with batch(**{**FOLLOWERS, **options}) as made:
        for what in whats:
            batched.member.enqueue(what)
    return made


# -- when followers are enqueued ---------------------------------------------------------------------------------------


def test_then_and_on_finish_are_enqueued_once_when_all_have_succeeded() -> None:
    with batch(**FOLLOWERS) as made:
        batched.member.enqueue("a")
        batched.member_async.enqueue("b")
        enqueue_many(batched.member, [(("c",), {}), (("d",), {})])
    assert [made.progress.total, made.progress.ready, made.progress.done] == [4, 4, 0]
    assert drain() == ["on_finish", "then"]
    assert made.progress == async_to_sync(made.aprogress)()
    assert (made.progress.total, made.progress.successful, made.progress.failed) == (4, 4, 0)
    assert made.record.finished_at is not None and made.record.failed_at is None
    assert drain() == ["on_finish", "then"]
    assert not records().filter(task__endswith="on_failure").exists()


def test_on_failure_is_enqueued_at_the_first_failure_that_is_final_and_then_never() -> None:
    with batch(**FOLLOWERS) as made:
        defined.try_thrice.enqueue("raise")
        batched.member.enqueue("raise")
        batched.member.enqueue("raise")
    assert drain() == ["on_failure"]  # one of them is to be tried again
    assert made.record.failed_at is not None and made.record.finished_at is None
    testing.advance(60)
    assert drain() == ["on_failure"]
    testing.advance(60)
    assert drain() == ["on_failure", "on_finish"]
    assert (made.progress.total, made.progress.failed) == (3, 3)
    assert records().get(task__endswith="batched.then").held == 1


def test_a_member_that_fails_and_is_tried_again_successfully_is_no_failure() -> None:
    with batch(**FOLLOWERS) as made:
        defined.look.enqueue()
    assert drain() == ["on_finish", "then"]
    assert made.progress.successful == 1


@pytest.mark.parametrize("end", ["cancelled", "expired", "discarded", "lost", "not found"])
def test_whatever_ends_a_member_counts_as_a_failure(end: str, on_layer: DurableLayer) -> None:
    with batch(**FOLLOWERS) as made:
        batched.member.enqueue("a")
        last: Any = {"expired": batched.short_lived, "discarded": defined.do}.get(end, batched.member)
        result = last.enqueue(*(["discard"] if end == "discarded" else []))
    send_deferred(on_layer)
    match end:
        case "cancelled":
            assert cancel(result)
        case "expired":
            testing.advance(61)
        case "lost":
            [message] = [m for m in testing.sent("tasks.default") if m.content["id"] == result.id]
            consumers().fail_buried(message=IncomingMessage(message), error="its processes died")
            on_layer.cancel("tasks.default", [message.id])
        case "not found":
            records().filter(pk=result.id).update(task="tests.tasks.gone")
    assert drain() == ["on_failure", "on_finish"]
    assert (made.progress.successful, made.progress.failed) == (1, 1)


def test_an_empty_batch_has_succeeded_when_its_block_ends() -> None:
    made = batch_of()
    assert {result.task.module_path.rpartition(".")[2] for result in testing.tasks()} == {"then", "on_finish"}
    assert made.record.finished_at is not None and made.progress.total == 0
    assert drain() == ["on_finish", "then"]


def test_followers_get_their_arguments_and_results_of_the_batch_and_are_no_members() -> None:
    with batch(then=(batched.then, ["a"]), on_finish=batched.collect) as made:
        for what in ("x", "y"):
            batched.member.enqueue(what)
    assert [result.args for result in testing.tasks()] == [["x"], ["y"]]  # followers are not enqueued yet
    assert drain() == ["then a"]
    assert records().get(pk=made.record.on_finish_id).return_value == ["x", "y"]
    assert made.progress.total == 2


def test_a_follower_expires_so_long_after_it_was_enqueued() -> None:
    with batch(then=batched.short_lived):
        batched.member.enqueue()
    testing.advance(100)
    assert drain() == ["short-lived"]


# -- what belongs to it ------------------------------------------------------------------------------------------------


def test_an_exception_inside_leaves_nothing(on_layer: DurableLayer) -> None:
    def fill() -> None:
        with batch(**FOLLOWERS):
            batched.member.enqueue()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert not records().exists() and not BatchRecord.objects.using(using()).exists()
    assert testing.sent("tasks.default") == []
    batched.member.enqueue()  # and what comes after the block joins nothing
    assert records().get().batch_id is None


def test_members_may_add_members_and_the_batch_ends_with_the_last() -> None:
    with batch(**FOLLOWERS) as made:
        batched.grow.enqueue(2)
    drain()
    assert set(ran[-2:]) == {"on_finish", "then"} and ran.count("grow 0") == 4
    assert made.progress.total == 7


def test_what_a_member_adds_in_a_block_that_raises_is_not_there() -> None:
    with batch() as made:
        batched.add_and_fail.enqueue()
    assert drain() == []
    assert (made.progress.total, made.progress.failed) == (1, 1)


def test_a_batch_that_has_ended_or_is_cancelled_takes_no_more(on_layer: DurableLayer) -> None:
    ended, cancelled = batch_of(), batch_of("a")
    with pytest.raises(InvalidTask, match="it has ended, or somebody has cancelled it"), ended.add():
        raise AssertionError
    assert cancelled.cancel() == 1
    with pytest.raises(InvalidTask, match="takes no more tasks"), cancelled.add():
        raise AssertionError


def test_the_inner_of_two_blocks_has_its_own_members() -> None:
    with batch() as outer:
        batched.member.enqueue("a")
        with batch(then=batched.then) as inner:
            batched.member.enqueue("b")
        batched.member.enqueue("c")
    assert (batched.names(outer), batched.names(inner)) == ([["a"], ["c"]], [["b"]])


def test_a_batch_says_what_it_is_about_and_is_found_by_its_id() -> None:
    about = Group.objects.create(name="order")
    with batch(about=about) as made:
        batched.member.enqueue()
    assert made.record.related_object == f"auth.group:{about.pk}"
    assert Batch.get(str(made.id)) == made
    with pytest.raises(BatchRecord.DoesNotExist):
        Batch.get(made.id.hex[::-1])
    for id in ("7", 7, None):
        with pytest.raises(ValueError, match=r"Batch.get\(\) needs the id of a batch, which is a UUID, not"):
            Batch.get(id)  # type: ignore[arg-type]


def test_a_batch_of_another_namespace_is_not_found(settings: Any) -> None:
    made = batch_of("a")
    settings.MAILRAIL = {"NAMESPACE": "other"}
    with pytest.raises(BatchRecord.DoesNotExist):
        Batch.get(made.id)


def test_what_cannot_be_counted_is_refused_and_leaves_nothing(settings: Any) -> None:
    settings.TASKS = {
        **settings.TASKS,
        "now": {"BACKEND": f"{TASKS_OF_DJANGO}.backends.immediate.ImmediateBackend"},
    }
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"backend": "now"}, "batch.. needs a backend that is mailrail.tasks.ChannelBackend"),
        ({"then": batched.without_record}, "results=False, and batches count records. Set results=True"),
        ({"on_failure": batched.keyed}, "has a key, so it would not run while its twin waits"),
        ({"on_finish": "then"}, "on_finish must be a task, .task, args. or"),
        ({"then": (batched.then, "ab")}, "then must be a task"),
    ]
    for options, message in mistakes:
        with pytest.raises(InvalidTask, match=message), batch(**options):
            raise AssertionError
    with pytest.raises(InvalidTask, match="results=False, and batches count records"), batch():
        batched.without_record.enqueue()
    with pytest.raises(InvalidTask, match=r"then needs a backend that is mailrail\.tasks"):
        batched.member.using(backend="now", then=batched.then)  # type: ignore[call-arg,unused-ignore]
    with pytest.raises(InvalidTask, match="Leave then out"), batch():
        batched.member.using(then=batched.then).enqueue()  # type: ignore[call-arg,unused-ignore]
    assert not records().exists() and not BatchRecord.objects.using(using()).exists()


# -- after the end -----------------------------------------------------------------------------------------------------


def test_a_member_counts_once_and_retried_after_the_end_reopens_nothing() -> None:
    batched.broken.add("a")
    with batch(**FOLLOWERS) as made:
        result = batched.mendable.enqueue("a")
        batched.member.enqueue("b")
    assert drain() == ["on_failure", "on_finish"]
    batched.broken.clear()
    assert control.retry_all([records().get(pk=result.id).pk]).done
    assert drain() == ["on_failure", "on_finish"]
    result.refresh()
    assert result.status == "SUCCESSFUL"
    assert (made.progress.total, made.progress.successful, made.progress.failed) == (2, 1, 1)


def test_a_member_retried_before_the_end_counts_as_it_ended_last() -> None:
    batched.broken.add("a")
    with batch(**FOLLOWERS) as made:
        result = batched.mendable.enqueue("a")
        batched.member.using(run_after=timedelta(seconds=60)).enqueue("b")  # type: ignore[arg-type,unused-ignore]
    assert drain() == ["on_failure"]
    batched.broken.clear()
    control.retry_all([records().get(pk=result.id).pk])
    drain()
    testing.advance(61)
    assert drain() == ["on_failure", "on_finish", "then"]
    assert made.progress.successful == 2


def test_retrying_the_failed_of_a_batch_opens_it_again_and_then_is_enqueued_once() -> None:
    batched.broken.update("ab")
    with batch(**FOLLOWERS) as made:
        for what in "abc":
            batched.mendable.enqueue(what)
    assert drain() == ["on_failure", "on_finish"] and made.progress.failed == 2
    batched.broken.remove("a")
    assert made.retry_failed() == 2 and made.record.finished_at is None
    assert drain() == ["on_failure", "on_finish"] and made.progress.failed == 1
    batched.broken.clear()
    assert async_to_sync(made.aretry_failed)() == 1
    assert drain() == ["on_failure", "on_finish", "then"]
    assert made.progress.successful == 3 and made.retry_failed() == 0
    assert made.record.finished_at is not None


def test_cancelling_a_batch_ends_what_waits_and_then_is_not_enqueued() -> None:
    made = batch_of("a", "b")
    assert made.cancel() == 2
    assert drain() == ["on_failure", "on_finish"] and len(ran) == 2
    assert made.record.cancelled_at is not None and made.progress.failed == 2
    assert async_to_sync(made.acancel)() == 0
    assert made.retry_failed() == 2
    assert drain() == ["on_failure", "on_finish", "then"]


def test_a_follower_that_waits_can_be_cancelled_alone() -> None:
    made = batch_of("a")
    assert cancel(str(made.record.then_id))
    assert drain() == ["on_finish"]


def test_a_follower_that_was_cancelled_and_is_retried_waits_for_its_batch_again() -> None:
    with batch(**FOLLOWERS) as made:
        batched.member.enqueue("raise")
        batched.member.using(run_after=timedelta(seconds=60)).enqueue("b")  # type: ignore[arg-type,unused-ignore]
    ids = [id for id in (made.record.on_failure_id, made.record.on_finish_id) if id is not None]
    assert [cancel(id) for id in ids] == [True, True]
    assert control.retry_all(ids[1:]).done == ids[1:]
    assert drain() == []
    assert control.retry_all(ids[:1]).done == ids[:1]
    assert drain() == ["on_failure"]  # the batch has got so far
    testing.advance(61)
    assert drain() == ["on_failure", "on_finish"]


# -- what may go wrong in between --------------------------------------------------------------------------------------


def test_a_batch_whose_last_worker_was_killed_before_it_looked_is_ended_by_the_next_claim() -> None:
    made = batch_of("a")
    records().filter(batch_id=made.id).update(status="SUCCESSFUL", finished_at=timezone.now())
    assert drain() == ["on_finish", "then"] and len(ran) == 2


def test_workers_look_at_open_batches_once_a_minute_some_at_a_time(
    on_layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers(), "_batches_looked_at", float("-inf"))
    monkeypatch.setattr(batch_ends, "MAX_PER_LOOK", 2)
    made, other, last = batch_of("a"), batch_of("b"), batch_of("c")
    records().filter(batch_id__in=(made.id, last.id)).delete()
    worker_maintenance.send("tasks.default")
    worker_maintenance.send("tasks.default")  # too soon
    assert made.record.finished_at is not None
    assert other.record.finished_at is None and last.record.finished_at is None
    monkeypatch.setattr(consumers(), "_batches_looked_at", float("-inf"))
    worker_maintenance.send("tasks.default")
    assert last.record.finished_at is not None
    assert drain() == ["on_finish"] * 3 + ["then"] * 3


def test_a_batch_that_cannot_be_ended_keeps_no_other_from_its_end(
    on_layer: DurableLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = batch_of("a"), batch_of("b")
    records().filter(batch_id__in=(broken.id, other.id)).delete()
    records().filter(pk=broken.record.then_id).update(queue="no queue")
    if connections[using()].in_atomic_block:
        with pytest.raises(ValueError, match="no queue"):
            batch_ends.look_after([broken.id], using())
    monkeypatch.setattr(batch_ends, "is_in_transaction", lambda using: False)  # as in a worker
    batch_ends.look_after([broken.id, other.id], using())
    assert broken.record.finished_at is None and other.record.finished_at is not None
    assert "a batch could not be looked after; workers look again within a minute" in caplog.text


def test_reconciliation_sends_no_message_for_a_follower_that_is_held_back(on_layer: DurableLayer) -> None:
    batch_of("a")
    testing.advance(3600)
    for reconciler in reconcilers(on_layer):
        if reconciler.channel == "tasks.*":
            reconciler.run(older_than=0)
    drain()
    assert sorted(ran) == ["member a", "on_finish", "then"]


def test_records_of_an_open_batch_and_its_failed_ones_are_kept_and_go_with_the_batch() -> None:
    short: Any = batched.member.using(retention=1)  # type: ignore[call-arg,unused-ignore]
    with batch(**FOLLOWERS) as made:
        short.enqueue("a")
        short.enqueue("raise")
        batched.member.using(run_after=timedelta(seconds=100)).enqueue("b")  # type: ignore[arg-type,unused-ignore]
    drain()
    testing.advance(50)
    retention.prune(using())
    retention.prune_ended(using(), timezone.now())
    assert made.progress.done == 2
    testing.advance(60)
    drain()
    retention.prune(using())
    assert sorted(batched.names(made)) == [["b"], ["raise"]]
    assert (made.progress.total, made.progress.failed) == (3, 1)
    assert made.retry_failed() == 1 and (made.progress.total, made.progress.successful) == (3, 2)
    drain()
    prune_later()
    assert not BatchRecord.objects.using(using()).exists()
    assert not records().exists()  # neither `then`, which was held back, nor the failed one


# -- chains ------------------------------------------------------------------------------------------------------------


def test_a_chain_goes_on_after_success_and_a_link_can_read_what_the_last_has_returned() -> None:
    last: Any = batched.collect.using(then=(batched.then, ("done",)))  # type: ignore[call-arg,unused-ignore]
    first: Any = batched.member.using(then=last)  # type: ignore[call-arg,unused-ignore]
    first.enqueue("a")
    enqueue_many(first, [(("b",), {})])
    assert drain() == ["then done", "then done"]
    values = records().filter(task__endswith="collect").order_by("pk").values_list("return_value", flat=True)
    assert list(values) == [["a"], ["b"]]


def test_six_chains_cost_as_many_queries_as_two(django_assert_num_queries: Any) -> None:
    chained: Any = batched.member.using(then=batched.then)  # type: ignore[call-arg,unused-ignore]
    with CaptureQueriesContext(connections[using()]) as of_two:
        enqueue_many(chained, [(("a",), {}), (("b",), {})])
    with django_assert_num_queries(len(of_two), connection=connections[using()]):
        enqueue_many(chained, [((str(n),), {}) for n in range(6)])
    assert drain() == ["then"] * 8


def test_batches_that_ended_long_ago_are_removed_on_request_with_all_of_their_records() -> None:
    batch_of("a", "raise")
    opened = batch_of("b")
    records().filter(batch_id=opened.id).update(run_after=timezone.now() + timedelta(days=1))
    drain()
    retention.prune_ended(using(), timezone.now() + timedelta(seconds=1))
    assert [*BatchRecord.objects.using(using()).values_list("pk", flat=True)] == [opened.id]
    assert not records().exclude(batch_id=opened.id).exclude(follows_id=opened.id).exists()


def test_a_chain_stops_at_a_failure_and_its_rest_goes_with_its_batch() -> None:
    rest: Any = batched.collect.using(then=batched.then)  # type: ignore[call-arg,unused-ignore]
    batched.member.using(then=rest).enqueue("raise")  # type: ignore[call-arg,unused-ignore]
    assert drain() == [] and records().count() == 3
    prune_later()
    assert not records().exists() and not BatchRecord.objects.using(using()).exists()


def test_a_link_with_a_key_that_is_taken_begins_no_second_chain() -> None:
    chained: Any = batched.keyed.using(then=batched.then)  # type: ignore[call-arg,unused-ignore]
    assert chained.enqueue().id == chained.enqueue().id
    assert drain() == ["then"] and BatchRecord.objects.using(using()).count() == 1


def test_tasks_run_as_they_are_enqueued_end_their_batch_with_its_block() -> None:
    with testing.eager_tasks():
        with batch(**FOLLOWERS) as made:
            assert batched.member.enqueue("a").status == "SUCCESSFUL"
            batched.grow.enqueue(1)
            many = enqueue_many(batched.member, [(("b",), {}), (("c",), {})])
            assert [(result.status, result.return_value) for result in many] == [
                ("SUCCESSFUL", "b"),
                ("SUCCESSFUL", "c"),
            ]
            assert made.record.finished_at is None
        assert made.progress.successful == 6
    assert ran[0] == "member a" and set(ran[-2:]) == {"on_finish", "then"}


def test_batches_of_messages_on_other_channels_are_no_matter_of_tasks() -> None:
    """Messages of channels sent inside a block are sent, and not counted."""
    with batch() as made:
        Channel("any").send({"id": 1})
    assert made.record.finished_at is not None and len(testing.sent("any")) == 1


def test_the_examples_of_the_how_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "how-to" / "task-batches.md").read_text()
    shop = ModuleType("shop_of_batches")
    monkeypatch.setitem(sys.modules, shop.__name__, shop)
    shop.links_of = lambda url: ["b", "c"] if url == "a" else []  # type: ignore[attr-defined]
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, vars(shop))
    names = vars(shop)
    made = names["resize_all"](Group.objects.create(name="order"), range(3))
    with batch(then=names["add_up"]) as read:
        names["read_page"].enqueue("a")
    testing.drain()
    assert names["show"](made) == (3, 3) and Batch.get(made).record.related_object.startswith("auth.group:")
    assert records().get(pk=read.record.then_id).return_value == 3
    chain = ("report", "fetch", "store", "announce")
    assert [
        records().filter(task=f"{shop.__name__}.{name}", status="SUCCESSFUL").count() for name in chain
    ] == [1] * 4
