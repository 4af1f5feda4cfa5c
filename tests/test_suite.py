"""What the suite relies on: databases are empty between tests, and the lists of long files name files."""

from __future__ import annotations

import socket

import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connections

from mailrail.models import StoredMessage

from .conftest import LONG, NOT_QUICK
from .emptying import KEPT, LARGE, empty
from .ports import MAX_KEPT, free_port
from .processes import ROOT


def rows(using: str) -> dict[str, int]:
    connection = connections[using]
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    with connection.cursor() as cursor:
        return {name: _count(cursor, name) for name in names if name not in KEPT}


def _count(cursor: object, name: str) -> int:
    cursor.execute(f'SELECT count(*) FROM "{name}"')  # type: ignore[attr-defined]
    [count] = cursor.fetchone()  # type: ignore[attr-defined]
    return int(count)


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("using", ["default", "postgres"])
@pytest.mark.parametrize("bytes", [10, 2 * LARGE], ids=["small", "large"])
def test_a_database_is_emptied_but_for_what_migrations_have_made(using: str, bytes: int) -> None:
    made = Permission.objects.using(using).count(), ContentType.objects.using(using).count()
    group = Group.objects.using(using).create(name="of a test")
    group.permissions.add(Permission.objects.using(using).all()[0])
    sizes = range(0, bytes, 2000)
    StoredMessage.objects.using(using).bulk_create(
        StoredMessage(id=f"00000000-0000-7000-8000-{n:012}", content="x" * 2000) for n in sizes
    )
    empty(using)
    assert sum(rows(using).values()) == 0
    assert (Permission.objects.using(using).count(), ContentType.objects.using(using).count()) == made
    assert min(made) > 10


def test_a_free_port_refuses_connections_and_belongs_to_this_process_when_its_server_is_away() -> None:
    port = free_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            socket.create_connection(("127.0.0.1", port), 5).close()
    assert len({port, *(free_port() for _ in range(MAX_KEPT - 1))}) == MAX_KEPT


@pytest.mark.parametrize("prefix", sorted({*LONG, *NOT_QUICK}))
def test_what_is_said_to_take_long_is_there(prefix: str) -> None:
    path, _, test = prefix.partition("::")
    starts = (f"def {test}", f"class {test}")
    assert [
        it for it in ROOT.glob(f"{path}*") if not test or any(start in it.read_text() for start in starts)
    ]
