"""What PostgreSQL's planner makes of the admin's pages, of mailq and of retention: nothing reads or sorts the table.

Each page is asked for from a table of 200,000 emails. The statements it sent are carried out again with EXPLAIN, and
the rows that they touch are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mailrail import reconciliation
from mailrail.keyset_admin import MAX_SORTED_ROWS, SCAN_WINDOW_ROWS
from mailrail.layers import get_layer
from mailrail.mail import health
from mailrail.mail.models import Email
from mailrail.mail.records import erasure, overview, retention
from mailrail.reconciliation import ScanPosition, reconcilers
from mailrail.routing import Routing

from ..plans import plan_of, rows
from .many import empty, fill, id_of, message_id_of

pytestmark = [
    pytest.mark.django_db(databases=["default", "postgres"]),
    pytest.mark.usefixtures("table", "elsewhere_than_default"),
]

COUNT = 200_000
PAGE = 500
"""Rows that a page reads which an index finds: 100, one more, and some for finding them."""
LIST, SUPPRESSIONS = "/admin/mailrail_mail/email/", "/admin/mailrail_mail/suppression/"
INDEXED = {
    "newest": {},
    "further": {"behind": str(id_of(COUNT // 2))},
    "far": {"behind": str(id_of(50))},
    "by status": {"status": "failed"},
    "by status, none": {"status": "expired"},
    "by status, further": {"status": "sent", "behind": str(id_of(1000))},
    "about one": {"about": "shop.order:77"},
    "by key": {"q": "order-77"},
    "by id": {"q": str(id_of(77))},
}
WINDOWED = {
    "by mailer": {"mailer": "rare"},
    "by tag": {"tag": "unique"},
    "by tag and status": {"tag": "order", "status": "failed"},
    "about a common one": {"about": "shop.shop:1"},
    "by recipient": {"q": "customer77@"},
    "by subject and status": {"q": "order 77 is", "status": "sent"},
    "by tag and an empty status": {"tag": "order", "status": "expired"},
    "by nothing": {"q": "no such thing", "behind": str(id_of(COUNT // 2))},
}


@pytest.fixture(scope="module")
def table(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        fill(cursor, COUNT)
        cursor.execute("VACUUM ANALYZE mailrail_mail_email")
        yield
        empty(cursor)


@pytest.fixture
def elsewhere_than_default(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]


def nodes_of(act: Callable[[], Any]) -> list[dict[str, Any]]:
    """Of all that was asked of the table of emails, and of the suppression list."""
    with CaptureQueriesContext(connections["postgres"]) as captured:
        act()
    statements = [query["sql"] for query in captured if query["sql"].startswith("SELECT")]
    assert statements
    with connections["postgres"].cursor() as cursor:
        return [node for sql in statements for node in plan_of(cursor, sql)]


def check(nodes: list[dict[str, Any]], most: int) -> None:
    tables = ("mailrail_mail_email", "mailrail_mail_suppression")
    touched = [n for n in nodes if n.get("Relation Name") in tables and "Scan" in n["Node Type"]]
    assert touched
    assert not [n for n in touched if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
    assert sum(map(rows, touched)) <= most, touched
    sorts = [n for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort")]
    assert all(n["Actual Rows"] * n["Actual Loops"] <= MAX_SORTED_ROWS + 1 for n in sorts), sorts


@pytest.mark.parametrize("query", INDEXED.values(), ids=INDEXED)
def test_a_page_reads_what_it_shows(admin_client: Client, query: dict[str, str]) -> None:
    def get() -> None:
        shown = admin_client.get(LIST, query).context["cl"]
        assert bool(shown.result_list) == (query != {"status": "expired"})
        assert not shown.is_windowed

    check(nodes_of(get), PAGE)


def test_a_message_id_is_found_by_its_index(admin_client: Client) -> None:
    with connections["postgres"].cursor() as cursor:
        name = message_id_of(cursor, 77)

    def get() -> None:
        [found] = admin_client.get(LIST, {"q": name}).context["cl"].result_list
        assert found.pk == id_of(77)

    nodes = nodes_of(get)
    check(nodes, PAGE)
    assert "mailrail_mail_message_id" in {node.get("Index Name") for node in nodes}


@pytest.mark.parametrize("query", WINDOWED.values(), ids=WINDOWED)
def test_what_no_index_finds_is_looked_for_in_a_window(admin_client: Client, query: dict[str, str]) -> None:
    def get() -> None:
        assert admin_client.get(LIST, query).context["cl"].is_windowed

    check(nodes_of(get), 2 * SCAN_WINDOW_ROWS + MAX_SORTED_ROWS + PAGE)


def test_the_page_of_an_email_reads_that_one(admin_client: Client) -> None:
    check(nodes_of(lambda: admin_client.get(f"{LIST}{id_of(77)}/change/")), 10)


@pytest.mark.parametrize("query", [{}, {"behind": "gone5"}, {"q": "gone77"}, {"q": "nobody@"}], ids=str)
def test_the_suppression_list_is_read_by_its_key(admin_client: Client, query: dict[str, str]) -> None:
    # of those found by a prefix, all are sorted: 1,111 begin with gone77
    check(
        nodes_of(lambda: admin_client.get(SUPPRESSIONS, query)), PAGE if query.get("q") != "gone77" else 2500
    )


def test_mailq_counts_no_more_than_it_says() -> None:
    counted = overview.MAX_COUNTED + 1
    check(nodes_of(lambda: overview.waiting("postgres")), 4 * 3 * counted)
    check(nodes_of(lambda: overview.ended("postgres")), 5 * counted)
    failed_last = nodes_of(lambda: overview.failures("postgres"))
    check(failed_last, PAGE)
    assert "mailrail_mail_failed" in {node.get("Index Name") for node in failed_last}
    check(nodes_of(lambda: overview.deferrals("postgres")), 3 * counted)
    check(nodes_of(lambda: overview.failures("postgres", "rare")), 2 * counted)


def test_whether_mail_is_in_time_is_asked_of_the_oldest_that_are_queued(settings: Any) -> None:
    check(nodes_of(lambda: list(health.mail_in_time(60.0))), 3 * overview.MAX_COUNTED)
    fresh = nodes_of(lambda: list(health.mail_in_time(10 * 365 * 86400.0)))
    check(fresh, 10)


@pytest.mark.parametrize("name", ["queued", "sending"])
@pytest.mark.parametrize(
    "place", [ScanPosition(), ScanPosition(id_of(COUNT - 5000))], ids=["from the first", "further"]
)
def test_reconciliation_reads_a_page_at_a_time(name: str, place: ScanPosition) -> None:
    """The second look, at those whose message is missing, included."""
    Routing.of_layer()
    [of_mail] = [it for it in reconcilers(get_layer()) if it.name == f"mailrail.mail.consumers.{name}"]
    pages = iter([True, False])
    nodes = nodes_of(lambda: of_mail.run(go_on=lambda: next(pages), place=place))
    check(nodes, 3 * reconciliation.PAGE_SIZE)
    used = {node.get("Index Name") for node in nodes}
    assert ("mailrail_mail_queued" if name == "queued" else "mailrail_mail_status") in used


def test_retention_reads_a_chunk_at_a_time() -> None:
    before = datetime.fromtimestamp(1700000000, UTC) + timedelta(seconds=1000)
    first_bodies = nodes_of(lambda: next(retention.prune_bodies(before, "postgres")))
    check(first_bodies, 4 * retention.CHUNK_SIZE)
    assert "mailrail_mail_has_content" in {node.get("Index Name") for node in first_bodies}
    check(nodes_of(lambda: next(retention.prune_records(before, "postgres"))), 6 * retention.CHUNK_SIZE)
    assert (
        not Email.objects.using("postgres").filter(status="sent", emptied_at=None, pk__lt=id_of(400)).exists()
    )


def test_erasure_reads_a_page_at_a_time() -> None:
    pages = erasure.find("customer77@example.com", "postgres")
    check(nodes_of(lambda: list(islice(pages, 1))), 2 * erasure.PAGE_SIZE + erasure.PER_TRANSACTION)
