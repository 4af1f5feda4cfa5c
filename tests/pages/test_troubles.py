"""The live page in each trouble of docs/how-to/is-it-well.md, which shows the screenshots that are taken here."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User

from mailrail.dashboard.lines import _lines
from mailrail.health import Problem, Readiness
from mailrail.layers import get_layer
from mailrail.layers.history import ALL, BUCKETS, HistoryRow
from mailrail.monitoring import sampler
from mailrail.monitoring.facts import (
    ChannelFacts,
    Count,
    FlowFacts,
    Pause,
    SlotFacts,
    TroubleFacts,
    WorkerFacts,
    WorkFacts,
)
from mailrail.monitoring.sample import Sample

from ..chromium import Windows, axe, expect
from ..processes import ROOT
from .test_every_page import SCHEMES, assert_it_fits, keep_screenshot

PAGE = ROOT / "docs" / "how-to" / "is-it-well.md"
NOW = time.time()
OUT = Pause(NOW - 660, reason="[Errno 111] Connection refused")


def a_channel(name: str, **facts: Any) -> ChannelFacts:
    rates = {"sent_per_minute": 12.0, "done_per_minute": 12.0, "failed_per_minute": 0.0}
    return ChannelFacts("default", name, **{**rates, **facts})


def a_worker(name: str, **facts: Any) -> WorkerFacts:
    values: dict[str, Any] = {
        "host": "web-1",
        "pid": 4711,
        "version": "0.1.0",
        "release": "2026-11-30",
        "age": 3.0,
    }
    values |= {"memory": 88 << 20, "threads": 4, "started_at": NOW - 9 * 3600}
    return WorkerFacts(name, **{**values, **facts})


SMTP = FlowFacts("smtp", sent_per_minute=610.0, connections=2, max_connections=8)
REPORTS, INVITES, MAIL = a_channel("reports"), a_channel("send-invite"), a_channel("mailrail.mail.smtp")
WORKERS = (a_worker("web-1:4711"), a_worker("web-2:302", host="web-2", pid=302))
WELL = Sample(NOW, "default", Readiness(), (REPORTS, INVITES, MAIL), WORKERS, (SMTP,))


def wrong(kind: str, name: str, detail: str, seconds: float | None, **facts: Any) -> Sample:
    """Return a sample with one problem, as the rules of ``channels check`` find it."""
    since = None if seconds is None else NOW - seconds
    health = Readiness((Problem(detail, detail, since, kind, name),))
    return replace(WELL, health=health, **facts)


TROUBLES: dict[str, tuple[Sample, str]] = {
    "well": (
        replace(
            WELL,
            work=(
                WorkFacts(
                    "list of invitations", "team@example.com", "m.list", "7", Count(340), Count(2), Count(500)
                ),
            ),
            workers=(a_worker("web-1:4711", slots=(SlotFacts("reports", "1", NOW - 42),)), WORKERS[1]),
        ),
        "All is well",
    ),
    "outage": (
        wrong(
            "mailer",
            "smtp",
            "mailer 'smtp' has been out for 660 s: [Errno 111] Connection refused",
            660,
            flows=(
                replace(
                    SMTP,
                    sent_per_minute=0.0,
                    waiting={"outage": Count(4120, True)},
                    oldest_due=655.0,
                    connections=0,
                    outage=OUT,
                    next_probe_at=NOW + 38,
                    seconds_left=405.0,
                ),
            ),
            troubles=(TroubleFacts("mailer", "smtp", OUT.reason, 12, 0, NOW - 660, NOW - 22),),
        ),
        "Mailer smtp is out: [Errno 111] Connection refused, since",
    ),
    "slow": (
        replace(
            WELL,
            flows=(
                replace(
                    SMTP,
                    sent_per_minute=60.0,
                    waiting={"rate": Count(2400, True), "retry": Count(35)},
                    oldest_due=95.0,
                    pace=1.0,
                    pace_reason="421 4.7.0 Too many messages, slow down",
                    seconds_left=2435.0,
                ),
            ),
        ),
        "Too many messages",
    ),
    "no-workers": (
        wrong(
            "workers",
            "",
            "no workers are running",
            None,
            channels=(
                a_channel("reports", ready=Count(18), oldest_due=48.0, done_per_minute=0.0),
                INVITES,
                MAIL,
            ),
            workers=(),
        ),
        "No worker has been seen",
    ),
    "killed-worker": (
        replace(WELL, workers=(WORKERS[0], replace(WORKERS[1], age=44.0, is_silent=True))),
        "silent: killed, stopped or cut off",
    ),
    "other-release": (
        replace(WELL, workers=(WORKERS[0], replace(WORKERS[1], release="2026-11-29", is_other_release=True))),
        "another release than the others",
    ),
    "late-channel": (
        wrong(
            "channel",
            "reports",
            "a message on reports has been due for 840 s, more than 300 s",
            840,
            channels=(
                a_channel(
                    "reports",
                    ready=Count(100, True),
                    claimed=Count(8),
                    oldest_due=840.0,
                    sent_per_minute=90.0,
                ),
                INVITES,
                MAIL,
            ),
            workers=tuple(
                replace(
                    worker, slots=tuple(SlotFacts("reports", str(n), NOW - 512 + 14 * n) for n in range(4))
                )
                for worker in WORKERS
            ),
        ),
        "a message has been due for",
    ),
    "paused": (
        replace(
            WELL,
            channels=(
                a_channel(
                    "reports",
                    ready=Count(57),
                    done_per_minute=0.0,
                    pause=Pause(NOW - 2400, "ada", "the warehouse is being rebuilt"),
                ),
                INVITES,
                MAIL,
            ),
        ),
        "by ada: the warehouse is being rebuilt",
    ),
    "no-route": (
        replace(
            WELL, channels=(a_channel("report", ready=Count(3), is_routed=False), REPORTS, INVITES, MAIL)
        ),
        "no route: nobody here consumes it",
    ),
    "dead": (
        replace(
            WELL,
            channels=(
                a_channel("reports", dead=Count(14), scheduled=Count(6), failed_per_minute=1.4),
                INVITES,
                MAIL,
            ),
            troubles=(
                TroubleFacts("channel", "reports", "reports.api.QuotaExceeded", 76, 14, NOW - 5400, NOW - 40),
                TroubleFacts("mailer", "smtp", "550 5.1.1 No such mailbox", 3, 3, NOW - 3200, NOW - 800),
            ),
        ),
        "14 failed for good",
    ),
}
"""By the name of its screenshot: what is found out, and what the page says of it."""


@pytest.fixture(autouse=True)
def without_old_samples() -> Iterator[None]:
    sampler.forget()
    _lines.cache_clear()
    yield
    sampler.forget()
    _lines.cache_clear()


def an_hour_of_history() -> list[HistoryRow]:
    """Return an hour in which every fifth minute was busier."""
    waits, runs = [0] * BUCKETS, [0] * BUCKETS
    waits[5], waits[9], runs[6], runs[11] = 9, 1, 9, 1
    counts = [20 + 12 * (minute % 5 == 0) for minute in range(60)]
    return [
        HistoryRow(
            ALL,
            NOW - 60 * minute,
            sent=n,
            done=n,
            retried=n // 30,
            longest_wait=n / 40,
            waits=waits,
            runs=runs,
        )
        for minute, n in enumerate(counts, start=1)
    ]


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_is_named_and_its_screenshot_can_be_read(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found, said = TROUBLES[name]
    monkeypatch.setattr(sampler, "sample", lambda *arguments: found)
    get_layer().record(an_hour_of_history())
    page = windows.open(User.objects.create_superuser("boss"))
    page.goto("/mailrail/")
    expect(page.locator("main")).to_contain_text(said)
    expect(page.locator("#health")).to_have_attribute("data-state", "bad" if found.health.problems else "ok")
    page.set_viewport_size({"width": 1280, "height": 900})
    faults = axe(page)
    assert not faults, "\n".join(faults)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        keep_screenshot(page, f"live-{name}-{scheme}")
    assert_it_fits(page)


def test_the_page_for_people_on_call_shows_each_of_them() -> None:
    assert re.findall(r"```{screenshot} live-(\S+)", PAGE.read_text()) == [*TROUBLES]
