"""The one table of errors that pass, held to what real servers and drivers raise."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest
import redis
from django.db import DatabaseError, DataError, Error, InterfaceError, OperationalError, connections
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailrail import LayerUnavailable
from mailrail.layers import RedisChannelLayer
from mailrail.messages import Message
from mailrail.transient import REDIS_CODES, SQLITE_CODES, SQLSTATES, Remedy, is_transient, remedy_for

from .processes import until
from .servers import PostgresServer, ValkeyServer

NEVER = Retry(NoBackoff(), 0)


def at_once(server: ValkeyServer, **options: Any) -> redis.Redis:
    """Return a client that does not try again by itself."""
    return redis.Redis(port=server.port, protocol=2, retry=NEVER, **options)


PASSING = [
    *("08000", "08001", "08003", "08004", "08006", "08007", "08P01", "25006", "25P03", "40001", "40P01"),
    *("53000", "53100", "53200", "53300", "53400", "55P03", "57P01", "57P02", "57P03"),
    *("58000", "58030", "58P01", "58P02"),
]
STAYING = [
    *("22001", "22003", "22P02", "22P05", "23502", "23505", "23514", "25000", "25001", "25P01", "25P02"),
    *("28000", "28P01", "34000", "3D000", "40002", "40003", "42501", "42601", "42703", "42P01"),
    *(
        "54000",
        "55000",
        "55006",
        "55P02",
        "55P04",
        "57000",
        "57014",
        "57P04",
        "57P05",
        "P0001",
        "XX000",
        "XX001",
    ),
]


def test_the_tables_name_the_codes_that_are_promised() -> None:
    """Written twice on purpose: whoever changes one of them has a reason."""
    assert set(SQLSTATES) == {
        "08",
        "25006",
        "25P03",
        "40001",
        "40P01",
        "53",
        "55P03",
        "57P01",
        "57P02",
        "57P03",
        "58",
    }
    assert set(REDIS_CODES) == {
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "BUSY",
    }
    names = ["BUSY", "LOCKED", "NOMEM", "READONLY", "IOERR", "FULL", "CANTOPEN", "PROTOCOL"]
    assert set(SQLITE_CODES) == {getattr(sqlite3, f"SQLITE_{name}") for name in names}


def raising(code: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = '{code}'; END $$"


@pytest.mark.parametrize("code", PASSING + STAYING)
def test_an_sqlstate_passes_or_stays_by_each_driver_and_through_django(
    code: str, postgres_server: PostgresServer
) -> None:
    statement = raising(code)
    django = connections["postgres"].wrap_database_errors
    with postgres_server.connect() as session:
        with pytest.raises(psycopg.Error) as raised:
            session.execute(statement)
        with pytest.raises(Error) as djangos, django:
            session.execute(statement)
    where = f"host=127.0.0.1 port={postgres_server.port} user=postgres dbname=postgres"
    with closing(psycopg2.connect(where)) as older, pytest.raises(psycopg2.Error) as by_older:
        older.cursor().execute(statement)
    found = [raised.value, djangos.value, by_older.value]
    assert [is_transient(error) for error in found] == [code in PASSING] * 3


def test_a_server_that_is_not_there_passes() -> None:
    nowhere = "host=127.0.0.1 port=1 user=postgres"
    with pytest.raises(psycopg.Error) as raised:
        psycopg.connect(nowhere)
    assert remedy_for(raised.value) is Remedy.RECONNECT
    with pytest.raises(psycopg2.Error) as older:
        psycopg2.connect(nowhere)
    assert remedy_for(older.value) is Remedy.RECONNECT


@pytest.mark.django_db(transaction=True, databases=["postgres"])
def test_a_connection_that_was_ended_passes(postgres_server: PostgresServer) -> None:
    connection = connections["postgres"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
        with postgres_server.connect() as killer:
            killer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        for _ in range(2):  # the second finds it closed
            with pytest.raises(Error) as raised:
                cursor.execute("SELECT 1")
            assert remedy_for(raised.value) is Remedy.RECONNECT, repr(raised.value)
    connection.close()


SQLITE_PASSES = {
    name
    for name in dir(sqlite3)
    if re.match("SQLITE_(BUSY|LOCKED|NOMEM|READONLY|IOERR|FULL|CANTOPEN|PROTOCOL)", name)
}
SQLITE_STAYS = [
    *(
        "AUTH",
        "CONSTRAINT",
        "CONSTRAINT_UNIQUE",
        "CORRUPT",
        "EMPTY",
        "ERROR",
        "FORMAT",
        "INTERNAL",
        "INTERRUPT",
    ),
    *("MISMATCH", "MISUSE", "NOLFS", "NOTADB", "NOTFOUND", "PERM", "RANGE", "SCHEMA", "TOOBIG"),
]


@pytest.mark.parametrize("name", [*sorted(SQLITE_PASSES), *(f"SQLITE_{name}" for name in SQLITE_STAYS)])
def test_a_code_of_sqlite_passes_or_stays(name: str) -> None:
    error = sqlite3.OperationalError("as told")
    error.sqlite_errorcode = getattr(sqlite3, name)
    wrapped = OperationalError("as told")
    wrapped.__cause__ = error
    assert is_transient(error) is is_transient(wrapped) is (name in SQLITE_PASSES)


def read_only(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "db")) as session:
        session.execute("PRAGMA query_only = on")
        session.execute("CREATE TABLE a (b)")


def locked(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "db", timeout=0)) as one:
        one.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(folder / "db", timeout=0)) as two:
            two.execute("BEGIN IMMEDIATE")


def full(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "db")) as session:
        session.execute("PRAGMA max_page_count = 2")
        session.execute("CREATE TABLE IF NOT EXISTS a (b)")
        session.execute("INSERT INTO a VALUES (zeroblob(100000))")


def gone(folder: Path) -> None:
    sqlite3.connect(folder / "no folder" / "db")


def no_table(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "db")) as session:
        session.execute("SELECT * FROM a")


def no_database(folder: Path) -> None:
    (folder / "db").write_bytes(b"no database" * 1000)
    no_table(folder)


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (read_only, Remedy.RECONNECT),
        (locked, Remedy.REPEAT),
        (full, Remedy.WAIT),
        (gone, Remedy.RECONNECT),
        (no_table, None),
        (no_database, None),
    ],
)
def test_what_sqlite_raises_has_its_remedy(
    fault: Callable[[Path], None], remedy: Remedy | None, tmp_path: Path
) -> None:
    with pytest.raises(sqlite3.Error) as raised:
        fault(tmp_path)
    with pytest.raises(DatabaseError) as djangos, connections["default"].wrap_database_errors:
        fault(tmp_path)
    assert [remedy_for(raised.value), remedy_for(djangos.value)] == [remedy, remedy]


ANSWERS = [
    *((f"{code} as told", remedy) for code, remedy in REDIS_CODES.items()),
    ("ERR as told", None),
    ("BUSYKEY Target key name already exists.", None),
    ("BUSYGROUP as told", None),
    ("EXECABORT as told", None),
    ("NOAUTH Authentication required.", None),
    ("NOPERM as told", None),
    ("NOSCRIPT as told", None),
    ("NOTBUSY as told", None),
    ("WRONGPASS as told", None),
    ("WRONGTYPE as told", None),
]


@pytest.mark.parametrize(("answer", "remedy"), ANSWERS, ids=[text.split()[0] for text, _ in ANSWERS])
def test_an_error_that_a_server_answers_passes_or_stays(
    answer: str, remedy: Remedy | None, valkey: ValkeyServer
) -> None:
    with at_once(valkey) as client, pytest.raises(redis.RedisError) as raised:
        client.execute_command("EVAL", "return redis.error_reply(ARGV[1])", 0, answer)
    assert remedy_for(raised.value) is remedy


@pytest.mark.parametrize(("answer", "remedy"), ANSWERS, ids=[text.split()[0] for text, _ in ANSWERS])
def test_so_it_does_where_the_layer_has_wrapped_it(
    answer: str, remedy: Remedy | None, valkey: ValkeyServer
) -> None:
    server = RedisChannelLayer([valkey.url])._store.server  # type: ignore[attr-defined]
    with pytest.raises(LayerUnavailable) as raised:
        server.ask("EVAL", "return redis.error_reply(ARGV[1])", 0, answer)
    is_of_a_key = answer.startswith("WRONGTYPE")
    assert remedy_for(raised.value) is (None if is_of_a_key else remedy or Remedy.WAIT)


def test_a_server_of_redis_that_is_not_there_passes_and_a_wrong_password_stays(valkey: ValkeyServer) -> None:
    nowhere = redis.Redis(port=1, retry=NEVER)
    with nowhere as client, pytest.raises(redis.ConnectionError) as raised:
        client.ping()
    assert remedy_for(raised.value) is Remedy.RECONNECT
    stranger = at_once(valkey, username="nobody", password="wrong")
    with stranger as client, pytest.raises(redis.AuthenticationError) as refused:
        client.ping()
    assert remedy_for(refused.value) is None


def demote(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")


def demote_without_data(client: redis.Redis) -> None:
    client.config_set("replica-serve-stale-data", "no")
    demote(client)


def promote(client: redis.Redis) -> None:
    client.replicaof("NO", "ONE")
    client.config_set("replica-serve-stale-data", "yes")


def run_for_ever(client: redis.Redis) -> None:
    client.config_set("busy-reply-threshold", 1)
    client.connection_pool.get_connection().send_command("EVAL", "while true do end", 0)


def kill_script(client: redis.Redis) -> None:
    client.script_kill()
    until(lambda: answers(client), what="the end of the script")
    client.config_set("busy-reply-threshold", 5000)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ResponseError:
        return False


def fill(client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)


def empty(client: redis.Redis) -> None:
    client.config_set("maxmemory", 0)


def ask_for_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 1)


def ask_for_none(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize(
    ("fault", "mend", "remedy"),
    [
        (demote, promote, Remedy.RECONNECT),
        (demote_without_data, promote, Remedy.RECONNECT),
        (run_for_ever, kill_script, Remedy.WAIT),
        (fill, empty, Remedy.WAIT),
        (ask_for_replicas, ask_for_none, Remedy.WAIT),
    ],
    ids=["READONLY", "MASTERDOWN", "BUSY", "OOM", "NOREPLICAS"],
)
def test_a_server_in_real_trouble_passes_and_then_takes_the_send(
    fault: Callable[[redis.Redis], None],
    mend: Callable[[redis.Redis], None],
    remedy: Remedy,
    valkey: ValkeyServer,
) -> None:
    layer = RedisChannelLayer([valkey.url])
    with at_once(valkey) as client:
        fault(client)
        try:
            with pytest.raises(LayerUnavailable) as raised:
                until(lambda: layer.enqueue([Message("c", {})]) and None, what="the trouble")
            assert remedy_for(raised.value.__cause__ or raised.value) is remedy
        finally:
            mend(client)
        client.flushdb()
    [id] = layer.enqueue([Message("c", {})])
    assert [claim.id for claim in layer.claim("w", {"c": 1}, 15).claims] == [id]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OperationalError("the connection is closed"), Remedy.RECONNECT),
        (InterfaceError("connection already closed"), Remedy.RECONNECT),
        (LayerUnavailable("down"), Remedy.WAIT),
        (DataError("too long"), None),
        (DatabaseError("who knows"), None),
        (KeyError("bug"), None),
        (OSError("no file"), None),
    ],
    ids=repr,
)
def test_what_has_no_code_passes_if_it_is_about_the_connection(error: Any, remedy: Remedy | None) -> None:
    assert remedy_for(error) is remedy
