"""A run written down: Markdown for people, JSON for comparing runs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import django

import mailrail

from .figures import Plan, Result

FOLDER = Path(__file__).resolve().parent / "results"

Conditions = dict[str, str]


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def conditions(plan: Plan, database: str) -> Conditions:
    """What the figures depend on, read before the first benchmark."""
    return {
        "mailrail": mailrail.__version__,
        "Python": platform.python_version(),
        "Django": django.get_version(),
        "database": database,
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
        "rounds": f"{plan.rounds}{', quick: a tenth of the size' if plan.quick else ''}",
        "load before": load(),
    }


def load() -> str:
    """Of the last 1, 5 and 15 minutes. After a run, the benchmarks themselves make most of it."""
    return ", ".join(f"{each:.2f}" for each in os.getloadavg())


def as_markdown(under: Conditions, results: Sequence[Result]) -> str:
    lines = [
        f"# Benchmarks on {under['database'].split()[0]}, {today()}",
        "",
        "Medians of all rounds; ours and the baseline took turns in the same run. Compare ratios, not times.",
        "",
        *(f"- {name}: {value}" for name, value in under.items()),
    ]
    for result in results:
        lines += ["", *section(result)]
    return "\n".join(lines) + "\n"


def section(result: Result) -> list[str]:
    lines = [f"## {result.title}", "", result.how, "", "| | median | rounds | |", "|---|---:|---|---|"]
    for series in result.series:
        rounds = ", ".join(map(_short, series.values))
        lines.append(f"| {series.name} | {_short(series.median)} | {rounds} | {series.unit} |")
    lines += ["", *(f"- {ratio.name}: {ratio.value:.2f} x" for ratio in result.ratios)]
    for target in result.targets:
        lines.append(f"- target {target.text}: {target.found}, **{'met' if target.met else 'not met'}**")
    return lines


def write(under: Conditions, results: Sequence[Result], folder: Path, on: str) -> Path:
    """Write both files, named after the day and what it was measured on. Returns the Markdown one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{today()}-{on}.md"
    path.write_text(as_markdown(under, results))
    everything = {"conditions": under, "results": [asdict(result) for result in results]}
    path.with_suffix(".json").write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
    return path


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
