"""What people do on the live page: pause, resume, requeue, discard, cancel, send now; one, some, or all of a filter."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import IntegrityError
from django.http import QueryDict
from django.test import Client, RequestFactory
from django.utils import timezone

from mailrail.dashboard import operation_kinds, operation_runs, operations
from mailrail.dashboard.consumers import prune_operations
from mailrail.dashboard.models import Operation
from mailrail.dashboard.operation_targets import units_of
from mailrail.dashboard.operation_words import CHANNEL
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Message
from mailrail.testing import drain

from ..listed import dead_on, waiting_on
from ..ports import free_port

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

URL = "/mailrail/actions/"
SEE = ("view_dashboard", "operate_dashboard")


@pytest.fixture
def layer() -> DurableLayer:
    return get_layer()


@pytest.fixture(params=["default", "postgres", "redis"])
def storage(request: pytest.FixtureRequest, settings: Any) -> DurableLayer:
    """Return the default layer: on the database of the operations, on another one, or on a server."""
    config: dict[str, Any] = {
        "BACKEND": "mailrail.layers.DatabaseChannelLayer",
        "CONFIG": {"using": request.param},
    }
    if request.param == "redis":
        hosts = [request.getfixturevalue("valkey").url]
        config = {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": hosts}}
    settings.CHANNEL_LAYERS = {"default": config}
    return get_layer()


class AllOn:
    """Keep all records in one database."""

    def __init__(self, using: str) -> None:
        self.using = using

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self.using

    db_for_write = db_for_read


def operator(*permissions: str, name: str = "ada") -> Client:
    """Return the browser of a user with the page's permissions and these."""
    user = User.objects.create_user(name)
    wanted = Permission.objects.filter(codename__in=[*SEE, *permissions])
    assert len(wanted) == len(permissions) + len(SEE)
    user.user_permissions.set(wanted)
    browser = Client()
    browser.force_login(user)
    return browser


def bury(layer: DurableLayer, count: int, error: str = "ValueError: x", channel: str = "work") -> list[UUID]:
    ids = layer.enqueue([Message(channel, {"n": n}) for n in range(count)])
    for claim in layer.claim("w", {channel: count}, 60.0).claims:
        layer.bury(claim, f'Traceback (most recent call last):\n  File "x.py", line 1, in f\n{error}')
    return ids


def act(browser: Client, action: str, *targets: str, **fields: Any) -> dict[str, Any]:
    response = browser.post(URL, {"action": action, "target": targets, **fields})
    answer: dict[str, Any] = response.json()
    return {**answer, "status": response.status_code}


def test_requeue_means_what_was_dead_when_it_was_asked_for(layer: DurableLayer) -> None:
    browser = operator("requeue_message")
    ids, others = bury(layer, 5), bury(layer, 2, "KeyError: 1")
    answer = act(browser, "requeue", "default/work", error_class="ValueError", reason="fixed")
    assert answer["status"] == 200 and not waiting_on(layer, "work")
    late = bury(layer, 1)
    drain(CHANNEL)
    assert {m.id for m in waiting_on(layer, "work")} == {*ids}
    assert {m.message.id for m in dead_on(layer, "work")} == {*others, *late}
    operation = Operation.objects.get()
    assert (operation.done, operation.left, operation.by, operation.reason) == (5, 0, "ada", "fixed")
    assert operation.ended_at is not None
    [entry] = LogEntry.objects.all()
    assert (entry.user.username, entry.change_message) == ("ada", "fixed")
    assert entry.object_repr == "Requeue: default/work (ValueError)"


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_what_an_operator_asks_who_is_deleted_meanwhile_is_not_carried_out_later(
    layer: DurableLayer, settings: Any, rf: RequestFactory, using: str
) -> None:
    settings.DATABASE_ROUTERS = [AllOn(using)]
    request = rf.post(URL, {"action": "requeue", "target": "default/work"})
    request.user = User.objects.create_superuser("ada")
    User.objects.filter(pk=request.user.pk).delete()
    bury(layer, 1)
    with pytest.raises(IntegrityError):
        operations.act(request)
    assert not Operation.objects.exists() and not LogEntry.objects.exists()


def test_the_page_tells_how_far_an_operation_is(layer: DurableLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_kinds, "MESSAGES_PER_PART", 2)
    browser = operator("requeue_message")
    bury(layer, 5)
    act(browser, "requeue", "default/work", reason="fixed")
    operation = Operation.objects.get()

    def row() -> dict[str, Any]:
        from mailrail.monitoring import sampler

        sampler.forget()
        [row] = browser.get("/mailrail/data/").json()["sections"]["operations"]["rows"]
        return row  # type: ignore[no-any-return]

    waiting = row()
    assert "It waits for a worker that serves mailrail.operations" in waiting["cells"]["state"]["t"]
    assert waiting["actions"] == ["cancel"] and waiting["bar"] == {"done": 0, "failed": 0, "total": 5}
    layer.heartbeat("w", {"channels": [CHANNEL]})
    assert row()["cells"]["state"]["t"] == "A worker takes it in a moment."
    assert operation_runs.run(operation.pk, seconds=-1.0) is False
    assert row()["cells"]["state"]["t"] == "It runs."
    assert operation_runs.run(operation.pk) is True
    assert row()["cells"]["state"]["t"] == "All done: 5."


NEEDED = {
    ("requeue", "default/work"): "mailrail.requeue_message",
    ("discard", "default/work"): "mailrail.discard_message",
    ("cancel", "default/work"): "mailrail.cancel_message",
    ("pause", "default/mailrail.mail.default"): "mailrail_mail.pause_mailerstate",
    ("pause", "default"): "mailrail_mail.pause_mailerstate",
    ("resume", "default"): "mailrail_mail.pause_mailerstate",
    ("requeue", "default"): "mailrail_mail.resend_email",
    ("send_now", "default"): "mailrail_mail.resend_email",
    ("cancel", "default"): "mailrail_mail.cancel_email",
}


@pytest.mark.parametrize(("asked", "permission"), NEEDED.items(), ids=str)
def test_an_action_takes_the_permission_that_the_admin_asks_for_it(
    layer: DurableLayer, asked: tuple[str, str], permission: str
) -> None:
    others = {name.partition(".")[2] for name in NEEDED.values()} - {permission.partition(".")[2]}
    answer = act(operator(*others), *asked)
    assert (answer["status"], permission in answer["text"]) == (403, True)
    assert not (Operation.objects.exists() or LogEntry.objects.exists() or waiting_on(layer, CHANNEL))
    assert not layer.paused()


def test_pause_and_resume_take_the_permission_of_the_page_alone(layer: DurableLayer) -> None:
    assert act(operator(), "pause", "default/work", reason="the books are closed")["status"] == 200
    pause = layer.paused()["work"]
    assert (pause.by, pause.reason) == ("ada", "the books are closed")
    assert act(operator(name="bob"), "resume", "default/work")["text"] == "All done: 1."
    assert not layer.paused()
    assert sorted(entry.object_repr for entry in LogEntry.objects.all()) == [
        "Pause: default/work", "Resume: default/work"
    ]  # fmt: skip


@pytest.mark.parametrize("granted", [(), ("view_dashboard",), ("operate_dashboard",)])
def test_nobody_acts_without_seeing_and_operating(layer: DurableLayer, granted: tuple[str, ...]) -> None:
    browser = Client()
    user = User.objects.create_user("eve")
    user.user_permissions.set(Permission.objects.filter(codename__in=granted))
    browser.force_login(user)
    assert act(browser, "pause", "default/work")["status"] == 403
    assert not layer.paused() and not Operation.objects.exists()


def test_a_form_of_another_site_is_refused(layer: DurableLayer) -> None:
    browser = Client(enforce_csrf_checks=True)
    user = User.objects.create_superuser("root")
    browser.force_login(user)
    assert browser.post(URL, {"action": "pause", "target": "default/work"}).status_code == 403
    assert browser.get(URL).status_code == 405
    assert not layer.paused()


def test_what_a_form_asks_wrongly_is_refused_with_the_reason(layer: DurableLayer) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    for action, target, fields, text in (
        ("explode", "default/work", {}, "There is no such action."),
        ("requeue", "nowhere/work", {}, "There is no layer “nowhere”."),
        ("requeue", "default/no such channel", {}, "no such channel"),
        ("requeue", "default/work", {"ids": "17"}, "badly formed"),
        ("cancel", "default/work", {"state": "claimed"}, "ready or scheduled"),
        ("pause", "nobody", {}, "nobody"),
        ("cancel", "default", {"status": "sent"}, "status"),
        (
            "cancel",
            "00000000-0000-7000-8000-000000000000",
            {"section": "operations"},
            "It had ended already.",
        ),
    ):
        answer = act(root, action, target, **fields)
        assert text in answer["text"], (action, target, answer)
        assert answer["status"] == (200 if "ended" in text else 400)
    assert act(root, "pause", section="channels")["text"].startswith("Choose what it is about")
    assert not layer.paused() and not waiting_on(layer, "work")


def test_a_form_with_zero_bytes_is_stored_by_every_database(layer: DurableLayer) -> None:
    for asked in ("target=a%00b", "target=default/work&error_class=a%00b"):
        units = units_of(QueryDict(f"action=requeue&{asked}"))
        Operation.objects.using("postgres").create(units=units.units, filters=units.filters, subject=asked)


def test_a_double_click_and_a_form_sent_again_make_one_operation(layer: DurableLayer) -> None:
    ada, bob = operator("requeue_message"), operator("requeue_message", name="bob")
    ids = bury(layer, 3)
    first = act(ada, "requeue", "default/work", form="f1")
    assert act(ada, "requeue", "default/work", form="f1")["operation"] == first["operation"]
    of_bob = act(bob, "requeue", "default/work", form="f2")
    assert of_bob["operation"] == first["operation"] and "as ada has asked" in of_bob["text"]
    drain(CHANNEL)
    for claim in layer.claim("w", {"work": 3}, 60.0).claims:
        layer.bury(claim, "again")
    assert act(ada, "requeue", "default/work", form="f1")["operation"] == first["operation"]
    assert not drain(CHANNEL) and len(dead_on(layer, "work")) == 3
    assert act(ada, "requeue", "default/work", form="f3")["operation"] != first["operation"]
    drain(CHANNEL)
    assert {m.id for m in waiting_on(layer, "work")} == {*ids}
    assert LogEntry.objects.count() == Operation.objects.count() == 2


def test_a_cancelled_operation_goes_no_further(layer: DurableLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_kinds, "MESSAGES_PER_PART", 2)
    browser = operator("discard_message")
    bury(layer, 5)
    key = act(browser, "discard", "default/work")["operation"]
    usual = operation_kinds.DeadMessages.part

    def part_once_cancelled(self: Any, operation: Operation, *args: Any) -> Any:
        part = usual(self, operation, *args)
        assert not operation.done or act(browser, "cancel", key, section="operations")["text"].startswith(
            "Can"
        )
        return part

    monkeypatch.setattr(operation_kinds.DeadMessages, "part", part_once_cancelled)
    drain(CHANNEL)
    operation = Operation.objects.get()
    assert operation.is_cancelled and operation.done == 2 and len(dead_on(layer, "work")) == 3
    assert act(browser, "cancel", key, section="operations")["text"] == "It had ended already."


# -- what the filters mean, and whoever is quicker ---------------------------------------------------------------------


def test_cancel_means_the_messages_of_that_state_that_were_there(layer: DurableLayer) -> None:
    root = operator("cancel_message")
    ready, scheduled, claimed = (
        layer.enqueue([Message("work", {"n": n}, delay=delay) for n in range(2)]) for delay in (0, 900, 0)
    )
    kept = {claim.id for claim in layer.claim("w", {"work": 2}, 60.0).claims}
    assert act(root, "cancel", "default/work", state="ready")["status"] == 200
    late = layer.enqueue([Message("work", {})])
    drain(CHANNEL)
    waiting = {m.id for m in waiting_on(layer, "work")}
    assert waiting == {*scheduled, *late} and layer.existing_ids("work", [*ready, *claimed]) == kept
    assert act(root, "cancel", "default/work", at=str(time.time() - 3600))["status"] == 200
    drain(CHANNEL)
    assert {m.id for m in waiting_on(layer, "work")} == {*scheduled, *late}  # none was there an hour ago
    act(root, "cancel", "default/work", ids=f"{scheduled[0]} {next(iter(kept))}")
    assert {m.id for m in waiting_on(layer, "work")} == {scheduled[1], *late}
    assert (Operation.objects.latest("pk").done, Operation.objects.latest("pk").left) == (1, 1)


def test_all_that_a_search_finds_is_meant(layer: DurableLayer) -> None:
    root = operator("discard_message")
    for channel in ("work", "Workshop", "other"):
        bury(layer, 2, channel=channel)
    act(root, "discard", scope="all", q="WORK", section="channels")
    drain(CHANNEL)
    assert [len(dead_on(layer, name)) for name in ("work", "Workshop", "other")] == [0, 0, 2]
    assert Operation.objects.get().total == Operation.objects.get().done == 4


# -- a worker that is killed -------------------------------------------------------------------------------------------


def test_whoever_goes_on_after_a_kill_does_nothing_twice(
    storage: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill at each place where something is stored: before the part, behind it, and when its outcome is stored."""
    monkeypatch.setattr(operation_kinds, "MESSAGES_PER_PART", 2)
    ids = bury(storage, 7)
    key = act(operator("requeue_message"), "requeue", "default/work")["operation"]
    usual = operation_kinds.DeadMessages.carry_out
    kills = iter(["before", "behind", "", "behind", "before"])

    def carry_out_and_die(self: Any, *args: Any) -> Any:
        kill = next(kills, "")
        done = None if kill == "before" else usual(self, *args)
        if kill:
            raise Killed
        return done

    monkeypatch.setattr(operation_kinds.DeadMessages, "carry_out", carry_out_and_die)
    ran: list[UUID] = []
    for _ in range(9):
        with suppress(Killed):
            operation_runs.run(UUID(key))
        for claim in storage.claim("w", {"work": 10}, 60.0).claims:  # they run at once, and die again
            ran.append(claim.id)
            storage.bury(claim, "ValueError: again")
    operation = Operation.objects.get()
    assert sorted(ran) == sorted(ids) and operation.ended_at is not None
    assert (operation.done, operation.left) == (7, 0)


class Killed(BaseException):
    """End a run as a kill does: nothing behind it runs."""


def test_records_are_kept_for_as_long_as_the_history(layer: DurableLayer) -> None:
    browser = operator()
    for name in ("old", "new"):
        act(browser, "pause", f"default/{name}")
    Operation.objects.filter(units=[["default", "old"]]).update(ended_at=timezone.now() - timedelta(days=15))
    prune_operations()
    assert [operation.units for operation in Operation.objects.all()] == [[["default", "new"]]]


def test_a_message_that_a_layer_has_lost_is_sent_again(layer: DurableLayer) -> None:
    bury(layer, 2)
    act(operator("requeue_message"), "requeue", "default/work")
    layer.cancel(CHANNEL, [m.id for m in waiting_on(layer, CHANNEL)])
    call_command("channels", "reconcile", "--older-than", "0", stdout=StringIO())
    drain(CHANNEL)
    assert len(waiting_on(layer, "work")) == 2


def test_a_layer_that_is_down_is_told_to_whoever_asks_and_nothing_is_done_later(settings: Any) -> None:
    config = {"hosts": [f"redis://127.0.0.1:{free_port()}"]}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"},
        "down": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": config},
    }
    browser = operator("requeue_message")
    answer = act(browser, "pause", "down/work")
    assert answer["status"] == 400 and "127.0.0.1" in answer["text"]
    assert Operation.objects.get().ended_at is not None
    assert act(browser, "requeue", "down/work")["status"] == 400
    assert Operation.objects.count() == 1
