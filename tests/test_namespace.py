"""Two projects with namespaces, and one without, on one database or server: none has anything to do with another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from mailrail import Channel
from mailrail.layers import DatabaseChannelLayer, DurableLayer, RedisChannelLayer, get_layer
from mailrail.messages import Message, Rate, id_of_content
from mailrail.namespace import Qualified

from .listed import dead_on, get_one, get_one_dead, waiting_on

NAMES = ("", "shop", "forum")
TABLES = {
    "mailrail_message": "channel",
    "mailrail_dead": "channel",
    "mailrail_pause": "channel",
    "mailrail_bucket": "name",
    "mailrail_worker": "id",
}
STORES = [
    pytest.param("default", id="sqlite", marks=pytest.mark.django_db(transaction=True)),
    pytest.param(
        "postgres", id="postgres", marks=pytest.mark.django_db(transaction=True, databases=["postgres"])
    ),
    "redis",
]
Make = Callable[[str], DurableLayer]


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, settings: Any) -> Make:
    """The layer of the project with a namespace."""
    url = request.getfixturevalue("valkey").url if request.param == "redis" else ""

    def layer(name: str) -> DurableLayer:
        with override_settings(MAILRAIL={"NAMESPACE": name}):
            return RedisChannelLayer([url]) if url else DatabaseChannelLayer(using=request.param)

    return layer


def use(layer: DurableLayer, of: str) -> None:
    """Leave something of every kind behind: ready, claimed, in a lane, with a key, scheduled, dead, paused."""
    sent = [
        Message("work", {"of": of, "n": 1}, key="k"),
        Message("work", {"of": of, "n": 2}, lane="l"),
        Message("work", {"of": of, "n": 3}, delay=1000.0),
        Message("dead", {"of": of, "n": 4}),
    ]
    layer.enqueue(sent)
    [dead] = layer.claim("w", {"dead": 9}, {"dead": 15.0}).claims
    assert layer.bury(dead, f"Traceback (most recent call last):\nValueError: of {of}") == []
    layer.pause(f"paused-{of or 'none'}")
    layer.heartbeat("w", {"of": of})
    assert layer.take("bucket", 1, Rate(1, 1000)).granted == 1


def contents(layer: DurableLayer) -> set[Any]:
    """Whose messages are seen in any of the ways to look."""
    channels = layer.list_channels()
    listed = [*layer.list_messages(channels, 99), *layer.list_messages(channels, 99, "dead")]
    found = [get_one(layer, summary.channel, summary.id) for summary in listed if summary.state != "dead"]
    dead = [get_one_dead(layer, summary.channel, summary.id) for summary in listed if summary.state == "dead"]
    messages = [
        *waiting_on(layer, "work"),
        *(each.message for each in dead_on(layer, "dead")),
        *(each for each in found if each),
        *(each.message for each in dead if each),
    ]
    assert {message.channel for message in messages} == {"work", "dead"}
    assert layer.existing_ids("work", [message.id for message in messages]) == {
        each.id for each in waiting_on(layer, "work")
    }
    return {message.content["of"] for message in messages}


def test_projects_see_count_and_claim_nothing_of_each_other(make: Make) -> None:
    layers = {name: make(name) for name in NAMES}
    for name, layer in layers.items():
        use(layer, name)
    for name, layer in layers.items():
        assert contents(layer) == {name}
        assert layer.list_channels() == ["dead", f"paused-{name or 'none'}", "work"]
        assert set(layer.stats()) == set(layer.list_channels())
        stats = layer.stats()["work"]
        assert (stats.ready, stats.scheduled, stats.claimed) == (2, 1, 0) and layer.stats()["dead"].dead == 1
        assert [(worker.id, worker.info) for worker in layer.workers()] == [("w", {"of": name})]
        assert layer.error_classes(["dead"]) == ["ValueError"]
        assert layer.take("bucket", 1, Rate(1, 1000)).granted == 0
    for name, layer in layers.items():
        claims = layer.claim("w", {"work": 9}, 15.0).claims
        assert sorted(claim.content["n"] for claim in claims) == [1, 2]
        assert {(claim.content["of"], claim.worker) for claim in claims} == {(name, "w")}
        assert layer.stats()["work"].claimed == 2
        assert layer.renew(claims, {"work": 15.0}) == [] and layer.finish(claims) == []
        assert layer.finish(claims) == claims  # they are lost now, and told as they were given
        assert (layer.poll(["work"]) or 0) > 900
    for layer in layers.values():
        layer.stop_listening()


def test_nothing_done_to_messages_reaches_those_of_another_project(make: Make) -> None:
    shop, forum = make("shop"), make("forum")
    use(forum, "forum")
    [later] = [each for each in waiting_on(forum, "work") if each.content["n"] == 3]
    [dead] = dead_on(forum, "dead")
    assert shop.cancel("work", [later.id]) == []
    assert shop.requeue("dead", [dead.message.id]) == shop.discard("dead", [dead.message.id]) == []
    assert get_one(shop, "work", later.id) is None and get_one_dead(shop, "dead", dead.message.id) is None
    assert shop.claim("w", {"work": 9, "dead": 9}, 15.0).claims == []
    assert shop.poll(["work"]) is None
    shop.pause("work")
    assert len(forum.claim("w", {"work": 9}, 15.0).claims) == 2  # only shop's channel is paused
    shop.resume("paused-forum")
    assert forum.stats()["paused-forum"].paused
    shop.heartbeat("w", None)
    assert len(forum.workers()) == 1 and shop.workers() == []


def test_no_verb_stores_a_name_without_its_namespace(make: Make, request: pytest.FixtureRequest) -> None:
    layer = make("shop")
    use(layer, "shop")
    layer.claim("w", {"work": 1}, 15.0)
    if isinstance(layer, RedisChannelLayer):
        with request.getfixturevalue("valkey").client() as client:
            keys = client.keys("*")
            assert keys and all(b":asgi/shop" in key for key in keys)
        return
    with connections[layer.using].cursor() as cursor:
        for table, column in TABLES.items():
            cursor.execute(f"SELECT {column} FROM {table}")
            stored = [name for (name,) in cursor.fetchall()]
            assert stored and all(name.startswith(":shop:") for name in stored), table


def test_a_name_of_a_table_is_no_channel(make: Make) -> None:
    for name in NAMES:
        layer = make(name)
        for wrong in (":shop:work", "shop/work", Qualified("shop:work") + ""):
            with pytest.raises(ValueError, match="channel name"):
                layer.enqueue([Message(wrong, {})])
    with pytest.raises(ValueError, match="channel name"):
        Channel(":shop:work")


def test_the_same_content_has_another_id_in_another_project(settings: Any) -> None:
    ids = set()
    for name in NAMES:
        settings.MAILRAIL = {"NAMESPACE": name}
        ids.add(id_of_content("invite", {"id": 7}))
    assert len(ids) == 3


@pytest.mark.django_db(transaction=True)
def test_the_layer_of_the_settings_follows_the_namespace(settings: Any) -> None:
    for name in ("shop", "", "forum"):
        settings.MAILRAIL = {"NAMESPACE": name}
        assert get_layer().namespace == name
        Channel("work").send({"of": name}, unique=True)
        assert [each.content for each in waiting_on(get_layer(), "work")] == [{"of": name}]


@pytest.mark.django_db(transaction=True, databases=["default"])
def test_the_outbox_of_a_project_is_relayed_by_that_project_alone(settings: Any, valkey: Any) -> None:
    layers: list[Any] = []
    for name in ("shop", "forum"):
        with override_settings(MAILRAIL={"NAMESPACE": name}):
            layers.append(RedisChannelLayer([valkey.url], outbox=True))
    shop, forum = layers
    message = Message("work", {"of": "forum"})
    forum.outbox.store.enqueue([forum.outbox._row_of(message, forum.outbox.channel)])
    assert not shop.outbox.is_due and shop.outbox.relay() == 0 and shop.outbox.stats() == {}
    assert forum.outbox.relay() == 1 and shop.list_channels() == []
    assert [each.id for each in waiting_on(forum, "work")] == [message.id]
