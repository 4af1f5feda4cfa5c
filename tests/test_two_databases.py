"""A project whose messages are in another database than its records, as a router says."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.checks import run_checks

from .processes import Ledger, Manage
from .servers import PostgresServer

pytestmark = pytest.mark.django_db(databases=[])

SETTINGS = """
class MessagesApart:
    def allow_migrate(self, db, app_label, **hints):
        return (app_label == "mailrail") == (db == "postgres")

    def db_for_read(self, model, **hints):
        return "postgres" if model._meta.app_label == "mailrail" else None

    db_for_write = db_for_read


DATABASE_ROUTERS = [MessagesApart()]
CHANNEL_LAYERS = {
    "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}},
}
"""


class Project:
    def __init__(self, manage: Manage, records: Path, server: PostgresServer, messages: str) -> None:
        self.manage = manage
        self._records = records
        self._server = server
        self._messages = messages

    def run(self, *arguments: str) -> str:
        done = self.manage(*arguments)
        assert done.returncode == 0
        return done.stdout

    def shell(self, code: str) -> str:
        return self.run("shell", "--no-imports", "-c", code)

    def tables(self) -> tuple[set[str], set[str]]:
        """Of the records' database, and of the messages'."""
        with sqlite3.connect(self._records) as file:
            records = {
                name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
        file.close()
        with self._server.connect(self._messages) as connection:
            rows = connection.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'S')").fetchall()
        return records, {name for (name,) in rows if name.startswith(("mailrail_", "auth_", "django_"))}


@pytest.fixture
def project(
    postgres_server: PostgresServer, django_db_modify_db_settings: None, tmp_path: Path
) -> Iterator[Project]:
    name = f"messages_{uuid4().hex}"
    with postgres_server.connect() as admin:
        admin.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        manage = Manage(Ledger(tmp_path / "ledger"))
        records = tmp_path / "records.sqlite3"
        manage.environment |= {"MAILRAIL_TEST_DEFAULT": str(records), "MAILRAIL_TEST_POSTGRES": name}
        manage.use_settings(tmp_path, SETTINGS)
        yield Project(manage, records, postgres_server, name)
        admin.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


def test_migrations_sends_workers_and_commands_use_the_layer_s_database(
    project: Project, tmp_path: Path
) -> None:
    missing = project.manage("channels")
    assert missing.returncode == 1
    assert missing.stderr.endswith(". Run: python manage.py migrate mailrail --database postgres\n")

    project.run("migrate", "-v0")
    project.run("migrate", "-v0", "--database", "postgres")
    records, messages = project.tables()
    assert {"auth_group", "mailrail_invitations_invitation"} <= records
    assert not records & {"mailrail_message", "mailrail_dead", "mailrail_worker"}
    assert {"mailrail_message", "mailrail_dead", "mailrail_lane_seq"} <= messages
    assert not messages & {"auth_group", "mailrail_invitations_invitation"}

    project.run("check", "--fail-level", "WARNING", "--database", "default", "--database", "postgres")
    sent = project.shell(
        "from django.db import transaction; from mailrail import Channel; from mailrail.models import StoredMessage\n"
        "with transaction.atomic():\n"
        "    Channel('ledger').send({'n': 1}, using='default')\n"
        "    before = StoredMessage.objects.count()\n"
        "with transaction.atomic():\n"
        "    Channel('ledger').send({'n': 2}, using='default')\n"
        "    transaction.set_rollback(True)\n"
        "print(before, StoredMessage.objects.count())"
    )
    assert sent == "0 1\n"
    assert json.loads(project.run("channels", "--json"))["ledger"]["ready"] == 1
    project.run("runworker", "--drain")
    assert len(Ledger(tmp_path / "ledger").lines("ran")) == 1
    assert json.loads(project.run("channels", "--json")) == {}


class KeepsThemOut:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return db != "other" if app_label == "mailrail" else None


@pytest.mark.django_db(databases=["default", "other"])  # Django's own checks ask them what they can do
def test_a_router_that_keeps_the_tables_out_is_found_by_the_checks(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "other"}}
    }
    settings.DATABASE_ROUTERS = [KeepsThemOut()]
    [found] = [message for message in run_checks() if message.id == "mailrail.E005"]
    assert found.msg == (
        "DATABASE_ROUTERS keep Mailrail's tables out of the database 'other', in which the layer keeps its messages."
    )
    assert found.hint == (
        "Let allow_migrate('other', 'mailrail') of your router return True, then run: "
        "python manage.py migrate mailrail --database other"
    )
    settings.DATABASE_ROUTERS = []
    assert not [message for message in run_checks() if message.id == "mailrail.E005"]
