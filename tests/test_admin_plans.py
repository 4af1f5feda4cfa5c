"""What PostgreSQL's planner makes of the admin's pages of messages: nothing reads, sorts or counts the tables.

Each page is asked for from tables of 100,000 messages. The statements it sent are carried out again with EXPLAIN, and
the rows that they touch are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mailrail.admin.waiting import MAX_COUNTED
from mailrail.layers import DurableLayer, get_layer
from mailrail.layers.store import WINDOW

from .many_messages import COMMON, FEW, RARE, channel_of, dead_id, empty, fill, waiting_id
from .plans import plan_of, rows

pytestmark = [
    pytest.mark.django_db(databases=["default", "postgres"]),
    pytest.mark.usefixtures("tables", "postgres_layer"),
]

COUNT = 100_000
SHOWN = 51
LEVELS = 20 * 2 + 20
"""Channels and priorities in use, and the channels once more for what is behind others of its lane."""
JUMPS = 400
"""Rows that are read to find channels, priorities and classes of errors."""
DEAD, WAITING = "/admin/mailrail/buriedmessage/", "/admin/mailrail/storedmessage/"
FIRST = {"channel": "c01"}
OF_ONE, OF_ALL = 4 * SHOWN + JUMPS, (LEVELS + 1) * SHOWN + JUMPS
DEAD_PAGES: dict[str, tuple[dict[str, str], int]] = {
    "all": ({}, OF_ALL),
    "of a channel": (FIRST, OF_ONE),
    "of a rare error": ({"error": RARE}, OF_ONE),
    "of a common error": ({"error": COMMON}, OF_ALL),
    "of an error in a channel": ({"error": "shop.errors.E3", **FIRST}, OF_ONE),
    "of no such error": ({"error": "Unheard", **FIRST}, OF_ONE),
    "further": ({"behind": f"1700016000.0_{dead_id(48_000)}"}, OF_ALL),
    "further, of a common error": ({"behind": f"1700016000.0_{dead_id(48_000)}", "error": COMMON}, OF_ALL),
}
WAITING_PAGES: dict[str, tuple[dict[str, str], int]] = {
    "ready": ({"state": "ready"}, OF_ALL),
    "ready in a channel": ({"state": "ready", **FIRST}, OF_ONE),
    "scheduled": ({"state": "scheduled"}, OF_ALL + COUNT // 100),
    "scheduled in a channel": ({"state": "scheduled", **FIRST}, OF_ONE + COUNT // 100),
    "claimed": ({"state": "claimed"}, WINDOW * 2 + OF_ALL),
    "claimed in a channel": ({"state": "claimed", **FIRST}, WINDOW * 2 + OF_ONE),
    "in a channel": (FIRST, OF_ONE),
    "in a channel with lanes": ({"channel": "c00"}, OF_ONE),
    "further": ({"behind": f"100.0_{waiting_id(1)}"}, OF_ALL),
}


@pytest.fixture(scope="module")
def tables(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        fill(cursor, COUNT)
        cursor.execute("VACUUM mailrail_message, mailrail_dead")
        yield
        empty(cursor)


@pytest.fixture
def postgres_layer(settings: Any) -> Iterator[DurableLayer]:
    """The layer of the settings, on the connection of the test."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
    }
    yield get_layer()
    get_layer().stop_listening()


def nodes_of(client: Client, url: str, query: dict[str, str]) -> tuple[Any, list[dict[str, Any]]]:
    """The response, and the nodes of the plans of all that was asked of the layer's database."""
    with CaptureQueriesContext(connections["postgres"]) as captured:
        response = client.get(url, query)
    statements = [query["sql"] for query in captured if "EXPLAIN" not in query["sql"]]
    assert response.status_code == 200 and statements
    with connections["postgres"].cursor() as cursor:
        return response, [node for sql in statements for node in plan_of(cursor, sql)]


def check(nodes: list[dict[str, Any]], most: int) -> None:
    tables = ("mailrail_message", "mailrail_dead")
    touched = [n for n in nodes if n.get("Relation Name") in tables and "Scan" in n["Node Type"]]
    assert touched
    assert not [n for n in touched if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
    assert sum(map(rows, touched)) <= most, [
        (n.get("Index Name"), rows(n)) for n in touched if rows(n) > SHOWN
    ]
    sorts = [n for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort")]
    assert all(n["Actual Rows"] * n["Actual Loops"] <= most for n in sorts), sorts


@pytest.mark.parametrize(("query", "most"), DEAD_PAGES.values(), ids=DEAD_PAGES)
def test_a_page_of_dead_messages_reads_what_it_shows(
    admin_client: Client, query: dict[str, str], most: int
) -> None:
    response, nodes = nodes_of(admin_client, DEAD, query)
    shown = len(response.context["cl"].result_list)
    assert shown == {RARE: FEW, "Unheard": 0}.get(query.get("error", ""), 50)
    check(nodes, most)
    if "error" in query:
        assert "mailrail_dead_class" in {n.get("Index Name") for n in nodes}


@pytest.mark.parametrize(("query", "most"), WAITING_PAGES.values(), ids=WAITING_PAGES)
def test_a_page_of_what_waits_reads_what_it_shows(
    admin_client: Client, query: dict[str, str], most: int
) -> None:
    response, nodes = nodes_of(admin_client, WAITING, query)
    assert len(response.context["cl"].result_list) == 50
    check(nodes, most)


def test_how_the_channels_stand_is_counted_no_further_than_it_says(admin_client: Client) -> None:
    response, nodes = nodes_of(admin_client, WAITING, {})
    counts = {row["channel"]: row for row in response.context["channel_counts"]}
    assert counts["c01"]["ready"].startswith("≈") and counts["c01"]["dead"].startswith("≈")
    check(nodes, (LEVELS * 2 + 20) * (MAX_COUNTED + 1) + OF_ALL)


def test_the_page_of_a_message_reads_that_one(admin_client: Client) -> None:
    for url, id in ((DEAD, dead_id(77)), (WAITING, waiting_id(77))):
        address = quote(f"default/{channel_of(77)}/{id}")
        check(nodes_of(admin_client, f"{url}{address}/change/", {})[1], 2)


def test_decisions_read_what_they_are_about(postgres_layer: DurableLayer) -> None:
    with CaptureQueriesContext(connections["postgres"]) as captured:
        assert postgres_layer.requeue(channel_of(78), [dead_id(78)]) == [dead_id(78)]
        assert postgres_layer.discard(channel_of(79), [dead_id(79)]) == [dead_id(79)]
        assert postgres_layer.cancel(channel_of(90_001), [waiting_id(90_001)]) == [waiting_id(90_001)]
    with connections["postgres"].cursor() as cursor:
        statements = [
            query["sql"] for query in captured if "mailrail_" in query["sql"] and "LOCK" not in query["sql"]
        ]
        check([node for sql in statements for node in plan_of(cursor, sql)], 10)
