"""The lines of the live page: one number for each step of an hour, a day or a week."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from mailrail.dashboard import lines
from mailrail.layers import get_layer
from mailrail.layers.history import ALL, BUCKETS, HistoryRow

pytestmark = pytest.mark.django_db

LINES = "/mailrail/lines/"
NOW = 1_796_050_000 // 3600 * 3600 + 130.0
"""Ten seconds into the third minute of an hour."""


@pytest.fixture(autouse=True)
def at_a_known_moment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("mailrail.dashboard.lines.time.time", lambda: NOW)
    lines._lines.cache_clear()
    yield
    lines._lines.cache_clear()


def histogram(**counts: int) -> tuple[int, ...]:
    return tuple(counts.get(f"b{n}", 0) for n in range(BUCKETS))


def test_an_hour_has_sixty_minutes_without_the_present_one(admin_client: Client) -> None:
    row = HistoryRow(
        ("channel", "mails"),
        NOW - 70,
        sent=7,
        done=5,
        retried=2,
        buried=1,
        longest_wait=1.23456,
        waits=histogram(b10=4),
        runs=histogram(b4=1),
    )
    now = HistoryRow(("channel", "mails"), NOW, sent=99)
    get_layer().record([row, now])
    shown = admin_client.get(LINES, {"series": "channel:default/mails", "span": "hour"}).json()
    assert (shown["from"], shown["to"], shown["step"]) == (NOW - 10 - 3600, NOW - 10, 60)
    assert {name: (len(line), line[-1], line[0]) for name, line in shown["lines"].items()} == {
        "sent": (60, 7, 0),
        "done": (60, 5, 0),
        "failed": (60, 3, 0),
        "oldest": (60, 1.235, None),
        "start_p50": (60, 0.768, None),
        "start_p95": (60, shown["lines"]["start_p95"][-1], None),
        "run_p50": (60, 0.012, None),
        "run_p95": (60, shown["lines"]["run_p95"][-1], None),
    }
    assert 0.9 < shown["lines"]["start_p95"][-1] <= 1.024
    assert admin_client.get(LINES, {"series": "channel:mails", "span": "hour"}).json() == shown


@pytest.mark.parametrize(
    ("span", "points", "step"), [("hour", 60, 60), ("day", 144, 600), ("week", 168, 3600)]
)
def test_each_span_has_its_steps(admin_client: Client, span: str, points: int, step: int) -> None:
    get_layer().record([HistoryRow(ALL, NOW // step * step - step, sent=3)])
    shown = admin_client.get(LINES, {"series": "all", "span": span}).json()
    assert (shown["step"], len(shown["lines"]["sent"]), shown["lines"]["sent"][-1]) == (step, points, 3)


def test_a_mailer_has_lines(admin_client: Client) -> None:
    get_layer().record([HistoryRow(("mailer", "smtp"), NOW - 70, done=3)])
    assert admin_client.get(LINES, {"series": "mailer:smtp"}).json()["lines"]["done"][-1] == 3


@pytest.mark.parametrize(
    "query",
    [
        {"series": "channel:a b"},
        {"series": "channel:nolayer/mails"},
        {"series": "channel:"},
        {"series": "mailer:\0"},
        {"series": "mailer:" + "x" * 101},
        {"series": "other:1"},
        {"series": "all:1"},
        {"series": ""},
        {"span": "year"},
    ],
)
def test_what_has_no_lines_is_refused(admin_client: Client, query: dict[str, str]) -> None:
    response = admin_client.get(LINES, query)
    assert response.status_code == 400 and response.json()["text"]


def test_a_layer_that_cannot_be_used_is_told(admin_client: Client, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1"]},
        }
    }
    assert admin_client.get(LINES).status_code == 503


def test_many_who_ask_within_seconds_cost_one_question(
    admin_client: Client, django_assert_num_queries: Any
) -> None:
    admin_client.get(LINES)
    with django_assert_num_queries(0):
        admin_client.get(LINES)
