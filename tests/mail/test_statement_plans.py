"""What the statements of queueing, delivering, overview and reconciliation touch, beside 200,000 finished emails.

Nearly always, ANALYZE sees a table in which nothing is queued. Statements that look for the status would then walk past
all that was queued since, for each batch. So every statement is carried out in each state of the planner's knowledge,
and the buffers of its plan are counted for each of 500 emails, by auto_explain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from mailrail import reconciliation
from mailrail.layers import get_layer
from mailrail.mail import consumers, health, queue, queue_many
from mailrail.mail.delivery.load import load_records
from mailrail.mail.delivery.outcomes import Result, fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers import failover
from mailrail.mail.models import Email, Status
from mailrail.mail.records import control, flow, moving, overview
from mailrail.mail.records.suppressions import listed
from mailrail.reconciliation import reconcilers
from mailrail.routing import Routing

from ..plans import buffers, flat, rows
from ..processes import ROOT

CHANNEL = "mailrail.mail.default"

pytestmark = [
    pytest.mark.django_db(databases=["default", "postgres"]),
    pytest.mark.usefixtures("mail_on_postgres"),
]

FINISHED = 200_000
QUEUED = 500
GROUP = 10
"""Emails of one statement, as if so many connections came to their final dots together."""
TABLES = ("mailrail_mail_email", "mailrail_message")
FILL = """
INSERT INTO mailrail_mail_email (id, status, message_id, date, created_at, changed_at, sent_at)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
    CASE WHEN n %% 200 = 1 THEN 'failed' ELSE 'sent' END, '<' || n || '@example.com>', at, at, at, at
FROM (SELECT n, to_timestamp(1700000000 + n / 1000.0) AS at FROM generate_series(1, %s) n) AS numbered
"""


@pytest.fixture(scope="module")
def finished(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """ANALYZE sees them before anything is queued."""
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        cursor.execute(FILL, [FINISHED])
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
            # TRUNCATE and ANALYZE of an empty table keep what other tests have left there.
            cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
            cursor.execute(f"VACUUM ANALYZE {table}")
        yield
        cursor.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


@pytest.fixture(scope="module", params=["stale", "absent", "fresh"])
def statistics(finished: None, django_db_blocker: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the planner knows of the tables: that nothing was queued, nothing, or how they are."""
    with django_db_blocker.unblock(), connections["postgres"].cursor() as cursor:
        for table in TABLES:
            if request.param == "absent":
                cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
                cursor.execute(
                    "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = %s::regclass", [table]
                )
        yield


@pytest.fixture
def mail_on_postgres(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    layer = {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
    settings.CHANNEL_LAYERS = {"default": layer}


@pytest.fixture
def emails(statistics: None, request: pytest.FixtureRequest) -> list[Email]:
    """500 emails that are queued; gone with the test's transaction."""
    queued = queue_many([message(n) for n in range(QUEUED)])
    if "fresh" in request.node.name:
        with connections["postgres"].cursor() as cursor:
            cursor.execute(f"ANALYZE {', '.join(TABLES)}")
    return queued


def message(n: int) -> EmailMessage:
    return EmailMessage("Your order", "Thank you.", "shop@example.com", [f"guest{n}@example.com"])


@contextmanager
def explained() -> Iterator[list[list[dict[str, Any]]]]:
    """The plans of all statements, as they were carried out, those past Django's cursor included."""
    connection, plans = connections["postgres"], list[list[dict[str, Any]]]()

    def note(notice: Any) -> None:
        _, _, plan = str(notice.message_primary).partition("plan:\n")
        if plan:
            plans.append(flat(json.loads(plan)["Plan"]))

    with connection.cursor() as cursor:
        cursor.execute("LOAD 'auto_explain'")
        for name in ("log_analyze", "log_buffers", "log_min_duration = 0", "log_format = json"):
            cursor.execute(f"SET LOCAL auto_explain.{name if '=' in name else name + ' = on'}")
        cursor.execute("SET LOCAL client_min_messages = log")
    connection.connection.add_notice_handler(note)
    try:
        yield plans
    finally:
        connection.connection.remove_notice_handler(note)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL auto_explain.log_min_duration = -1")


def check(act: Callable[[], Any], emails: int, most: int, most_rows: float = 4) -> None:
    """``most``: buffers that all statements together may touch for each email; ``most_rows``: rows that may be read."""
    with explained() as plans:
        act()
    assert plans
    scans = [
        node
        for plan in plans
        for node in plan
        if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"]
    ]
    assert sum(map(buffers, plans)) <= most * emails
    assert sum(map(rows, scans)) <= most_rows * emails, [(n.get("Index Name"), rows(n)) for n in scans]


def groups(emails: list[Email]) -> Iterator[list[Email]]:
    return (emails[n : n + GROUP] for n in range(0, len(emails), GROUP))


def deliver(emails: list[Email]) -> None:
    """Write intents and outcomes, each group of these with the intents of the next, often enough for a generic plan."""
    before: list[Email] = []
    for group in [*groups(emails), []]:
        now = timezone.now()
        for email in before:
            email.recipients[0].update(status="sent", code=250, text="Ok")
            email.status, email.sent_at, email.changed_at = Status.SENT, now, now
        assert store_outcomes([Result(email, Status.SENT) for email in before], group, "postgres") == set()
        before = group


def test_intents_and_outcomes(emails: list[Email]) -> None:
    loaded = load_records([email.pk for email in emails], "postgres")[0]
    check(lambda: deliver(loaded), QUEUED, 55)
    assert (
        Email.objects.using("postgres").filter(pk__in=[email.pk for email in loaded], status="sent").count()
        == QUEUED
    )


def test_queueing(emails: list[Email]) -> None:
    messages = [message(n) for n in range(GROUP)]
    check(lambda: [queue(each) for each in messages], GROUP, 60)
    check(lambda: queue_many([message(n) for n in range(QUEUED)]), QUEUED, 30)
    for _ in ("new", "known"):
        check(lambda: [queue(each, key=each.to[0]) for each in messages], GROUP, 60)


def test_claiming_and_loading(emails: list[Email]) -> None:
    claimed: list[Any] = []
    claim = lambda: claimed.extend(get_layer().claim("w", {CHANNEL: 200}, 15.0).claims)  # noqa: E731
    check(claim, 200, 40)
    ids = [UUID(each.content["id"]) for each in claimed]
    assert len(ids) == 200
    check(lambda: load_records(ids, "postgres"), len(ids), 8)
    check(lambda: listed(["guest1@example.com"], "postgres"), 1, 10)
    check(lambda: get_layer().finish(claimed), len(ids), 10)


def test_failing_over(emails: list[Email]) -> None:
    def move() -> None:
        for group in groups(emails):
            assert not failover.move(group, "standby", "postgres")

    check(move, QUEUED, 30)


def test_what_people_decide(emails: list[Email]) -> None:
    ids = [email.pk for email in emails[: 5 * GROUP]]
    for decide, most in ((control.hold, 60), (control.unhold, 120), (control.cancel, 60)):
        check(partial(decide, ids), len(ids), most)
    check(lambda: moving._move_page([email.pk for email in emails], "b", "postgres", False), QUEUED, 120)


def test_the_overview_and_the_check(emails: list[Email]) -> None:
    fail(emails[0], timezone.now(), "no", "smtp")
    counted = overview.MAX_COUNTED + 1
    check(lambda: overview.waiting("postgres"), QUEUED, 20)
    check(lambda: overview.deferrals("postgres"), QUEUED, 20)
    check(lambda: overview.ended("postgres"), counted, 2)
    check(lambda: overview.failures("postgres"), 10, 10)
    check(lambda: list(health.mailers_out(60.0)), 1, 10)


@pytest.mark.parametrize("is_late", [False, True])
def test_whether_mail_is_late(emails: list[Email], is_late: bool) -> None:
    """Of what has been due for less than a time, one email is read; else those that are queued."""
    found: list[Any] = []
    check(lambda: found.extend(health.mail_in_time(-60.0 if is_late else 60.0)), QUEUED, 20)
    assert len(found) == is_late


@pytest.mark.parametrize("options", [[], ["--json"], ["--mailer", "default"], ["--status", "failed"]])
def test_the_command(emails: list[Email], options: list[str]) -> None:
    """It counts at most so many of each status that has ended, and reads those that are queued."""
    check(lambda: call_command("mailq", *options, stdout=StringIO()), overview.MAX_COUNTED + QUEUED, 3)


def test_how_fast_mail_left_as_the_page_on_costs_asks(
    emails: list[Email], request: pytest.FixtureRequest
) -> None:
    """Without statistics, as after ``pg_upgrade``, it may read the table."""
    deliver(load_records([email.pk for email in emails], "postgres")[0])
    page = (ROOT / "docs" / "explanation" / "costs.md").read_text()
    [statement] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    most, most_rows = (FINISHED, FINISHED) if "absent" in request.node.name else (8, 4)
    with connections["postgres"].cursor() as cursor:
        check(lambda: cursor.execute(statement), QUEUED, most, most_rows)
        assert sum(count for _, count in cursor.fetchall()) == QUEUED


def test_the_flow_of_mailers(emails: list[Email], monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads some of those that wait, and none of those that ended long ago."""
    monkeypatch.setattr(flow._Flow, "stats", {})  # of the layer, whose plans tests of its own look at
    assert flow.MAX_READ < QUEUED
    check(flow.mail_flow, flow.MAX_READ + 1, 8, 1)  # one more tells whether there are more


def test_reconciliation(emails: list[Email]) -> None:
    """The second look, at those whose message is missing, included."""
    Routing.of_layer()
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "DELETE FROM mailrail_message WHERE id = ANY (ARRAY (SELECT id FROM mailrail_message LIMIT 100))"
        )
    for of_mail in reconcilers(get_layer()):
        if of_mail.channel == "mailrail.mail.*":
            check(partial(of_mail.run, older_than=-60), QUEUED, 60)


def test_what_is_dead(emails: list[Email]) -> None:
    ids = [email.pk for email in emails]
    check(lambda: list(consumers._waiting(ids)), QUEUED, 8)


assert reconciliation.PAGE_SIZE <= QUEUED
