"""When schedules are due: as clocks show it, in every zone, also in the nights when clocks are changed."""

from __future__ import annotations

import os
import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice, pairwise
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import tzdata
from django.utils.translation import override

from mailrail.schedule.describing import describe
from mailrail.schedule.times import Cron, Every
from mailrail.schedule.zones import load_zone, zone_data

from . import clocks

ZONES = files(tzdata).joinpath("zones").read_text().split()


def region_of(zone: str) -> str:
    return zone.partition("/")[0] if "/" in zone else "no region"


REGIONS = sorted({region_of(zone) for zone in ZONES})


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[misc,arg-type]


def by_clock(moments: Iterator[datetime], zone: str) -> list[datetime]:
    return [moment.astimezone(load_zone(zone)) for moment in moments]


def ticks_on(year: int, month: int, day: int, expression: str, zone: str) -> list[str]:
    """What is due on a day of the zone, by its clocks."""
    start = utc(year, month, day) - timedelta(hours=15)
    moments = Cron(expression, zone).ticks(start, start + timedelta(hours=54))
    return [f"{moment:%H:%M %z}" for moment in by_clock(moments, zone) if moment.day == day]


# -- the rule, in every zone -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> set[clocks.Change]:
    """The changes of clocks that were compared in another zone."""
    return set()


@pytest.fixture(scope="module")
def seen_rules() -> set[bytes]:
    """The files of the zones that were compared."""
    return set()


@pytest.mark.parametrize("region", REGIONS)
def test_whenever_clocks_are_changed_ticks_follow_the_rule(
    region: str, seen: set[clocks.Change], seen_rules: set[bytes]
) -> None:
    """A change that several zones have in common is compared with all expressions once, then with two.

    Of a zone that is another name of one, the first change is compared.
    """
    for name in (name for name in ZONES if region_of(name) == region):
        zone, rules = load_zone(name), files(tzdata).joinpath("zoneinfo", *name.split("/")).read_bytes()
        number = 1 if rules in seen_rules else None
        seen_rules.add(rules)
        for change in islice(clocks.changes(zone), number):
            start, end = change.at - change.margin, change.at + change.margin
            for expression in clocks.expressions(change)[: 2 if change in seen else None]:
                found = list(Cron(expression, name).ticks(start, end))
                assert found == clocks.due(expression, zone, start, end), f"{expression} in {name}"
            seen.add(change)


BERLIN, LORD_HOWE, CAIRO = "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo"


@pytest.mark.parametrize(
    ("zone", "day", "expression", "expected"),
    [
        # From 2:00 to 3:00, and back.
        (BERLIN, (2026, 3, 29), "30 2 * * *", ["03:00 +0200"]),
        (BERLIN, (2026, 3, 29), "0,30 2,3 * * *", ["03:00 +0200", "03:30 +0200"]),
        (BERLIN, (2026, 3, 29), "*/30 2 * * *", []),
        (BERLIN, (2026, 3, 29), "30 * * * *", [f"{h:02}:30 +0{1 + (h > 2)}00" for h in range(24) if h != 2]),
        (BERLIN, (2026, 10, 25), "30 2 * * *", ["02:30 +0200"]),
        (
            BERLIN,
            (2026, 10, 25),
            "*/30 2 * * *",
            ["02:00 +0200", "02:30 +0200", "02:00 +0100", "02:30 +0100"],
        ),
        # From 2:00 to 2:30, and back.
        (LORD_HOWE, (2026, 10, 4), "15 2 * * *", ["02:30 +1100"]),
        (LORD_HOWE, (2026, 10, 4), "*/20 3 * * *", ["03:00 +1100", "03:20 +1100", "03:40 +1100"]),
        (LORD_HOWE, (2026, 4, 5), "45 1 * * *", ["01:45 +1100"]),
        (
            LORD_HOWE,
            (2026, 4, 5),
            "*/20 1 * * *",
            ["01:00 +1100", "01:20 +1100", "01:40 +1100", "01:40 +1030"],
        ),
        # From midnight to 1:00, and from midnight back to 23:00.
        (CAIRO, (2026, 4, 24), "0 0 * * *", ["01:00 +0300"]),
        (CAIRO, (2026, 4, 24), "*/20 0 * * *", []),
        (CAIRO, (2026, 10, 29), "30 23 * * *", ["23:30 +0300"]),
        (CAIRO, (2026, 10, 29), "30 * 29 10 *", [*(f"{h:02}:30 +0300" for h in range(24)), "23:30 +0200"]),
    ],
)
def test_a_time_that_is_skipped_or_comes_twice_is_due(
    zone: str, day: tuple[int, int, int], expression: str, expected: list[str]
) -> None:
    assert ticks_on(*day, expression, zone) == expected


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/7 2 * * *", "10,50 * * * *", "0 1-3 * * *"])
@pytest.mark.parametrize("change", [utc(2026, 3, 29, 1), utc(2026, 10, 25, 1)])
def test_what_is_due_does_not_depend_on_when_somebody_looks(expression: str, change: datetime) -> None:
    cron, start = Cron(expression, BERLIN), change - timedelta(hours=3)
    moments = list(cron.ticks(start, change + timedelta(days=2)))
    for minute in range(6 * 60):
        for looked_at in (start + timedelta(minutes=minute), start + timedelta(minutes=minute, seconds=29.5)):
            assert cron.next(looked_at) == next(moment for moment in moments if moment > looked_at)


def test_ticks_are_later_than_the_first_moment_and_include_the_last() -> None:
    cron = Cron("*/5 * * * *", "UTC")
    found = list(cron.ticks(utc(2026, 5, 1, 10, 5), utc(2026, 5, 1, 10, 15)))
    assert found == [utc(2026, 5, 1, 10, 10), utc(2026, 5, 1, 10, 15)]


def test_without_a_zone_that_of_django_decides(settings: Any) -> None:
    cron = Cron("0 10 * * *")
    for zone, hour in ("Asia/Tokyo", 1), ("America/New_York", 14):
        settings.TIME_ZONE = zone
        assert cron.next(utc(2026, 5, 1)) == utc(2026, 5, 1, hour)


@pytest.mark.parametrize(
    ("expression", "mistake"),
    [
        ("* * * *", "Wrong number of fields"),
        ("@daily", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("0 0 * * FRI-MON", "Bad day-of-week"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("*/30 * * * * *", r"a field for seconds is not supported, every\(seconds=…\) is"),
        ("* * */20 * 1L", "there is no such day"),
        (f"{','.join(map(str, range(60)))} {','.join(map(str, range(12)))} * * *", "at most 200 characters"),
    ],
)
def test_an_expression_that_is_never_due_is_refused(expression: str, mistake: str) -> None:
    with pytest.raises(ValueError, match=rf"^The cron expression '.*' is wrong: {mistake}.* five fields"):
        Cron(expression)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlim", "", "Europe", "../etc/passwd", "/etc/localtime", "zone.tab", "ZÜRICH"]
)
def test_a_zone_that_does_not_exist_is_refused(zone: str) -> None:
    with pytest.raises(
        ValueError, match=r'^tz must be the name of a time zone, such as "Europe/Berlin", not '
    ):
        Cron("0 9 * * *", zone)


@pytest.mark.parametrize("times", [Cron("0 9 * * *"), Every(60)])
def test_naive_moments_are_refused(times: Cron | Every) -> None:
    naive = utc(2026, 5, 1).replace(tzinfo=None)
    with pytest.raises(ValueError, match=r"^after must be an aware datetime"):
        times.next(naive)
    with pytest.raises(ValueError, match=r"^until must be an aware datetime"):
        times.ticks(utc(2026, 5, 1), naive)


def test_without_the_extra_a_cron_expression_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"mailrail\[schedule\]"):
        Cron("0 9 * * *")


# -- every so many seconds ---------------------------------------------------------------------------------------------


def test_every_so_many_seconds_means_the_same_moments_for_everybody() -> None:
    every = Every(300)
    moments = list(every.ticks(utc(2026, 10, 25, 0, 52, 30), utc(2026, 10, 25, 1, 5)))
    assert [f"{moment:%H:%M:%S}" for moment in moments] == ["00:55:00", "01:00:00", "01:05:00"]
    assert every.next(utc(2026, 10, 25, 0, 55)) == utc(2026, 10, 25, 1)


def test_parts_of_a_second_do_not_drift() -> None:
    start = utc(2026, 5, 1)
    moments = list(islice(Every(0.2).ticks(start), 1000))
    assert {later - moment for moment, later in pairwise([start, *moments])} == {timedelta(seconds=0.2)}


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError),
        (-5, ValueError),
        (float("nan"), ValueError),
        (1e10, ValueError),
        ("5", TypeError),
        (True, TypeError),
    ],
)
def test_seconds_out_of_range_are_refused(seconds: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^seconds must be "):
        Every(seconds)


# -- zone data ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Path]:
    """The folder of a system's zones, in which Berlin has Tokyo's time."""
    (tmp_path / "Europe").mkdir()
    copyfile(str(files(tzdata).joinpath("zoneinfo", "Asia", "Tokyo")), tmp_path / "Europe" / "Berlin")
    zoneinfo.reset_tzpath([tmp_path])
    yield tmp_path
    zoneinfo.reset_tzpath()


@pytest.mark.parametrize(("version", "hour"), [("2099a", 1), ("1999a", 8), ("", 8)])
def test_the_newest_zone_data_decides(system: Path, version: str, hour: int) -> None:
    if version:
        (system / "tzdata.zi").write_text(f"# version {version}\n")
    assert Cron("0 10 * * *", "Europe/Berlin").next(utc(2026, 5, 1)) == utc(2026, 5, 1, hour)
    assert Cron("0 10 * * *", "Asia/Tokyo").next(utc(2026, 5, 1)) == utc(
        2026, 5, 1, 1
    )  # only the package has it
    assert {str(data) for data in zone_data()} == {
        f"{tzdata.IANA_VERSION} (package tzdata)",
        f"{version or 'unknown version'} ({system})",
    }


def test_ticks_to_come_follow_zone_data_that_has_changed(system: Path) -> None:
    (system / "tzdata.zi").write_text("# version 2099a\n")
    cron = Cron("0 9 * * *", "Europe/Berlin")
    assert cron.next(utc(2026, 5, 1)) == utc(2026, 5, 2)
    copyfile(str(files(tzdata).joinpath("zoneinfo", "America", "Bogota")), system / "Europe" / "Berlin")
    os.utime(system / "Europe" / "Berlin", (1, 1))
    assert cron.next(utc(2026, 5, 1)) == utc(2026, 5, 1, 14)


@pytest.mark.skipif(tzdata.IANA_VERSION < "2026f", reason="the rules of 2026f")
def test_zones_without_winter_time_keep_their_hour() -> None:
    for zone in ("America/Vancouver", "America/Edmonton", "America/Winnipeg", "Africa/Casablanca"):
        hours = {moment.hour for moment in Cron("0 9 * * *", zone).ticks(utc(2027, 1, 1), utc(2029, 1, 1))}
        assert len(hours) == 1, zone


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "At 09:30, only on Friday"),
        ("de", "Um 09:30, nur am Freitag"),
        ("zh-hans", "在 09:30, 仅在 星期五"),
    ],
)
def test_an_expression_is_told_in_words(language: str, expected: str) -> None:
    with override(language):
        assert describe(Cron("30 9 * * FRI")) == expected


def test_without_cron_descriptor_the_expression_stands_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cron_descriptor", None)
    assert describe(Cron("30 9 * * *")) == "30 9 * * *"
