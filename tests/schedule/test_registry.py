"""What code may declare, and what it is told when it declares something else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings

from mailrail import InvalidSettings
from mailrail.schedule import every, periodic, registry, schedulable
from mailrail.schedule.times import Cron, Every

from ..tasks import defined

ADD = "tests.tasks.defined.add"


def test_a_task_and_a_channel_are_declared_with_their_names_and_stay_what_they_are() -> None:
    assert periodic("30 6 * * 1-5", tz="Europe/Berlin", args=[1])(defined.add) is defined.add
    assert periodic(every(minutes=5), channel="index", content={"all": True}, name="often")(len) is len
    entry, often = registry.definitions()[ADD], registry.definitions()["often"]
    assert (entry.task, entry.channel, entry.times) == (ADD, "", Cron("30 6 * * 1-5", "Europe/Berlin"))
    assert (entry.missed, entry.overlap, entry.jitter, entry.args) == ("once", "skip", 0.0, [1])
    assert (often.task, often.channel, often.times, often.content) == ("", "index", Every(300), {"all": True})


def test_an_entry_keeps_what_it_was_declared_with_in_types_that_can_be_sent() -> None:
    args = [(1, 2)]
    periodic("0 3 * * *", args=args, jitter=timedelta(seconds=5))(defined.add)
    args.clear()
    entry = registry.definitions()[ADD]
    assert (entry.args, entry.jitter) == ([[1, 2]], 5.0)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: periodic("* * *")(defined.add), ValueError, "five fields"),
        (lambda: periodic("0 3 * * *", tz="Mars/Olympus")(defined.add), ValueError, "Mars/Olympus"),
        (lambda: periodic(every(hours=1), tz="UTC")(defined.add), ValueError, "tz='UTC' has no effect"),
        (lambda: periodic(300)(defined.add), TypeError, "a cron expression, or every"),  # type: ignore[arg-type]
        (lambda: periodic("0 3 * * *")(len), TypeError, "stands above @task"),
        (lambda: periodic("0 3 * * *", channel="no blanks")(len), ValueError, "no blanks"),
        (lambda: periodic("0 3 * * *", missed="some")(defined.add), ValueError, "missed must be 'skip'"),
        (lambda: periodic("0 3 * * *", overlap="some")(defined.add), ValueError, "overlap must be 'skip'"),
        (lambda: periodic("0 3 * * *", jitter=-1)(defined.add), ValueError, "jitter must be seconds"),
        (lambda: periodic("0 3 * * *", name="")(defined.add), ValueError, "name must be 1 to 200"),
        (lambda: periodic("0 3 * * *", args=5)(defined.add), TypeError, "args must be a list"),  # type: ignore[arg-type]
        (
            lambda: periodic("0 3 * * *", kwargs={"a": {1}})(defined.add),
            TypeError,
            r"'set'> in kwargs\['a'\]",
        ),
        (lambda: periodic("0 3 * * *", kwargs={1: 2})(defined.add), TypeError, "as the key 1 of kwargs"),  # type: ignore[dict-item]
        (lambda: periodic("0 3 * * *", kwargs=[])(defined.add), TypeError, "kwargs must be a dict"),  # type: ignore[arg-type]
        (lambda: periodic("0 3 * * *", args=[float("nan")])(defined.add), ValueError, r"args\[0\] is nan"),
        (
            lambda: periodic("0 3 * * *", channel="index", content={1: 2})(len),  # type: ignore[dict-item]
            TypeError,
            "content has the key 1",
        ),
        (
            lambda: periodic("0 3 * * *", channel="index", content=[])(len),  # type: ignore[arg-type]
            TypeError,
            "content must be a dict",
        ),
        (
            lambda: periodic("0 3 * * *", channel="index", content={"a": "\ud800"})(len),
            TypeError,
            'content."a". holds half a surrogate',
        ),
        (
            lambda: periodic("0 3 * * *", tz=ZoneInfo("Europe/Berlin"))(defined.add),  # type: ignore[arg-type]
            TypeError,
            "tz must be a name such as",
        ),
        (
            lambda: periodic("0 3 * * *", missed="all")(defined.add),
            ValueError,
            "missed='all' needs overlap='queue'",
        ),
        (lambda: periodic("0 3 * * *", content={"a": 1})(defined.add), ValueError, "it needs channel="),
        (lambda: periodic("0 3 * * *", channel="index", args=[1])(len), ValueError, "A message has content"),
        (
            lambda: periodic("0 3 * * *")(defined.add.using(priority=7)),
            ValueError,
            "what using.. has changed would be lost",
        ),
        (lambda: every(seconds=9), ValueError, "at least 10"),
        (lambda: every(seconds=10.5), ValueError, "whole seconds"),
        (lambda: every(minutes="5"), TypeError, "minutes must be a number"),  # type: ignore[arg-type]
        (lambda: every(minutes=timedelta(minutes=5)), TypeError, "minutes must be a number"),  # type: ignore[arg-type]
        (lambda: every(days=1e12), ValueError, "days must be zero or more, and ten years at most"),
        (lambda: every(seconds=float("nan")), ValueError, "seconds must be zero or more"),
        (lambda: schedulable(len), TypeError, "stands above @task"),
    ],
)
def test_a_mistake_is_an_error_that_names_the_argument(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
    assert not registry.definitions()


def test_all_mistakes_of_an_entry_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)missed must be.*overlap must be.*jitter must be"):
        periodic("0 3 * * *", missed="a", overlap="b", jitter=-1)(defined.add)


def test_a_second_entry_of_one_name_is_refused_and_the_same_one_imported_again_is_not() -> None:
    for _ in range(2):
        periodic("0 3 * * *")(defined.add)
    assert len(registry.definitions()) == 1
    with pytest.raises(ValueError, match=r"test_registry.py, line \d+. Give this one another name"):
        periodic("0 4 * * *")(defined.add)


def test_what_the_admin_may_run_is_what_code_has_marked() -> None:
    assert schedulable(defined.add) is defined.add
    assert schedulable(channel="index")(len) is len
    assert registry.schedulable_tasks() == [ADD] and registry.schedulable_channels() == ["index"]
    assert registry.has_any() and not registry.definitions()


def test_a_project_without_the_app_is_told_so_where_it_declares_an_entry() -> None:
    with (
        override_settings(INSTALLED_APPS=["mailrail"]),
        pytest.raises(InvalidSettings, match=r'"mailrail\.schedule" in INSTALLED_APPS'),
    ):
        periodic("0 3 * * *")(defined.add)
