"""Workers killed while they write history: what is missing of it is what they had not handed over yet."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mailrail.layers import DatabaseChannelLayer, DurableLayer, RedisChannelLayer
from mailrail.layers.history import ALL
from mailrail.messages import Message

from ..processes import DJANGO, Ledger, Line, WorkerProcess, children_of, environment, until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

MESSAGES = int(os.environ.get("MAILRAIL_TEST_HISTORY_MESSAGES", "2000"))
KILLS, PROCESSES, THREADS = 4, 2, 4
SERIES = ("channel", "counted")
LEASE_S = 1.5
"""A twelfth of it lies between two looks whether a heartbeat is due."""
SETTINGS = """
CHANNEL_LAYERS = {{"default": {{"BACKEND": "tests.recording.{backend}", "CONFIG": {config!r}}}}}
MAILRAIL = {{"LEASE": {lease}, "SHUTDOWN_TIMEOUT": 20.0}}
"""


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def place(
    request: pytest.FixtureRequest, ledger: Ledger, tmp_path: Path
) -> tuple[DurableLayer, dict[str, str]]:
    """The layer, and the environment of workers whose layer notes what it records."""
    config: dict[str, Any]
    if request.param == "valkey":
        url = request.getfixturevalue("valkey").url
        layer: DurableLayer = RedisChannelLayer([url])
        backend, config = "RecordingRedisLayer", {"hosts": [url]}
    else:
        using = {"sqlite": "default", "postgresql": "postgres"}[request.param]
        layer = DatabaseChannelLayer(using=using)
        backend, config = "RecordingDatabaseLayer", {"using": using}
    text = SETTINGS.format(
        backend=backend, config=config | {"routing": "tests.recording.routing"}, lease=LEASE_S
    )
    tmp_path.joinpath("recording_settings.py").write_text(f"from tests.settings import *\n{text}")
    env = environment(ledger.path)
    env |= {"DJANGO_SETTINGS_MODULE": "recording_settings", "PYTHONPATH": f"{env['PYTHONPATH']}:{tmp_path}"}
    return layer, env


def test_of_workers_that_are_killed_at_most_the_last_heartbeat_is_missing(
    place: tuple[DurableLayer, dict[str, str]], ledger: Ledger, seed: int
) -> None:
    (layer, env), chance = place, random.Random(seed)
    layer.enqueue([Message("counted", {"n": n}) for n in range(MESSAGES)])
    worker = WorkerProcess(
        ledger, "--processes", str(PROCESSES), "--threads", str(THREADS), command=DJANGO, env=env
    )
    try:
        killed = [kill_one(worker, ledger, enough) for enough in moments(chance)]
        until(lambda: not layer.list_channels() or layer.stats() == {}, 60 + MESSAGES / 50, "the end of all")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    finally:
        worker.kill_all()
    check(layer, ledger.lines(), {*killed})


def moments(chance: random.Random) -> list[int]:
    """Return after how many messages a worker is killed, each time: at random, and well before the end."""
    return sorted(chance.randrange(MESSAGES // 20, MESSAGES * 8 // 10) for _ in range(KILLS))


def kill_one(worker: WorkerProcess, ledger: Ledger, enough: int) -> int:
    """Kill the process that published last, once so many messages have been."""
    until(lambda: len(lines := ledger.lines("published")) >= enough and lines, 60 + MESSAGES / 50)
    living = until(lambda: children_of(worker.process.pid))
    pids = [line.pid for line in ledger.lines("published") if line.pid in living]
    pid = pids[-1] if pids else living[0]
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in children_of(worker.process.pid))
    return pid


def check(layer: DurableLayer, lines: list[Line], killed: set[int]) -> None:
    """Compare the history with the ledger."""
    done, sent = totals(layer, SERIES)
    begun, ended = by_pid(lines, "recording"), by_pid(lines, "recorded")
    assert (
        sum(ended.values()) <= done <= sum(begun.values())
    )  # nothing twice, and nothing that nobody has done
    for pid, number in by_pid(lines, "published").items():
        assert pid in killed or ended[pid] == number, "a worker that stopped has handed over everything"
    last = sum(since_last_record(lines, pid) for pid in killed)
    missing = MESSAGES - done
    print(f"{missing} of {MESSAGES} missing, {last} not handed over, {len(killed)} workers killed")
    # Settled, and not published yet: no more than a worker runs at once.
    assert 0 <= missing <= last + THREADS * len(killed)
    assert missing <= MESSAGES - sent <= last + THREADS * len(killed)
    assert totals(layer, ALL) == (done, sent)


def totals(layer: DurableLayer, series: tuple[str, str]) -> tuple[int, int]:
    rows = layer.history(series, time.time() - 3600, time.time() + 3600)
    return sum(row.done for row in rows), sum(row.sent for row in rows)


def by_pid(lines: list[Line], what: str) -> dict[int, int]:
    sums: dict[int, int] = {line.pid: 0 for line in lines}
    for line in lines:
        sums[line.pid] += line.attempt if line.what == what else 0
    return sums


def since_last_record(lines: list[Line], pid: int) -> int:
    """Return how many messages a worker published, and did not hand over."""
    own = [line for line in lines if line.pid == pid]
    handed_over = sum(line.attempt for line in own if line.what == "recorded")
    last = sum(line.what == "published" for line in own) - handed_over
    # A call takes the counts after the one before it has returned, and before it is noted as begun.
    recorded = [n for n, line in enumerate(own) if line.what == "recorded"]
    since = own[recorded[-2] if len(recorded) > 1 else 0 :]
    assert last <= sum(line.what == "published" for line in since), "what was before has been handed over"
    return last
