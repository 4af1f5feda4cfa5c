"""What is queued is stored in full, and read so, on each database: by COPY on PostgreSQL, by INSERT elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import psycopg
import psycopg2
import pytest
from django.core.mail import EmailMessage
from django.db import connections
from django.db.models.expressions import DatabaseDefault
from django.utils import timezone

from mailrail import mail, uuid7
from mailrail.mail.delivery.load import NOT_LOADED, load_records
from mailrail.mail.models import Email, Status, Suppression
from mailrail.mail.queueing.insert import NewEmail, NewEmails, copy_lines, insertion_of
from mailrail.mail.records.suppressions import hash_address, listed

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])

NAMES = [field.attname for field in Email._meta.concrete_fields]


def new(email: Email) -> NewEmail:
    columns = {name: value for name, value in vars(email).items() if name in NAMES}
    columns = {
        name: value for name, value in columns.items() if not isinstance(value, DatabaseDefault | None)
    }
    return NewEmail(columns, json.dumps(email.content), {})


def insert(emails: list[Email], using: str) -> list[Email]:
    NewEmails(map(new, emails), using).insert()
    return [new(email).email(using) for email in emails]


def check(emails: list[Email], using: str) -> dict[UUID, Email]:
    stored = Email.objects.using(using).in_bulk([email.pk for email in emails])
    for email in emails:
        for name in NAMES:
            given = vars(email)[name]
            if type(given).__name__ != "DatabaseDefault":
                assert getattr(stored[email.pk], name) == given, name
    return stored


def odd_ones() -> list[Email]:
    now = timezone.now() + timedelta(microseconds=7)
    odd = "Größe '\"\\ %s {} \x85\u2028 👍\n\t\r\\N \\. \\t"
    return [
        Email(subject=odd, content={"v": 1, "fields": {"body": odd, "n": [1, 2.5, None, True]}}, message_id="<1@x>"),
        Email(recipients=[{"address": "ann@example.com", "status": Status.QUEUED.value}], tags=["a", odd]),
        Email(key="k", digest="d", size=2**40, priority=-100, send_at=now, expires_at=now, date=now),
        Email(related_object="a.b:1", tags=["x"]),
    ]  # fmt: skip


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_records_are_stored_as_they_are(using: str) -> None:
    emails = insert(odd_ones(), using)
    assert all((email._state.adding, email._state.db) == (False, using) for email in emails)
    stored = check(emails, using)
    assert (stored[emails[0].pk].mailer, stored[emails[0].pk].key, stored[emails[0].pk].version) == (
        "",
        None,
        0,
    )


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_more_than_one_statement_holds_are_all_stored(using: str) -> None:
    insert([Email(subject=str(n)) for n in range(2001)], using)
    assert Email.objects.using(using).count() == 2001


@pytest.mark.parametrize("count", [1, 2])
def test_json_on_sqlite_is_ascii_as_erasing_and_the_admin_look_for_it(
    queueing: Callable[..., None], count: int
) -> None:
    queueing(25)
    messages = [
        EmailMessage("Größe", "Für Jörg.", "me@example.com", ["jörg@example.com"]) for _ in range(count)
    ]
    mail.queue_many(messages)
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT content || recipients FROM mailrail_mail_email")
        rows = cursor.fetchall()
    assert len(rows) == count and all(text.isascii() and "F\\u00fcr J\\u00f6rg" in text for (text,) in rows)


def test_what_is_queued_has_a_value_for_every_column(queueing: Callable[..., None]) -> None:
    """It is made without ``Email.__init__``, so one that is forgotten would be asked of the database."""
    queueing(25)
    email = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", ["ann@example.com"]))
    assert vars(email).keys() >= set(NAMES)
    assert not email.get_deferred_fields() and email == Email.objects.get() and hash(email)
    check([email], "default")
    email.tags = ["changed"]
    email.save()
    assert Email.objects.get().tags == ["changed"]


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_one_is_stored_with_its_message_as_many_are(using: str) -> None:
    emails = odd_ones()
    with connections[using].cursor() as cursor:
        for email in emails:
            cursor.execute(*insertion_of(new(email), using))
    check(emails, using)


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_records_are_read_as_they_are_stored(using: str) -> None:
    emails = odd_ones()
    insert(emails, using)
    ids = [*(email.pk for email in reversed(emails)), uuid7()]
    records, _ = load_records(ids, using)
    assert [email.id for email in records] == ids[:-1]
    read = {email.id: email for email in records}
    for id, stored in Email.objects.using(using).in_bulk().items():
        assert not NOT_LOADED & vars(read[id]).keys() and not read[id]._state.adding
        for name in NAMES:  # also those that are fetched when they are asked for
            assert getattr(read[id], name) == getattr(stored, name), name
        read[id].attempts += 1
        read[id].save()
    assert set(Email.objects.using(using).values_list("attempts", flat=True)) == {1}


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_the_suppression_list_is_read_by_addresses(using: str) -> None:
    odd = "o'neill,{}\"\\%s@example.com"
    for address in (odd, hash_address("erased@example.com"), "other@example.com"):
        Suppression.objects.using(using).create(address=address, reason="bounce", note="550")
    assert listed([odd, "erased@example.com", "ann@example.com"], using) == {
        odd: "suppressed: bounce 550",
        "erased@example.com": "suppressed: bounce 550",
    }
    assert listed([], using) == {}


def test_lines_are_copied_by_either_driver() -> None:
    where = connections["postgres"].get_connection_params()
    where = {name: where[name] for name in ("host", "port", "user", "dbname")}
    statement, lines = "COPY copied (id, text) FROM STDIN", ["1\ta\\tb\n", "2\t\\N\n"] * 150
    for driver in (psycopg, psycopg2):
        with closing(driver.connect(**where)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE copied (id int, text text)")
            copy_lines(cursor, statement, lines)
            cursor.execute("SELECT id, text, count(*) FROM copied GROUP BY id, text ORDER BY id")
            assert cursor.fetchall() == [(1, "a\tb", 150), (2, None, 150)]
