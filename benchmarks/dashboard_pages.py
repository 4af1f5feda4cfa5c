"""The measurements of ``dashboard``, in a process whose settings have the live page."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from statistics import median
from typing import Any

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402 - Django is set up now
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402

from mailrail.dashboard.lines import _lines as cached_lines  # noqa: E402
from mailrail.layers import get_layer  # noqa: E402
from mailrail.layers.history import ALL, HistoryRow  # noqa: E402
from mailrail.monitoring import sampler  # noqa: E402
from tests.mail import many  # noqa: E402
from tests.ports import free_port  # noqa: E402

from .open_pages import OpenPage, listening, open_pages, polling  # noqa: E402
from .processes import cpu_seconds, running  # noqa: E402

CHANNELS, PAGES = 1_000, 50
REQUESTS = 9
SECONDS = 20.0
FLUSHES, OF_CHANNELS, EVERY_S = 200, 10, 5.0
"""Records of history to measure one, the channels in each, and the seconds between two of a worker."""
CHANNEL = "c077"
WAITING = """
INSERT INTO mailrail_message (id, channel, content, priority, due, sent_at, worker, token, attempt)
SELECT gen_random_uuid(), 'c' || lpad((n %% %(channels)s)::text, 3, '0'), '{"id":' || n || '}', n / 1000 %% 3,
    date_part('epoch', now()) + CASE WHEN n %% 100 = 0 THEN 600 WHEN n %% 3 = 0 THEN 3600 + n ELSE n - 10000000 END,
    0, CASE WHEN n %% 100 = 0 THEN 'host-1' END, CASE WHEN n %% 100 = 0 THEN n END, (n %% 100 = 0)::int
FROM generate_series(1, %(count)s) n
"""
OF_A_SERIES = """
INSERT INTO mailrail_history (kind, name, start, span, sent, done, retried, longest_wait, wait3, run5)
SELECT %(kind)s, %(name)s, now.at / span * span - n * span, span, 10, 10, 1, 0.5, 9, 11
FROM (SELECT date_part('epoch', now())::bigint AS at) AS now,
    (SELECT 60 AS span, n FROM generate_series(0, 2879) n
    UNION ALL SELECT 3600, n FROM generate_series(49, 336) n) AS steps
"""
OF_THE_LAST_HOUR = """
INSERT INTO mailrail_history (kind, name, start, span, sent, done)
SELECT 'channel', 'c' || lpad(c::text, 3, '0'), date_part('epoch', now())::bigint / 60 * 60 - n * 60, 60, 5, 5
FROM generate_series(0, %(channels)s - 1) c, generate_series(0, 59) n
ON CONFLICT DO NOTHING
"""
TABLES = "mailrail_message, mailrail_history, mailrail_mail_email"


def main(count: int, rounds: int, seconds: float) -> None:
    """Print what was found: lists of figures by name."""
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        _fill(cursor, count)
        cursor.execute(f"VACUUM ANALYZE {TABLES}")
    client = Client()
    user = User.objects.create_superuser(f"operator-{time.time()}")
    client.force_login(user)
    found = _answers(client, rounds) | _open(client, rounds, seconds) | _records(rounds)
    print(json.dumps(found))


def _fill(cursor: Any, count: int) -> None:
    cursor.execute(WAITING, {"count": count, "channels": CHANNELS})
    many.fill(cursor, count)
    for kind, name in (ALL, ("channel", CHANNEL)):
        cursor.execute(OF_A_SERIES, {"kind": kind, "name": name})
    cursor.execute(OF_THE_LAST_HOUR, {"channels": CHANNELS})


# -- answers -----------------------------------------------------------------------------------------------------------


def _answers(client: Client, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the answers. All but one are the first ones of a second, so that they take a sample."""
    asked: dict[str, Callable[[], object]] = {
        "/data/": _get(client, "data/"),
        "/data/, a further page": _get(client, "data/", page="7"),
        "/data/, a search": _get(client, "data/", q="c07"),
        "the page itself": _get(client, ""),
        **{
            f"/lines/, {of}, {span}": _get(client, "lines/", series=series, span=span)
            for of, series in (("all", "all"), ("a channel", f"channel:{CHANNEL}"))
            for span in ("hour", "day", "week")
        },
    }
    found = {name: [_median(act, fresh=True) for _ in range(rounds)] for name, act in asked.items()}
    known = _tag(client)
    again = _get(client, "data/", 304, HTTP_IF_NONE_MATCH=known)
    return found | {
        "/data/, within a second": [_median(asked["/data/"], fresh=False) for _ in range(rounds)],
        "/data/, nothing new": [_median(again, fresh=False) for _ in range(rounds)],
    }


def _get(client: Client, path: str, status: int = 200, **asked: str) -> Callable[[], object]:
    headers = {name: asked.pop(name) for name in list(asked) if name.startswith("HTTP_")}

    def get() -> None:
        response = client.get(f"/live/{path}", asked, **headers)  # type: ignore[arg-type]
        assert response.status_code in (status, 200), response.status_code

    return get


def _tag(client: Client) -> str:
    return str(client.get("/live/data/")["ETag"])


def _median(act: Callable[[], object], *, fresh: bool) -> float:
    return median(_milliseconds(act, fresh) for _ in range(REQUESTS))


def _milliseconds(act: Callable[[], object], fresh: bool) -> float:
    if fresh:
        sampler.forget()
        cached_lines.cache_clear()
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1000


# -- open pages --------------------------------------------------------------------------------------------------------


def _open(client: Client, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Shares of a core, in percent, of a web process with so many open pages."""
    kinds: dict[str, OpenPage] = {
        "polling": polling("/live/data/"),
        "WebSockets": listening,
        "a page that says nothing": polling("/nothing/"),
    }
    found: dict[str, list[float]] = {name: [] for name in ("no page", *kinds)}
    cookie = f"sessionid={client.cookies['sessionid'].value}"
    port = free_port()
    with running("daphne", "-v", "0", "-p", str(port), "benchmarks.dashboard_asgi:application") as web:
        _await(port)
        for _ in range(rounds):
            found["no page"].append(
                asyncio.run(open_pages(0, listening, port, cookie, seconds, lambda: cpu_seconds(web.pid)))[0]
            )
            for name, page in kinds.items():
                share, came = asyncio.run(
                    open_pages(PAGES, page, port, cookie, seconds, lambda: cpu_seconds(web.pid))
                )
                assert came >= (1 if page is listening else PAGES * seconds / 2 * 0.8), (
                    f"{came} answers to {name}"
                )
                found[name].append(share)
    return {f"open: {name}": shares for name, shares in found.items()}


def _await(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            HTTPConnection("127.0.0.1", port, timeout=10).request("GET", "/nothing/")
            return
        except OSError:
            assert time.monotonic() < deadline, "the web process does not answer"
            time.sleep(0.1)


# -- history -----------------------------------------------------------------------------------------------------------


def _records(rounds: int) -> dict[str, list[float]]:
    """What one worker pays for its history with each heartbeat, as a share of a core in percent, the server's too."""
    layer = get_layer()
    times = (0, 0, 0, 5, *[0] * 20)
    rows = [
        HistoryRow(("channel", f"c{n:03}"), sent=5, done=5, longest_wait=0.1, waits=times, runs=times)
        for n in range(OF_CHANNELS)
    ]
    layer.record(rows)
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(FLUSHES):
            layer.record(rows)
        found.append((time.perf_counter() - begun) / FLUSHES / EVERY_S * 100)
    return {"history: recorded": found}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
