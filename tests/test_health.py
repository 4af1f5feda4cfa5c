"""The health pages and ``channels check``: what they say, to whom, and that asking costs next to nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.test import AsyncClient, Client

from mailrail import Channel
from mailrail.health import Problem, Readiness, look, readiness, register, register_outages, rules, views
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Message
from mailrail.routing import Routing, route

from .ports import free_port

LATE = 400.0


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No answer of an earlier test, no rules of apps; one consumer, of the channel "reports"."""
    monkeypatch.setattr(rules, "_rules", [])
    monkeypatch.setattr(rules, "_outages", [])
    monkeypatch.setattr(
        Routing, "of_layer", classmethod(lambda cls, alias=None: Routing([route("reports", print)]))
    )
    views.watch.forget()
    yield
    views.watch.forget()


def check(*arguments: str) -> str:
    out = StringIO()
    call_command("channels", "check", *arguments, stdout=out)
    return out.getvalue()


def failure(*arguments: str) -> str:
    with pytest.raises(CommandError) as failed:
        check(*arguments)
    return str(failed.value)


# -- looking --------------------------------------------------------------------------------------------------------


def test_every_layer_tells_that_work_is_late(layer: DurableLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "get_layer", lambda alias: layer)
    layer.enqueue([Message(channel="reports", content={})])
    assert look(limit=300).is_ready
    layer.advance_time(LATE)
    found = look(limit=300)
    assert found.reason and found.detail
    assert found.reason.startswith("a message has been due for 40") and found.reason.endswith(
        " s, more than 300 s"
    )
    assert "on reports" in found.detail
    assert look(limit=LATE + 100).is_ready and look(limit=None).is_ready
    layer.pause("reports")
    assert look(limit=300).is_ready
    layer.resume("reports")
    [claim] = layer.claim("worker", {"reports": 1}, 15.0).claims
    assert look(limit=300).is_ready, "somebody works on it"
    layer.advance_time(LATE)
    assert not look(limit=300).is_ready, "whoever worked on it is gone"
    layer.finish([claim])


@pytest.mark.django_db
def test_all_late_channels_are_named_the_latest_first_and_none_in_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routing = Routing([route(["reports", "thumbs"], print)])
    monkeypatch.setattr(Routing, "of_layer", classmethod(lambda cls, alias=None: routing))
    Channel("thumbs").send({})
    get_layer().advance_time(100)
    Channel("reports").send({})
    get_layer().advance_time(LATE)
    found = look(limit=300, workers=1)
    kinds = [(problem.kind, problem.name) for problem in found.problems]
    assert kinds == [("channel", "thumbs"), ("channel", "reports"), ("workers", "")]
    [latest, later, _] = found.problems
    assert latest.since and later.since and later.since - latest.since == pytest.approx(100, abs=30)
    assert found.detail and "a message on thumbs has been due for 50" in found.detail
    assert "a message on reports has been due for 40" in found.detail
    assert found.reason and found.reason.startswith("a message has been due for 50")
    assert found.reason.endswith(" s, more than 300 s; no workers are running")


@pytest.mark.django_db
def test_channels_that_nobody_here_consumes_are_others_matter() -> None:
    Channel("of-another-project").send({})
    get_layer().advance_time(LATE)
    assert look(limit=300).is_ready


def test_a_layer_that_there_is_not_is_a_reason(settings: Any) -> None:
    readiness = look("nowhere")
    assert readiness.reason == "the layer 'nowhere' cannot be used"
    assert readiness.detail and "CHANNEL_LAYERS" in readiness.detail


@pytest.mark.django_db
def test_a_database_without_tables_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE mailrail_message RENAME TO elsewhere")
    assert look().reason == "the layer 'default' cannot be used"


# -- the pages ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_ready_and_late(client: Client, settings: Any) -> None:
    get_layer().heartbeat("one", {})
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True})
    assert "no-store" in answer["Cache-Control"] and "private" in answer["Cache-Control"]
    Channel("reports").send({"secret": "of the content"})
    get_layer().advance_time(LATE)
    get_layer().heartbeat("one", {})
    assert client.get("/readyz").status_code == 200, "answered a moment ago"
    views.watch.forget()
    answer = client.get("/readyz")
    assert answer.status_code == 503 and "no-store" in answer["Cache-Control"]
    assert answer.json()["ready"] is False and "more than 300 s" in answer.json()["reason"]
    assert "reports" not in answer.text and "secret" not in answer.text
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": None}
    views.watch.forget()
    assert client.get("/readyz").status_code == 200
    assert client.head("/readyz").status_code == 200
    assert client.post("/readyz").status_code == 405


@pytest.mark.django_db
def test_without_a_worker_nothing_is_in_time_unless_nothing_is_asked_of_time(
    client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "no workers are running"}
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": None}
    views.watch.forget()
    assert client.get("/readyz").status_code == 200
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": 300.0}
    monkeypatch.setattr(Routing, "of_layer", classmethod(lambda cls, alias=None: Routing([])))
    views.watch.forget()
    assert client.get("/readyz").status_code == 200, "a project without consumers needs no worker"


@pytest.mark.django_db
def test_apps_add_rules_and_one_that_fails_is_a_problem_of_its_own(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_layer().heartbeat("one", {})

    @register
    def shop_open(limit: float) -> list[Problem]:
        return [Problem("a shop is closed", f"the shop in Elm Street is closed for {limit:g} s")]

    @register
    def shelves_full(limit: float) -> list[Problem]:
        raise OperationalError("no such table: shelf")

    register(shelves_full)
    readiness = look(limit=300)
    assert readiness.detail == (
        "the shop in Elm Street is closed for 300 s; shelves full: this cannot be found out: no such table: shelf"
    )
    assert client.get("/readyz").json()["reason"] == (
        "a shop is closed; shelves full: this cannot be found out"
    )
    assert look().is_ready, "without a limit, no rule is asked"


@pytest.mark.django_db
def test_outages_count_from_their_first_second_for_people_and_later_for_load_balancers(
    client: Client, settings: Any
) -> None:
    get_layer().heartbeat("one", {})

    @register_outages
    def shops_out(limit: float) -> list[Problem]:
        return [Problem("a shop is shut", "the shop in Elm Street is shut")] if limit < 60 else []

    register_outages(shops_out)
    assert failure() == "the shop in Elm Street is shut"
    get_layer().heartbeat("here", {"host": socket.gethostname()})
    assert check("--here"), "a probe of workers fails for late work alone"
    assert check("--oldest", "60") and failure("--oldest", "59")
    assert client.get("/readyz").status_code == 200, "300 seconds have not passed"
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": 50.0}
    views.watch.forget()
    assert client.get("/readyz").json()["reason"] == "a shop is shut"
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": None}
    views.watch.forget()
    assert client.get("/readyz").status_code == 200
    assert failure() == "the shop in Elm Street is shut"


def test_a_server_that_is_not_there_and_no_word_on_where(client: Client, settings: Any, caplog: Any) -> None:
    port = free_port()
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": [f"redis://:s3cret@127.0.0.1:{port}/0"]},
        }
    }
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "the layer 'default' cannot be used"}
    assert f"127.0.0.1:{port}" in caplog.text and "s3cret" not in caplog.text
    assert client.get("/healthz").json() == {"alive": True}


@pytest.mark.django_db(transaction=True, databases=["postgres"])
def test_a_database_goes_away_and_comes_back(
    client: Client, on_postgres: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_postgres.heartbeat("one", {})
    assert client.get("/readyz").status_code == 200
    with monkeypatch.context() as away:
        away.setitem(connections["postgres"].settings_dict, "PORT", free_port())
        connections["postgres"].close()
        views.watch.forget()
        answer = client.get("/readyz")
        assert answer.json() == {"ready": False, "reason": "the layer 'default' cannot be used"}
        assert client.get("/healthz").status_code == 200
    views.watch.forget()
    assert client.get("/readyz").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_they_answer_async_servers(path: str) -> None:
    get_layer().heartbeat("one", {})
    assert async_to_sync(AsyncClient().get)(path).status_code == 200


@pytest.mark.django_db
def test_being_alive_takes_no_database_no_login_and_no_transaction(
    client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    get_layer().heartbeat("one", {})
    with django_assert_num_queries(0):
        answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})
    assert "no-store" in answer["Cache-Control"]
    assert client.get("/readyz").status_code == 200


# -- the price of asking --------------------------------------------------------------------------------------------


def test_many_who_ask_at_once_cause_one_look() -> None:
    looks: list[int] = []
    together = threading.Barrier(8)

    def one() -> Readiness:
        looks.append(1)
        return Readiness()

    watch = readiness.Watch(one)

    def ask() -> Readiness:
        together.wait(30)
        return watch.ask()

    with ThreadPoolExecutor(8) as pool:
        found = [each.result(60) for each in [pool.submit(ask) for _ in range(8)]]
    assert looks == [1] and all(each.is_ready for each in found)
    watch.forget()
    watch.ask()
    assert looks == [1, 1]


def test_while_a_look_hangs_everybody_else_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ANSWER_TIMEOUT_S", 0.05)
    began, over = threading.Event(), threading.Event()

    def hang() -> Readiness:
        began.set()
        assert over.wait(60)
        return Readiness()

    watch = readiness.Watch(hang)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(watch.ask)
        assert began.wait(60)
        assert watch.ask().reason == "the layer 'default' does not answer"
        over.set()
        assert hanging.result(60).is_ready
    assert watch.ask().is_ready


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_check_fails_without_a_worker_and_for_late_work() -> None:
    layer = get_layer()
    assert failure() == "no workers are running"
    layer.heartbeat("one", {"host": socket.gethostname()})
    layer.heartbeat("two", {"host": "elsewhere"})
    assert check() == "OK: 2 workers running\n"
    assert check("--here") == "OK: 1 worker running\n"
    assert failure("--here", "--workers", "2") == "1 worker running on this machine, 2 are needed"
    Channel("reports").send({})
    layer.advance_time(10)
    assert check("--oldest", "100")
    assert failure("--oldest", "0").startswith("a message on reports has been due for 10 s, more than 0 s")
    layer.advance_time(50)  # the workers are forgotten
    assert failure() == "no workers are running"


@pytest.mark.django_db
def test_check_for_machines() -> None:
    get_layer().heartbeat("one", {"host": "elsewhere"})
    assert json.loads(check("--json")) == {"well": True, "problems": [], "workers": 1}
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("channels", "--json", "check", "--workers", "2", stdout=out)
    assert json.loads(out.getvalue())["problems"] == ["1 worker running, 2 are needed"]


def test_check_says_why_the_layer_cannot_be_used(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": [f"redis://127.0.0.1:{free_port()}/0"]},
        }
    }
    assert failure().startswith("the layer 'default' cannot be used: ")
