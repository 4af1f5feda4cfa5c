"""What is said of a database that cannot hold the tables, such as MariaDB, before anything is queued."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections

from mailrail.database_check import check_databases, lacks

AS_ON_MARIADB = {
    "supports_partial_indexes": False,
    "supports_update_conflicts_with_target": False,
    "has_select_for_update": True,
    "has_select_for_no_key_update": False,
}
"""What Django 5.2 and 6.1 say of MariaDB 10.11, of which there is no server here: the statements are SQLite's."""


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AS_ON_MARIADB.items():
        monkeypatch.setattr(connections["default"].features, name, value)


def router_of(hint: str) -> type:
    """The router, as the reader has it."""
    names: dict[str, Any] = {}
    exec(hint[hint.index("class ") : hint.index("\nA database layer")], names)
    found: type = names["MailrailApart"]
    return found


def test_databases_that_can_are_fine() -> None:
    assert check_databases(list(connections)) == []
    assert all(not lacks(connection) for connection in connections)


@pytest.mark.usefixtures("poor")
def test_each_app_is_named_with_what_its_database_lacks_and_what_is_possible() -> None:
    problems = check_databases()
    assert [each.id for each in problems] == ["mailrail.E010"] * 5
    names = ("mailrail", "mailrail.invitations", "mailrail.mail", "mailrail.tasks", "mailrail.schedule")
    for error, name in zip(problems, names, strict=True):
        assert error.msg.startswith(f"The tables of \"{name}\" lie in the database 'default'")
        assert "INSERT … ON CONFLICT" in error.msg and "FOR NO KEY UPDATE" in error.msg
        assert "unique indexes" in error.msg and "migrate --database messages" in (error.hint or "")


@pytest.mark.django_db
@pytest.mark.usefixtures("poor")
def test_migrating_stops_before_a_statement_fails() -> None:
    with pytest.raises(SystemCheckError, match=r"mailrail\.E010"):
        call_command("migrate", "mailrail_mail", "--plan", skip_checks=False)


@pytest.mark.usefixtures("poor")
def test_the_router_of_the_hint_is_all_that_is_needed(settings: Any) -> None:
    hint = (check_databases()[0].hint or "").replace('"messages"', '"other"')
    settings.DATABASE_ROUTERS = [router_of(hint)()]
    assert check_databases() == check_databases(["default", "other"]) == []


@pytest.mark.usefixtures("poor")
def test_a_router_that_sends_the_messages_elsewhere_and_leaves_email_behind_is_told(settings: Any) -> None:
    """As when only the tables of the layer lie in another database: what is queued could not be read."""
    hint = (check_databases()[0].hint or "").replace('"messages"', '"other"')
    router: Any = router_of(hint)()
    router.apps = {"mailrail"}
    settings.DATABASE_ROUTERS = [router]
    assert {message.msg.split('"')[1] for message in check_databases()} == {
        "mailrail.mail",
        "mailrail.invitations",
        "mailrail.tasks",
        "mailrail.schedule",
    }


def test_another_database_is_told_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["other"].features, "supports_partial_indexes", False)
    assert check_databases() == []
    assert "'other'" in check_databases(["other"])[0].msg
