"""Put a sample into words, for terminals of any width and as JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from django.utils.functional import Promise

from ..moments import for_machines, for_people, from_timestamp
from ..pauses import Pause
from ..terminal import single_line
from .channels import Severity
from .facts import ChannelFacts, Count, FlowFacts, WorkerFacts
from .sample import Sample

_MOMENTS = {"at", "since", "next_probe_at", "started_at", "first_at", "last_at"}
_GAP = "  "
MAX_PROBLEMS = 5
"""Problems that are shown at once; the worst of each kind come first."""
LONG_NAME_WIDTH, NOTE_WIDTH = 28, 16
"""Columns of a terminal that names and notes get before numbers give way to them, if they need as many."""

Paint = Callable[[Severity, str], str]
"""Colours a line."""


@dataclass(frozen=True, slots=True)
class ScreenColumn:
    """A column of a table. Where the terminal is narrow, those of the highest ``rank`` are left out first.

    ``width`` is the least: numbers that grow do not move the others. ``0``: as wide as is left; texts are cut.
    """

    title: str
    width: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class ScreenRow:
    """The cells of a row of a table, and how much it needs somebody."""

    cells: tuple[str, ...]
    severity: Severity = "ok"


_CHANNELS = (
    ScreenColumn("CHANNEL"),
    ScreenColumn("ready", 8),
    ScreenColumn("scheduled", 9, 5),
    ScreenColumn("claimed", 7, 3),
    ScreenColumn("dead", 6, 1),
    ScreenColumn("oldest", 7, 1),
    ScreenColumn("sent/min", 8, 4),
    ScreenColumn("done/min", 8, 2),
    ScreenColumn("failed/min", 10, 4),
    ScreenColumn("", 0, 1),
)
_MAILERS = (
    ScreenColumn("MAILER"),
    ScreenColumn("sent/min", 8, 1),
    ScreenColumn("waiting", 8),
    ScreenColumn("failed", 6, 2),
    ScreenColumn("oldest", 7, 3),
    ScreenColumn("left", 7, 4),
    ScreenColumn("", 0, 0),
)
_WORKERS = (
    ScreenColumn("WORKER"),
    ScreenColumn("host", 12, 2),
    ScreenColumn("pid", 7, 3),
    ScreenColumn("seen", 6, 1),
    ScreenColumn("memory", 7, 4),
    ScreenColumn("running", 7, 2),
    ScreenColumn("", 0, 1),
)

_NO_WORKER = "No worker has been seen. Start one: manage.py runworker"


def lines_of(
    sample: Sample, width: int, height: int, paint: Paint = lambda severity, text: text
) -> list[str]:
    """Return the lines of a frame: what is wrong, the channels that need somebody first, the mailers, the workers.

    Channels get the lines that the others leave. No line is wider than the terminal.
    """
    head = _health_lines(sample, width, paint)
    mailers = [_mailer_row(flow, sample.at) for flow in sample.flows]
    workers = [_worker_row(worker, sample.at) for worker in sample.workers]
    few = max(3, height // 5)
    below = [
        *_section(_MAILERS, mailers, few, width, paint, ""),
        *_section(_WORKERS, workers, few, width, paint, _without(sample, _NO_WORKER)),
    ]
    room = max(1, height - len(head) - len(below) - 2)
    channels = [_channel_row(channel, sample.severity(channel), sample.at) for channel in sample.channels]
    nothing = _without(sample, "There are no channels.")
    return [*head, *_section(_CHANNELS, channels, room, width, paint, nothing), *below][:height]


def _without(sample: Sample, text: str) -> str:
    """Return what stands for a table without rows: the text, unless the layer might have some."""
    return "" if sample.has_unknown_layer else text


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _health_lines(sample: Sample, width: int, paint: Paint) -> list[str]:
    moment = for_people(from_timestamp(sample.at))
    problems = sample.health.problems
    state = "All is well" if not problems else f"{len(problems):,} problem{'s' * (len(problems) > 1)}"
    lines = [paint("bad" if problems else "ok", cut(f"{state}   layer {sample.layer}   {moment}", width))]
    for problem in problems[:MAX_PROBLEMS]:
        since = "" if problem.since is None else f"since {clock(problem.since, sample.at)}: "
        lines.append(paint("bad", cut(f"{since}{problem.detail}", width)))
    if len(problems) > MAX_PROBLEMS:
        lines.append(cut(f"… and {len(problems) - MAX_PROBLEMS:,} more: manage.py channels check", width))
    return [*lines, ""]


# -- rows -------------------------------------------------------------------------------------------------------------


def _channel_row(channel: ChannelFacts, severity: Severity, now: float) -> ScreenRow:
    notes = [] if channel.pause is None else [f"paused{_stopped(channel.pause, now)}"]
    notes += ["no route"] * (not channel.is_routed)
    return ScreenRow(
        (
            channel.name,
            number(channel.ready),
            number(channel.scheduled),
            number(channel.claimed),
            number(channel.dead),
            duration(channel.oldest_due),
            rate(channel.sent_per_minute),
            rate(channel.done_per_minute),
            rate(channel.failed_per_minute),
            ", ".join(notes),
        ),
        severity,
    )


def _mailer_row(flow: FlowFacts, now: float) -> ScreenRow:
    total = Count(sum(c.n for c in flow.waiting.values()), any(c.is_estimate for c in flow.waiting.values()))
    return ScreenRow(
        (
            flow.mailer or "default",
            rate(flow.sent_per_minute),
            number(total),
            number(flow.failed),
            duration(flow.oldest_due),
            duration(flow.seconds_left),
            "; ".join(_mailer_notes(flow, now)),
        ),
        "bad" if flow.outage else "warn" if flow.pause or flow.failed.n else "ok",
    )


def _mailer_notes(flow: FlowFacts, now: float) -> Iterable[str]:
    if flow.outage and flow.next_probe_at is not None:
        yield f"tried next {clock(flow.next_probe_at, now)}"
    if flow.stands_in:
        yield f"{flow.stands_in} stands in"
    if flow.waiting:
        yield "waiting for " + ", ".join(
            f"{reason} {number(count)}" for reason, count in flow.waiting.items()
        )
    if flow.pace is not None:
        yield f"at most {flow.pace:.3g}/s: {flow.pace_reason}"
    elif flow.pace_reason:
        yield str(flow.pace_reason)
    if flow.connections is not None:
        yield f"{flow.connections} of {flow.max_connections} connections"
    if flow.outage:
        yield f"out{_stopped(flow.outage, now)}"
    if flow.pause:
        yield f"paused{_stopped(flow.pause, now)}"


def _stopped(pause: Pause, now: float) -> str:
    """Return since when, by whom and why, to go behind a word."""
    since = "" if pause.since is None else f" since {clock(pause.since, now)}"
    return since + (f" by {pause.by}" if pause.by else "") + (f" ({pause.reason})" if pause.reason else "")


def _worker_row(worker: WorkerFacts, now: float) -> ScreenRow:
    notes = ["stopping"] * worker.is_stopping + ["silent"] * worker.is_silent
    notes += [f"release {worker.release}"] if worker.is_other_release else []
    notes += [f"{slot.channel} {duration(now - slot.since)}" for slot in worker.slots]
    return ScreenRow(
        (
            worker.id,
            worker.host,
            "" if worker.pid is None else str(worker.pid),
            duration(worker.age),
            "-" if worker.memory is None else f"{worker.memory / 1024**2:,.0f} MB",
            str(len(worker.slots)),
            ", ".join(notes),
        ),
        "bad" if worker.is_silent else "warn" if worker.is_other_release else "ok",
    )


# -- tables -----------------------------------------------------------------------------------------------------------


def _section(
    columns: Sequence[ScreenColumn],
    rows: Sequence[ScreenRow],
    most: int,
    width: int,
    paint: Paint,
    nothing: str,
) -> list[str]:
    """Return a table of the first rows, a line with the number of the others, and an empty one."""
    if not rows:
        return [cut(nothing, width), ""] if nothing else []
    shown = rows if len(rows) <= most else rows[: max(1, most - 1)]
    lines = _table(columns, shown, width, paint)
    if len(shown) < len(rows):
        lines.append(cut(f"… and {len(rows) - len(shown):,} more", width))
    return [*lines, ""]


def _table(columns: Sequence[ScreenColumn], rows: Sequence[ScreenRow], width: int, paint: Paint) -> list[str]:
    cells = [tuple(map(single_line, row.cells)) for row in rows]
    widths = [
        max(column.width, *(columns_of(text) for text in (column.title, *texts)))
        for column, *texts in zip(columns, *cells, strict=True)
    ]
    kept = _that_fit(columns, widths, width)
    lines = [_line(columns, [column.title for column in columns], widths, kept, width)]
    for row, texts in zip(rows, cells, strict=True):
        line = _line(columns, texts, widths, kept, width)
        lines.append(line if row.severity == "ok" else paint(row.severity, line))
    return lines


def _that_fit(columns: Sequence[ScreenColumn], widths: list[int], width: int) -> list[int]:
    """Return which columns are shown, and narrow ``widths`` of the name. The last one is cut at the end of the line.

    Columns give way until most of the names are whole, and notes can be guessed at least.
    """
    kept = [i for i in range(len(columns)) if widths[i]]
    name = min(widths[0], LONG_NAME_WIDTH)
    while True:
        room = width - sum(_least(columns[i], widths[i]) + len(_GAP) for i in kept[1:])
        if room >= name or len(kept) == 1:
            break
        kept.remove(max(kept[1:], key=lambda i: (columns[i].rank, i)))
    widths[0] = max(1, min(widths[0], max(room, name), width))
    return kept


def _least(column: ScreenColumn, width: int) -> int:
    return width if column.width else min(width, NOTE_WIDTH)


def _line(
    columns: Sequence[ScreenColumn],
    texts: Sequence[str],
    widths: Sequence[int],
    kept: Sequence[int],
    width: int,
) -> str:
    cells = []
    for i in kept:
        text = cut(texts[i], widths[i])
        space = " " * (widths[i] - columns_of(text))
        cells.append(space + text if columns[i].width else text + space)
    return cut(_GAP.join(cells).rstrip(), width)


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a text of others on one line, no wider than ``width``; ``…`` stands for what was cut off."""
    text = single_line(text)
    if columns_of(text) <= width:
        return text
    taken, end = 1, 0
    for end, character in enumerate(text):  # noqa: B007 - the number of characters that fit
        taken += _columns_of(character)
        if taken > width:
            break
    return text[:end] + "…" * (width > 0)


# -- cells ------------------------------------------------------------------------------------------------------------


def number(count: Count) -> str:
    """Return a number; estimates are marked."""
    return f"{'≈' * count.is_estimate}{count.n:,}"


def rate(per_minute: float | None) -> str:
    """Return a rate a minute, or ``-`` if nobody knows."""
    if per_minute is None:
        return "-"
    return f"{per_minute:,.1f}" if 0 < per_minute < 10 else f"{per_minute:,.0f}"


def duration(seconds: float | None) -> str:
    """Return a duration in its largest unit, or ``-`` if there is none."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def clock(moment: float, now: float) -> str:
    """Return a moment as people say it: the time, and before that the day, if it is not today's."""
    text = for_people(from_timestamp(moment))
    return text[11:19] if text[:10] == for_people(from_timestamp(now))[:10] else text[:19]


# -- JSON -------------------------------------------------------------------------------------------------------------


def facts_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as JSON has it: counts as objects, moments as ISO 8601 in UTC, durations in seconds."""
    return {"well": sample.health.is_ready, **_plain(sample)}


def _plain(value: Any) -> Any:
    if isinstance(value, Count):
        return value._asdict()
    if is_dataclass(value):
        return {f.name: _plain_field(f.name, getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Promise) else value


def _plain_field(name: str, value: Any) -> Any:
    return (
        for_machines(from_timestamp(value))
        if name in _MOMENTS and isinstance(value, float)
        else _plain(value)
    )
