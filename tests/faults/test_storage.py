"""What PostgreSQL's storage can do to workers: dead rows that an old snapshot keeps, a disk that is full."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import InternalError, OperationalError

from mailrail import Channel

from ..processes import Ledger, until, workers
from ..servers import SERVER_USER, PostgresServer
from .conftest import end, is_empty, more, on, recover

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.parametrize("layer", ["postgres"], indirect=True, ids=["postgresql"]),
    pytest.mark.timeout(300),
]

DEAD_ROWS = 100_000


@contextmanager
def standing_snapshot(server: PostgresServer) -> Iterator[None]:
    """A session that has begun to read and does not end: a dump, a forgotten shell."""
    with server.connect(dbname="mailrail") as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT count(*) FROM mailrail_message")
        yield
        session.execute("ROLLBACK")


def leave_dead_rows(server: PostgresServer) -> None:
    """What so many messages leave behind that were sent and finished since the snapshot was taken."""
    with server.connect(dbname="mailrail") as session:
        session.execute(
            "INSERT INTO mailrail_message (id, channel, due, sent_at) "
            "SELECT gen_random_uuid(), 'ledger', 1, 1 FROM generate_series(1, %s)",
            [DEAD_ROWS],
        )
        session.execute("DELETE FROM mailrail_message")
        session.execute("VACUUM mailrail_message")


def looks(server: PostgresServer) -> tuple[int, int]:
    """How often the index of claims was looked into, and how many entries were read there, dead ones among them."""
    with server.connect(dbname="mailrail") as session:
        row = session.execute(
            "SELECT idx_scan, idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'mailrail_ready'"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def test_a_standing_snapshot_loses_nothing_and_claims_do_not_read_all_it_keeps(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    """Each claim that began at the front of the index would read past all that is dead there."""
    with standing_snapshot(postgres_server):
        leave_dead_rows(postgres_server)
        ids = {str(id) for id in Channel("ledger").send_many([{}] * 1_500)}
        before = looks(postgres_server)
        begun = time.monotonic()
        options = on(layer, "--processes", "2", "--threads", "4")
        with workers(ledger, "ledger", *options, number=2) as pair:
            until(lambda: is_empty(layer), timeout=200)
            took = time.monotonic() - begun
            end(*pair)  # and tell the server what they have read
        after = looks(postgres_server)
    times, entries = (now - then for now, then in zip(after, before, strict=True))
    print(
        f"{len(ids)} messages in {took:.1f} s; {entries / times:,.0f} entries read at each of {times:,} looks"
    )
    assert (
        entries / times < DEAD_ROWS / 3
    )  # a busy machine makes all looks slow, and those at the front a larger part
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}


@contextmanager
def small_disk() -> Iterator[Path]:
    """16 MB of their own, which the server may write to. Skips, and says so, where there is no right to mount."""
    folder = Path(tempfile.mkdtemp(prefix="mailrail-disk-"))
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "mailrail-disk", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no disk can be mounted here, so none can be full: {done.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Write until there is no byte left."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    return filler


@contextmanager
def messages_on(server: PostgresServer, disk: Path) -> Iterator[psycopg.Connection[Any]]:
    """The table of messages and its indexes live on that disk."""
    place = disk / "place"
    place.mkdir()
    if place.owner() != SERVER_USER and disk.stat().st_uid == 0:
        shutil.chown(place, SERVER_USER)
    place.chmod(0o700)
    moves = "ALTER {} SET TABLESPACE {}"
    with server.connect(dbname="mailrail") as admin:
        admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        indexes = admin.execute(
            "SELECT indexname FROM pg_indexes WHERE tablename = 'mailrail_message'"
        ).fetchall()
        things = ["TABLE mailrail_message", *(f'INDEX "{name}"' for (name,) in indexes)]
        try:
            for thing in things:
                admin.execute(moves.format(thing, "small"))
            yield admin
        finally:
            for thing in things:
                admin.execute(moves.format(thing, "pg_default"))
            admin.execute("DROP TABLESPACE small")


def test_a_full_disk_is_waited_out(layer: Any, ledger: Ledger, postgres_server: PostgresServer) -> None:
    with small_disk() as disk, messages_on(postgres_server, disk):
        ids = {str(id) for id in Channel("slow").send_many([{"seconds": 0.03}] * 2000)}
        with workers(ledger, "slow", "ledger", *on(layer, "--processes", "2"), number=2) as pair:
            until(lambda: len(ledger.counts()) >= 170)
            filler = fill(disk)
            with pytest.raises(OperationalError, match="No space left on device"):
                Channel("ledger").send_many([{"text": "x" * 1000}] * 5_000)
            until(lambda: any("No space left on device" in worker.log for worker in pair))
            filler.unlink()
            recover(more(ledger), "a full disk, which has room again,")
            ids |= {str(id) for id in Channel("ledger").send_many([{}] * 10)}
            until(lambda: is_empty(layer))
            end(*pair)
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}


@contextmanager
def read_only(server: PostgresServer) -> Iterator[None]:
    """All sessions, those that are open among them."""
    with server.connect() as admin:
        admin.execute("SET default_transaction_read_only = off")
        try:
            admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            admin.execute("SELECT pg_reload_conf()")
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
            admin.execute("SELECT pg_reload_conf()")


def test_a_database_that_is_read_only_for_a_while_is_waited_out(
    layer: Any, ledger: Ledger, gate: Path, postgres_server: PostgresServer
) -> None:
    """Longer than a lease: no claim is renewed, none is lost, and what was done is not done again."""
    ids = {str(Channel("held").send({"gate": str(gate)}))}
    ids |= {str(id) for id in Channel("slow").send_many([{"seconds": 0.03}] * 400)}
    with workers(ledger, "slow", "held", *on(layer)) as [worker]:
        until(lambda: ledger.lines("began") and len(ledger.counts()) >= 40)
        with read_only(postgres_server):
            until(lambda: "leases cannot be renewed just now" in worker.log)
            until(lambda: "the layer cannot be used just now" in worker.log)
            with pytest.raises(InternalError, match="read-only transaction"):
                Channel("ledger").send({})
        recover(more(ledger), "a database that was read-only")
        gate.touch()
        until(lambda: is_empty(layer))
        end(worker)
        assert "read-only transaction" in worker.log and "cannot be retried" not in worker.log
    assert ledger.counts() == dict.fromkeys(ids, 1)
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}
