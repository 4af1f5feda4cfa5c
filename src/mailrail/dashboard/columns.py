"""Declare what the tables of the live page show: their sections, and the columns of each, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy, pgettext_lazy


@dataclass(frozen=True, slots=True)
class Column:
    """Describe a column: ``name`` is its key in the cells, ``kind`` says how wide it is and how it is aligned.

    ``kind``: ``"name"`` (the header of its row), ``"number"``, ``"short"`` or ``"long"``.
    """

    name: str
    label: Any
    kind: str = "number"


@dataclass(frozen=True, slots=True)
class Section:
    """Describe a section of the page.

    ``series``: what its rows have a history as; ``""``: they have none. ``several``: several rows that are acted on.
    """

    name: str
    title: Any
    columns: tuple[Column, ...]
    series: str = ""
    several: Any = ""
    is_searched: bool = False


SECTIONS = (
    Section(
        "mail",
        pgettext_lazy("dashboard", "Mail"),
        (
            Column("name", pgettext_lazy("dashboard", "Mailer"), "name"),
            Column("sent", pgettext_lazy("dashboard", "Sent a minute")),
            Column("waiting", pgettext_lazy("dashboard", "Waiting")),
            Column("reasons", pgettext_lazy("dashboard", "Waiting for"), "short"),
            Column("failed", pgettext_lazy("dashboard", "Failed")),
            Column("oldest", pgettext_lazy("dashboard", "Oldest due")),
            Column("pace", pgettext_lazy("dashboard", "Pace"), "short"),
            Column("connections", pgettext_lazy("dashboard", "Connections")),
            Column("left", pgettext_lazy("dashboard", "Time left")),
            Column("note", pgettext_lazy("dashboard", "Note"), "long"),
        ),
        series="mailer",
        several=gettext_lazy("{count} mailers"),
    ),
    Section(
        "channels",
        pgettext_lazy("dashboard", "Channels"),
        (
            Column("name", pgettext_lazy("dashboard", "Channel"), "name"),
            Column("ready", pgettext_lazy("dashboard", "Ready")),
            Column("scheduled", pgettext_lazy("dashboard", "Scheduled")),
            Column("claimed", pgettext_lazy("dashboard", "Claimed")),
            Column("dead", pgettext_lazy("dashboard", "Dead")),
            Column("oldest", pgettext_lazy("dashboard", "Oldest due")),
            Column("sent", pgettext_lazy("dashboard", "In a minute")),
            Column("done", pgettext_lazy("dashboard", "Out a minute")),
            Column("failed", pgettext_lazy("dashboard", "Failed a minute")),
            Column("note", pgettext_lazy("dashboard", "Note"), "long"),
        ),
        series="channel",
        several=gettext_lazy("{count} channels"),
        is_searched=True,
    ),
    Section(
        "workers",
        pgettext_lazy("dashboard", "Workers"),
        (
            Column("name", pgettext_lazy("dashboard", "Worker"), "name"),
            Column("host", pgettext_lazy("dashboard", "Host"), "short"),
            Column("pid", pgettext_lazy("dashboard", "Process")),
            Column("version", pgettext_lazy("dashboard", "Mailrail")),
            Column("release", pgettext_lazy("dashboard", "Release"), "short"),
            Column("seen", pgettext_lazy("dashboard", "Heartbeat")),
            Column("memory", pgettext_lazy("dashboard", "Memory")),
            Column("slots", pgettext_lazy("dashboard", "Runs"), "long"),
            Column("note", pgettext_lazy("dashboard", "Note"), "short"),
        ),
    ),
    Section(
        "work",
        pgettext_lazy("dashboard", "Long work"),
        (
            Column("title", pgettext_lazy("dashboard", "Work"), "name"),
            Column("kind", pgettext_lazy("dashboard", "Kind"), "short"),
            Column("progress", pgettext_lazy("dashboard", "Progress"), "long"),
            Column("failed", pgettext_lazy("dashboard", "Failed")),
            Column("since", pgettext_lazy("dashboard", "Since")),
        ),
    ),
    Section(
        "troubles",
        pgettext_lazy("dashboard", "What went wrong last"),
        (
            Column("where", pgettext_lazy("dashboard", "Where"), "name"),
            Column("what", pgettext_lazy("dashboard", "What"), "long"),
            Column("count", pgettext_lazy("dashboard", "Count")),
            Column("last", pgettext_lazy("dashboard", "Last")),
            Column("first", pgettext_lazy("dashboard", "First")),
            Column("note", pgettext_lazy("dashboard", "Note"), "long"),
        ),
    ),
    Section(
        "operations",
        pgettext_lazy("dashboard", "Operations"),
        (
            Column("title", pgettext_lazy("dashboard", "Operation"), "name"),
            Column("by", pgettext_lazy("dashboard", "By"), "short"),
            Column("progress", pgettext_lazy("dashboard", "Progress"), "long"),
            Column("state", pgettext_lazy("dashboard", "State"), "short"),
        ),
        several=gettext_lazy("{count} operations"),
    ),
)
"""The sections of the page, in its order: what a person on call asks first comes first."""


def sections_of(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the sections that the page has, each row with its cells in the order of the columns."""
    for section in SECTIONS:
        if (content := page["sections"].get(section.name)) is not None:
            rows = [_row(section, row) for row in content["rows"]]
            yield {"section": section, **content, "rows": rows, "state": _worst(rows)}


def _row(section: Section, row: Mapping[str, Any]) -> dict[str, Any]:
    cells = [(column, row["cells"].get(column.name, {"t": ""})) for column in section.columns]
    return {**row, "cells": cells}


def _worst(rows: list[dict[str, Any]]) -> str:
    states = {row.get("state", "") for row in rows}
    return next((state for state in ("bad", "warn") if state in states), "")
