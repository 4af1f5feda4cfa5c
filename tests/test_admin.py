"""The admin of messages, on every layer: what it shows, to whom, and what it lets people decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client

from mailrail.admin import pages, sources
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Message

from .layers.test_inspection import bury, claim, raised
from .listed import get_one, get_one_dead

DEAD, WAITING = "/admin/mailrail/buriedmessage/", "/admin/mailrail/storedmessage/"
EVIL = "<script>alert(1)</script>"
LAYERS = {
    "memory": "InMemoryChannelLayer",
    "redis": "RedisChannelLayer",
    "redis-cluster": "RedisChannelLayer",
}

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis", "redis-cluster"])
def layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    """The project's layer. Users and the admin's log are on SQLite."""
    config: dict[str, Any] = {}
    if request.param == "postgres":
        config = {"using": "postgres"}
    elif request.param == "redis":
        config = {"hosts": [request.getfixturevalue("valkey").url]}
    elif request.param == "redis-cluster":
        config = {"hosts": request.getfixturevalue("valkey_cluster").urls[:2], "cluster": True}
    backend = f"mailrail.layers.{LAYERS.get(request.param, 'DatabaseChannelLayer')}"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
    yield get_layer()
    get_layer().stop_listening()


@pytest.fixture
def on_sqlite(settings: Any) -> DurableLayer:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
    return get_layer()


@pytest.fixture
def staff(admin_client: Client) -> Client:
    return admin_client


def colleague(client: Client, *permissions: str) -> Client:
    user = User.objects.create_user("colleague", is_staff=True)
    wanted = Permission.objects.filter(codename__in=permissions)
    assert len(wanted) == len(permissions)
    user.user_permissions.set(wanted)
    client.force_login(user)
    return client


def address(id: Any, channel: str = "work", source: str = "default") -> str:
    return f"{source}/{channel}/{id}"


def page(list: str, id: Any, channel: str = "work", name: str = "change") -> str:
    return f"{list}{quote(address(id, channel))}/{name}/"


def ids(response: Any) -> list[Any]:
    return [row.listed.id for row in response.context["cl"].result_list]


def act(client: Client, url: str, action: str, *addresses: str, **more: str) -> Any:
    return client.post(url, {"action": action, "_selected_action": addresses, "index": "0", **more})


# -- the lists --------------------------------------------------------------------------------------------------------


def test_dead_messages_are_listed_with_what_they_died_of(layer: DurableLayer, staff: Client) -> None:
    first = bury(layer, raised(ValueError(EVIL)), n=EVIL)
    second = bury(layer, raised(KeyError("k")), "other")
    response = staff.get(DEAD)
    assert ids(response) == [second, first]
    assert EVIL not in response.text and "&lt;script&gt;" in response.text
    assert "ValueError" in response.text and "other" in response.text
    assert ids(staff.get(DEAD, {"channel": "work"})) == [first]
    assert ids(staff.get(DEAD, {"error": "KeyError"})) == [second]
    assert ids(staff.get(DEAD, {"channel": "work", "error": "KeyError"})) == []
    assert ids(staff.get(DEAD, {"error": "-"})) == []
    assert ids(staff.get(DEAD, {"channel": "no such name!"})) == []


def test_what_waits_is_listed_with_when_and_by_whom(layer: DurableLayer, staff: Client) -> None:
    running = Message("work", {})
    layer.enqueue([running])
    claim(layer)
    later, ready = Message("other", {"id": 77}, delay=100.0), Message("work", {}, priority=3)
    layer.enqueue([later]), layer.enqueue([ready])
    layer.pause("other", by="ada", reason="the \u202ebooks")
    response = staff.get(WAITING)
    assert ids(response) == [ready.id, running.id, later.id]
    assert "w1" in response.text and "{&quot;id&quot;:77}" in response.text
    counts = {row["channel"]: row for row in response.context["channel_counts"]}
    assert (counts["work"]["ready"], counts["work"]["claimed"], counts["other"]["scheduled"]) == (
        "1",
        "1",
        "1",
    )
    assert counts["other"]["paused"] and not counts["work"]["paused"]
    assert re.search(r"paused since .* by ada: the \\u202ebooks", response.text)
    for state, id in (("ready", ready.id), ("claimed", running.id), ("scheduled", later.id)):
        shown = staff.get(WAITING, {"state": state})
        assert ids(shown) == [id] and shown.context["channel_counts"] == []
    assert ids(staff.get(WAITING, {"channel": "other", "state": "ready"})) == []


@pytest.mark.parametrize("url", [DEAD, WAITING])
def test_pages_follow_by_place(
    layer: DurableLayer, staff: Client, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages.LayerAdmin, "list_per_page", 2)
    layer.enqueue([Message("ab"[n % 2], {"n": n}) for n in range(5)])
    if url == DEAD:
        for channel in "ab":
            for claimed in claim(layer, channel=channel):
                layer.bury(claimed, "boom")
    seen, where = [], url
    while True:
        response = staff.get(where)
        seen.append(ids(response))
        if response.context["cl"].next_page is None:
            break
        where = url + response.context["cl"].next_page
    assert [len(each) for each in seen] == [2, 2, 1]
    assert len({id for each in seen for id in each}) == 5
    assert ids(staff.get(url + response.context["cl"].first_page)) == seen[0]
    assert ids(staff.get(url, {"behind": "nonsense", "o": "1", "p": "7", "all": ""})) == seen[0]


# -- one message ------------------------------------------------------------------------------------------------------


def test_the_page_of_a_dead_message_tells_everything(layer: DurableLayer, staff: Client) -> None:
    error = raised(ValueError(f"the end {EVIL}"))
    id = bury(layer, error, who=EVIL)
    text = staff.get(page(DEAD, id)).text
    assert EVIL not in text and "&quot;who&quot;: &quot;&lt;script&gt;" in text
    assert "Traceback (most recent call last):" in text and "the end &lt;script&gt;" in text
    assert 'value="requeue"' in text and 'value="discard"' in text


def test_the_page_of_a_waiting_message_tells_everything(layer: DurableLayer, staff: Client) -> None:
    message = Message("work", {"a": [1]}, headers={"tenant": "t9"}, lane="lane-1", key="key-1", delay=60.0)
    layer.enqueue([message])
    text = staff.get(page(WAITING, message.id)).text
    for shown in ("lane-1", "key-1", "&quot;tenant&quot;: &quot;t9&quot;", 'value="cancel"'):
        assert shown in text, shown


def test_a_large_message_is_cut_until_it_is_asked_for(layer: DurableLayer, staff: Client) -> None:
    large = {"first": EVIL, "text": "é" * 500_000, "last": "the-end"}
    id = bury(layer, "x" * 100_000 + " the reason", **large)
    assert len(staff.get(DEAD).content) < 50_000
    text = staff.get(page(DEAD, id)).text
    assert len(text) < 100_000 and "the reason" in text and "the-end" not in text
    assert "characters are left out" in text
    whole = staff.get(page(DEAD, id), {"whole": ""}).text
    assert "the-end" in whole and "é" * 500_000 in whole and EVIL not in whole


# -- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["requeue", "discard"])
def test_dead_messages_are_decided_about_after_a_question(
    layer: DurableLayer, staff: Client, verb: str
) -> None:
    one, other = bury(layer, "boom"), bury(layer, "boom", "other")
    chosen = [address(one), address(other, "other")]
    asked = act(staff, DEAD, verb, *chosen)
    assert "csrfmiddlewaretoken" in asked.text and str(one) in asked.text and "sure" in asked.text
    assert len(layer.list_messages(["work", "other"], 5, "dead")) == 2 and not LogEntry.objects.exists()
    answer = {"action": verb, "_selected_action": chosen, "post": "yes"}
    done = staff.post(DEAD + "?channel=", answer, follow=True)
    said = {"requeue": "2 messages were sent again.", "discard": "2 messages were discarded."}
    assert said[verb] in done.text and layer.list_messages(["work", "other"], 5, "dead") == []
    assert len(layer.list_messages(["work", "other"], 5)) == (2 if verb == "requeue" else 0)
    entries = {entry.object_id: entry for entry in LogEntry.objects.all()}
    assert entries.keys() == set(chosen)
    assert entries[chosen[0]].object_repr == f"work {one}" and entries[chosen[0]].user.username == "admin"


def test_what_is_gone_meanwhile_is_told_and_not_logged(layer: DurableLayer, staff: Client) -> None:
    gone, kept = bury(layer, "boom"), bury(layer, "boom")
    layer.requeue("work", [gone])
    answer = {"action": "requeue", "_selected_action": [address(gone), address(kept)], "post": "yes"}
    text = staff.post(DEAD, answer, follow=True).text
    assert "1 message was sent again." in text and "1 message is not dead any more" in text
    assert [entry.object_id for entry in LogEntry.objects.all()] == [address(kept)]
    assert "is not dead any more" in staff.get(page(DEAD, gone), follow=True).text
    assert "does not wait any more" in staff.get(page(WAITING, "0" * 32), follow=True).text


def test_a_button_asks_and_then_decides(layer: DurableLayer, staff: Client) -> None:
    id = bury(layer, "boom")
    url = page(DEAD, id, name="decide")
    assert "sure" in staff.post(url, {"decision": "requeue"}).text
    assert get_one_dead(layer, "work", id)
    text = staff.post(url, {"decision": "requeue", "post": "yes"}, follow=True).text
    assert "1 message was sent again." in text and get_one(layer, "work", id)
    assert staff.post(url, {"decision": "burn"}).status_code == 404
    assert staff.get(url).status_code == 405


def test_what_a_worker_has_claimed_is_not_cancelled(layer: DurableLayer, staff: Client) -> None:
    waiting, running = Message("work", {}, delay=50.0), Message("work", {})
    layer.enqueue([waiting]), layer.enqueue([running])
    [claimed] = claim(layer)
    chosen = [address(waiting.id), address(running.id)]
    text = staff.post(
        WAITING, {"action": "cancel", "_selected_action": chosen, "post": "yes"}, follow=True
    ).text
    assert (
        "1 message was cancelled." in text and "1 message was not cancelled: a worker has claimed it" in text
    )
    assert get_one(layer, "work", waiting.id) is None and layer.finish([claimed]) == []
    assert [entry.object_id for entry in LogEntry.objects.all()] == [address(waiting.id)]


def test_all_of_a_list_cannot_be_chosen(on_sqlite: DurableLayer, staff: Client) -> None:
    id = bury(on_sqlite, "boom")
    answer = {"action": "discard", "_selected_action": [address(id)], "select_across": "1", "post": "yes"}
    assert "Select rows of this page." in staff.post(DEAD, answer, follow=True).text
    assert get_one_dead(on_sqlite, "work", id)


def test_a_decision_and_its_log_are_kept_together_or_not_at_all(
    on_sqlite: DurableLayer, staff: Client
) -> None:
    id = bury(on_sqlite, "boom")
    with connections["default"].cursor() as cursor:
        cursor.execute("ALTER TABLE django_admin_log RENAME TO away")
    try:
        staff.raise_request_exception = False
        answer = {"action": "discard", "_selected_action": [address(id)], "post": "yes"}
        assert staff.post(DEAD, answer).status_code == 500
        assert get_one_dead(on_sqlite, "work", id)
    finally:
        with connections["default"].cursor() as cursor:
            cursor.execute("ALTER TABLE away RENAME TO django_admin_log")


# -- permissions ------------------------------------------------------------------------------------------------------

VIEWS = {DEAD: "view_buriedmessage", WAITING: "view_storedmessage"}
DECISIONS = [(DEAD, "requeue"), (DEAD, "discard"), (WAITING, "cancel")]


@pytest.mark.parametrize("url", [DEAD, WAITING])
def test_who_may_not_view_sees_nothing(on_sqlite: DurableLayer, client: Client, url: str) -> None:
    id = bury(on_sqlite, "boom")
    assert client.get(url).status_code == client.get(page(url, id)).status_code == 302  # to log in
    others = {"requeue_message", "discard_message", "cancel_message", *VIEWS.values()} - {VIEWS[url]}
    colleague(client, *others)
    for where in (url, page(url, id), page(url, id) + "?whole"):
        assert client.get(where).status_code == 403
    for name in ("requeue", "discard", "cancel"):
        if (url, name) in DECISIONS:
            answer = {"decision": name, "post": "yes"}
            assert client.post(page(url, id, name="decide"), answer).status_code == 403
    assert get_one_dead(on_sqlite, "work", id)


@pytest.mark.parametrize(("url", "name"), DECISIONS)
def test_each_decision_needs_its_permission(
    on_sqlite: DurableLayer, client: Client, url: str, name: str
) -> None:
    id = bury(on_sqlite, "boom")
    if url == WAITING:
        on_sqlite.requeue("work", [id])
    others = {"requeue_message", "discard_message", "cancel_message"} - {f"{name}_message"}
    colleague(client, VIEWS[url], *others)
    assert f'value="{name}"' not in client.get(url).text + client.get(page(url, id)).text
    answer = {"decision": name, "post": "yes"}
    assert client.post(page(url, id, name="decide"), answer).status_code == 403
    refused = act(client, url, name, address(id), post="yes")
    assert refused.status_code in (200, 403)  # who may do nothing gets the list again
    assert (get_one_dead if url == DEAD else get_one)(on_sqlite, "work", id)
    User.objects.get(username="colleague").user_permissions.add(
        Permission.objects.get(codename=f"{name}_message")
    )
    assert f'value="{name}"' in client.get(url).text and f'value="{name}"' in client.get(page(url, id)).text
    assert client.post(page(url, id, name="decide"), answer).status_code == 302
    assert (get_one_dead if url == DEAD else get_one)(on_sqlite, "work", id) is None


@pytest.mark.parametrize("url", [DEAD, WAITING])
def test_nobody_makes_changes_or_deletes_messages(on_sqlite: DurableLayer, staff: Client, url: str) -> None:
    id = bury(on_sqlite, "boom")
    assert staff.get(url + "add/").status_code == 403
    assert staff.post(page(url, id, name="delete"), {"post": "yes"}).status_code == 403
    assert "delete_selected" not in staff.get(url).text
    assert act(staff, url, "delete_selected", address(id), post="yes").status_code == 404
    assert get_one_dead(on_sqlite, "work", id)


def test_a_post_from_another_site_decides_nothing(on_sqlite: DurableLayer, admin_user: User) -> None:
    id = bury(on_sqlite, "boom")
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    answer = {"action": "discard", "_selected_action": [address(id)], "post": "yes"}
    assert client.post(DEAD, answer).status_code == 403
    decision = {"decision": "discard", "post": "yes"}
    assert client.post(page(DEAD, id, name="decide"), decision).status_code == 403
    assert get_one_dead(on_sqlite, "work", id)


@pytest.mark.parametrize(
    "name", ["nonsense", "default/jobs/nonsense", "nowhere/jobs/" + "0" * 32, "default/w k/1"]
)
def test_addresses_of_other_hands_do_no_harm(on_sqlite: DurableLayer, staff: Client, name: str) -> None:
    for url in (DEAD, WAITING):
        assert staff.get(f"{url}{quote(name)}/change/").status_code == 404
        decision = {"decision": "cancel" if url == WAITING else "discard", "post": "yes"}
        assert staff.post(f"{url}{quote(name)}/decide/", decision).status_code == 404


@pytest.mark.parametrize("name", ["channel", "layer", "error", "state", "behind"])
def test_filters_of_other_hands_do_no_harm(on_postgres: DurableLayer, staff: Client, name: str) -> None:
    bury(on_postgres, "boom")
    for url in (DEAD, WAITING):
        assert staff.get(url, {name: "\0"}, follow=True).status_code == 200


# -- several layers, and layers that are away -------------------------------------------------------------------------


def test_one_of_several_layers_is_looked_at(settings: Any, staff: Client, valkey: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"},
        "fast": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": [valkey.url], "outbox": True},
        },
        "groups": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }
    here, there = bury(get_layer(), "boom"), bury(get_layer("fast"), "boom")
    text = staff.get(DEAD).text
    assert "?layer=fast" in text and "?layer=fast+outbox" in text and "groups" not in text
    assert ids(staff.get(DEAD)) == [here] and ids(staff.get(DEAD, {"layer": "fast"})) == [there]
    outbox = get_layer("fast").outbox
    assert outbox is not None
    stuck = bury(outbox.store, "cannot be relayed", outbox.channel)
    assert ids(staff.get(DEAD, {"layer": "fast outbox"})) == [stuck]
    name = quote(address(stuck, outbox.channel, "fast outbox"))
    assert "cannot be relayed" in staff.get(f"{DEAD}{name}/change/").text
    answer = {"decision": "discard", "post": "yes"}
    elsewhere = quote(address(here, "work", "fast outbox"))  # in the same table, and not its own
    assert staff.get(f"{DEAD}{elsewhere}/change/").status_code == 404
    assert staff.post(f"{DEAD}{elsewhere}/decide/", answer).status_code == 404
    assert staff.post(f"{DEAD}{name}/decide/", answer).status_code == 302
    assert ids(staff.get(DEAD, {"layer": "fast outbox"})) == []


def test_a_layer_that_is_away_is_told(settings: Any, staff: Client) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1"]},
        }
    }
    for url in (DEAD, WAITING, page(DEAD, "0" * 32)):
        response = staff.get(url, follow=True)
        assert response.status_code == 200 and "cannot be used" in response.text


def test_many_channels_are_typed_in(
    on_sqlite: DurableLayer, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pages, sources, __import__("mailrail.admin.filters", fromlist=["filters"])):
        monkeypatch.setattr(module, "MAX_CHANNELS_LISTED", 3)
    on_sqlite.enqueue([Message(f"c{n}", {}) for n in range(5)])
    response = staff.get(WAITING)
    assert len(ids(response)) == 3 and "first 3 channels only" in response.text
    assert 'name="channel"' in response.text
    assert len(ids(staff.get(WAITING, {"channel": "c4"}))) == 1


def test_the_how_to_names_every_permission(db: None) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs/how-to/admin.md").read_text()
    named = set(re.findall(r"`(mailrail(?:_invitations)?)\.(\w+)`", text))
    ours = {"mailrail": ["buriedmessage", "storedmessage"], "mailrail_invitations": ["invitation"]}
    there = {
        (app, codename)
        for app, models in ours.items()
        for codename in Permission.objects.filter(
            content_type__app_label=app, content_type__model__in=models
        ).values_list("codename", flat=True)
    }
    djangos = {("mailrail_invitations", f"{verb}_invitation") for verb in ("add", "change", "delete")}
    assert named == there - djangos
