"""Names that the kernel frees when the last process of a supervisor has ended."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from mailrail import LayerUnavailable
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Message
from mailrail.worker import presence
from mailrail.worker.presence import Neighbours, Presence

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def layer() -> DurableLayer:
    return get_layer()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let the system refuse any further file or socket to this process."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def claimed(layer: DurableLayer, worker: str, told: Any) -> None:
    """Let this worker have a claim of an hour and a sign of life that says what ``told`` is."""
    layer.enqueue([Message("work", {"worker": worker})])
    assert layer.claim(worker, {"work": 1}, 3600.0).claims
    layer.heartbeat(worker, {"presence": told})


def look(layer: DurableLayer) -> None:
    neighbours = Neighbours(layer)
    neighbours.list()
    neighbours.look()


def test_a_name_is_free_once_the_last_process_that_inherited_it_has_ended(layer: DurableLayer) -> None:
    held = Presence("first")
    assert held._socket is not None
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held._socket.fileno()])
    claimed(layer, "first:0", held.name)
    held.end()
    look(layer)
    assert layer.stats()["work"].claimed == 1
    heir.kill()
    heir.communicate()
    look(layer)
    assert (layer.stats()["work"].ready, layer.workers()) == (1, [])
    [claim] = layer.claim("next", {"work": 1}, 60.0).claims
    assert claim.losses == 1


FAMILY = """
import os, sys
from mailrail.worker.presence import Presence
held = Presence("family")
ready, told = os.pipe()
if os.fork() == 0:  # a worker
    if os.fork() == 0:  # what a consumer has left behind
        os.write(told, b"!")
        sys.stdin.read()
    elif sys.argv[1] == "worker":
        sys.stdin.read()
    os._exit(0)
os.read(ready, 1)
if sys.argv[1] != "worker":
    os.wait()
print(held.name, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("survivor", "is_free"), [("worker", False), ("a process of its consumer", True)])
def test_a_worker_keeps_the_name_and_what_its_consumers_fork_does_not(survivor: str, is_free: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, survivor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as family:
        assert family.stdout is not None
        name = family.stdout.readline().strip()
        family.wait()
        with presence._held(name) as is_gone:
            assert is_gone is is_free
        family.communicate()


def test_leases_of_others_stay(layer: DurableLayer) -> None:
    """Of those that live, of those elsewhere, and of those that say nothing of it."""
    alive, gone = Presence("alive"), Presence("gone")
    gone.end()
    assert gone.name is not None
    claimed(layer, "alive:0", alive.name)
    claimed(layer, "elsewhere:0", f"another boot/{gone.name.partition('/')[2]}")
    for number, told in enumerate([None, 7, "", "/"]):
        claimed(layer, f"other-{number}:0", told)
    look(layer)
    assert layer.stats()["work"].claimed == len(layer.workers()) == 6
    alive.end()
    look(layer)
    assert layer.stats()["work"].claimed == 5


def test_a_name_that_its_worker_has_no_more_says_nothing_of_its_leases(layer: DurableLayer) -> None:
    """As after a deployment that changes the settings, and so the name, of a worker with a ``--worker-id``."""
    earlier = Presence("web")
    layer.heartbeat("web:0", {"presence": earlier.name})
    neighbours = Neighbours(layer)
    neighbours.list()
    earlier.end()
    claimed(layer, "web:0", f"{earlier.name}2")
    neighbours.look()
    assert (layer.stats()["work"].claimed, len(layer.workers())) == (1, 1)


def test_a_system_without_such_names_leaves_all_to_leases(layer: DurableLayer) -> None:
    """Neither a start nor a look waits or fails where no socket can be made."""
    gone = Presence("gone")
    gone.end()
    claimed(layer, "gone:0", gone.name)
    neighbours = Neighbours(layer)
    neighbours.list()
    with no_more_files():
        assert Presence("none").name is None
        neighbours.look()
    assert layer.stats()["work"].claimed == 1
    neighbours.look()
    assert layer.stats()["work"].claimed == 0


def test_a_look_asks_no_database_while_all_live_and_tries_again_after_an_outage(
    layer: DurableLayer, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Presence("neighbour")
    claimed(layer, "neighbour:0", held.name)
    neighbours = Neighbours(layer)
    neighbours.list()
    with django_assert_num_queries(0):
        neighbours.look()
    held.end()
    with monkeypatch.context() as away:
        away.setattr(layer, "list_channels", raise_outage)
        with pytest.raises(LayerUnavailable):
            neighbours.look()
    neighbours.look()
    assert (layer.stats()["work"].ready, layer.workers()) == (1, [])
    with django_assert_num_queries(0):
        neighbours.look()


def test_many_that_another_worker_has_noticed_cost_one_query(
    layer: DurableLayer, django_assert_num_queries: Any
) -> None:
    held = Presence("many")
    for number in range(5):
        claimed(layer, f"many:{number}", held.name)
    first, second = Neighbours(layer), Neighbours(layer)
    first.list()
    second.list()
    held.end()
    first.look()
    assert (layer.stats()["work"].ready, layer.workers()) == (5, [])
    with django_assert_num_queries(1):
        second.look()


def raise_outage() -> list[str]:
    raise LayerUnavailable("away")


def test_a_supervisor_of_the_same_name_waits_until_the_leases_of_the_last_one_have_ended() -> None:
    gone = Presence("twin")
    gone.end()
    with ThreadPoolExecutor(1) as thread:
        assert gone.name is not None
        with presence._held(gone.name) as is_gone:
            successor = thread.submit(Presence, "twin")
            assert is_gone and not successor.done()
        assert successor.result(20).name == gone.name
        successor.result().end()


def test_the_same_name_in_another_project_is_another_one(settings: Any) -> None:
    first = Presence("web")
    settings.MAILRAIL = {**settings.MAILRAIL, "NAMESPACE": "shop"}
    second = Presence("web")
    assert first.name and second.name and first.name != second.name
    first.end()
    second.end()


def test_one_whose_name_another_holds_does_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(presence, "MAX_WAIT_S", 0.0)
    first, second = Presence("same"), Presence("same")
    assert first.name is not None and second.name is None
    assert "has the worker id 'same'" in caplog.text
    second.end()
    first.end()
    third = Presence("same")
    assert third.name == first.name
    third.end()
