"""``@task(concurrency=(n, function))``: at most n at once over all workers for each value of the arguments."""

from __future__ import annotations

from typing import Any

import pytest

from mailrail import testing
from mailrail.layers import DurableLayer
from mailrail.tasks import TaskRecord, enqueue_many
from mailrail.tasks.compat import InvalidTask

from . import defined
from .test_enqueuing import with_options
from .test_running import nothing_ran, reconcile_now

pytestmark = pytest.mark.usefixtures(nothing_ran.__name__)

LANE = "tests.tasks.defined.limited=customer-0"


def claimed(layer: DurableLayer) -> list[Any]:
    """Return the lanes of what two workers may run at once, and give it back."""
    testing.advance(0)
    claims = [m for name in "vw" for m in layer.claim(name, {"tasks.default": 50}, 15.0).claims]
    layer.release(claims)
    return sorted(str(message.lane) for message in claims)


@pytest.mark.parametrize("results", [True, False])
def test_no_more_of_a_value_can_run_than_its_limit_and_others_are_not_held_up(
    on_layer: DurableLayer, results: bool
) -> None:
    task = defined.limited.using(results=results)
    enqueue_many(task, [((0, n), {}) for n in range(20)] + [((1, 20), {})])
    assert claimed(on_layer) == [LANE, LANE, "tests.tasks.defined.limited=customer-1"]
    testing.drain()
    assert sorted(defined.ran) == [*((0, n) for n in range(20)), (1, 20)]


def test_a_message_that_was_lost_is_sent_again_with_its_limit(on_layer: DurableLayer) -> None:
    enqueue_many(defined.limited, [((0, n), {}) for n in range(4)])
    testing.advance(1)
    on_layer.cancel("tasks.default", [message.id for message in testing.sent("tasks.default")])
    for _ in range(2):
        reconcile_now()
        testing.advance(0)
    assert claimed(on_layer) == [LANE, LANE]


def test_settings_may_name_the_function_and_each_task_has_a_limit_of_its_own(on_layer: DurableLayer) -> None:
    path = "tests.tasks.defined.lane_of"
    with with_options(concurrency=(1, path), TASKS={"tests.tasks.defined.in_lane": {"lane": "l"}}):
        for _ in range(2):
            defined.limited.enqueue(0, 1)
            defined.keep.enqueue(0, 1)
        assert claimed(on_layer) == ["tests.tasks.defined.keep=customer-0", LANE, LANE]
        with pytest.raises(InvalidTask, match=r"lane and concurrency=.* do not go together"):
            defined.in_lane.enqueue(0, 1)


@pytest.mark.django_db
def test_what_the_function_raises_or_returns_is_told_to_the_caller_and_nothing_is_enqueued() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        defined.limited.enqueue(0)
    with pytest.raises(TypeError, match=r"what lists returns must be text, a number or None, not \['a'\]"):
        defined.limited.using(concurrency=(1, defined.lists)).enqueue(0, 1)
    assert not TaskRecord.objects.exists()


def test_a_value_too_long_for_the_name_of_a_lane_has_one_all_the_same(on_layer: DurableLayer) -> None:
    long = defined.limited.using(concurrency=(1, defined.long_name))
    enqueue_many(long, [((0, 1), {}), ((0, 2), {}), ((1, 3), {})])
    lanes = claimed(on_layer)
    assert len(set(lanes)) == 2 and {len(lane) for lane in lanes} == {255}
