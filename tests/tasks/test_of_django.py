"""Run Django's own tests of tasks: unchanged, and those about behaviour with our backend.

``scripts/setup.py`` takes them from the source distribution of the installed Django.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import django
import pytest
from django.test import TestCase, override_settings

from mailrail import testing
from mailrail.tasks import ChannelBackend

pytestmark = pytest.mark.skipif(
    django.VERSION < (6, 0), reason="Django 5.2 has no tasks, and no tests of them"
)

FOLDER = Path(sys.prefix) / "django-tests"


class DrainingBackend(ChannelBackend):
    """Run each task right after it is enqueued, as ``ImmediateBackend`` does."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = super().enqueue(task, args, kwargs)
        testing.drain(raise_errors=False)
        result.refresh()
        return result


IMMEDIATE_LEFT_OUT = {
    "test_using_correct_backend": "asserts that the backend is ImmediateBackend",
    "test_cannot_get_result": "asserts that results cannot be retrieved",
    "test_cannot_refresh_result": "asserts that results cannot be refreshed",
    "test_cannot_pass_run_after": "asserts that run_after is not supported",
    "test_validate_on_enqueue": "replaces the backend by ImmediateBackend",
    "test_validate_on_aenqueue": "replaces the backend by ImmediateBackend",
    "test_doesnt_wait_until_transaction_commit_by_default": "replaces the backend by ImmediateBackend",
}
DUMMY_LEFT_OUT = {
    "test_using_correct_backend": "asserts that the backend is DummyBackend",
    "test_enqueue_task": "looks into DummyBackend.results",
    "test_enqueue_task_async": "looks into DummyBackend.results",
    "test_refresh_result": "changes DummyBackend.results",
    "test_refresh_result_async": "changes DummyBackend.results",
    "test_clear": "calls DummyBackend.clear",
    "test_validate_on_enqueue": "replaces the backend by DummyBackend",
    "test_validate_on_aenqueue": "replaces the backend by DummyBackend",
    "test_doesnt_wait_until_transaction_commit_by_default": "looks into DummyBackend.results",
}

if django.VERSION >= (6, 0):
    if not (FOLDER / "tasks").is_dir():
        raise AssertionError(
            f"Django's tests are not in {FOLDER}. With a network, run scripts/setup.py again."
        )
    sys.path.append(str(FOLDER))
    from tasks import test_custom_backend, test_dummy_backend, test_immediate_backend, test_tasks

    TaskTestCase = test_tasks.TaskTestCase
    CustomBackendTestCase = test_custom_backend.CustomBackendTestCase
    CustomTaskTestCase = getattr(test_custom_backend, "CustomTaskTestCase", object)  # since Django 6.1

    def behaviour(
        case: type[Any], left_out: dict[str, str], backend: type[ChannelBackend], base: type[Any] = TestCase
    ) -> type[Any]:
        """Return Django's tests of a backend, without those that are left out, for one of ours."""
        names = [name for name in dir(case) if name.startswith("test_")]
        body = {name: getattr(case, name) for name in names if name not in left_out}
        assert body, case
        settings = {"BACKEND": f"{backend.__module__}.{backend.__qualname__}", "QUEUES": []}
        tests = type(case.__name__, (base,), {**body, "databases": {"default"}, "__module__": __name__})
        return override_settings(TASKS={"default": settings})(tests)

    TestImmediate = behaviour(
        test_immediate_backend.ImmediateBackendTestCase, IMMEDIATE_LEFT_OUT, DrainingBackend
    )
    TestDummy = behaviour(test_dummy_backend.DummyBackendTestCase, DUMMY_LEFT_OUT, ChannelBackend)


def test_each_test_of_django_runs_or_is_named_among_those_that_are_left_out() -> None:
    """A test that Django adds or renames must not be left out unseen."""
    ours: tuple[tuple[Any, list[type], dict[str, str]], ...] = (
        (test_immediate_backend, [TestImmediate], IMMEDIATE_LEFT_OUT),
        (test_dummy_backend, [TestDummy], DUMMY_LEFT_OUT),
        (test_custom_backend, [CustomBackendTestCase, CustomTaskTestCase], {}),
        (test_tasks, [TaskTestCase], {}),
    )
    for module, run, left_out in ours:
        cases = [
            case
            for case in vars(module).values()
            if isinstance(case, type) and case.__module__ == module.__name__
        ]
        assert names_in(cases) == names_in(run) | left_out.keys()
        assert not names_in(run) & left_out.keys()


def names_in(cases: list[type]) -> set[str]:
    return {name for case in cases for name in dir(case) if name.startswith("test_")}
