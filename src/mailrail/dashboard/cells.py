"""Make the cells and rows of the live page's tables."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from mailrail.monitoring.facts import Count
from mailrail.terminal import single_line

from .formats import number, rate

State: TypeAlias = Literal["", "ok", "warn", "bad"]
Cell: TypeAlias = dict[str, Any]

MAX_TEXT_LENGTH = 300
"""Characters of a text that others wrote: an error message may be long."""


def cell(text: object, state: State = "", *, href: str = "", title: str = "", n: float | None = None) -> Cell:
    """Return a cell. Characters that steer terminals, or that nobody sees, are written out in its text.

    ``href``: where its text leads, if it has one. ``n``: its number, for charts and for marking what changed.
    """
    said = shown(str(text))
    optional = {"s": state, "h": href if said else "", "i": shown(title)}
    made: Cell = {"t": said, **{key: value for key, value in optional.items() if value}}
    return made if n is None else {**made, "n": n}


def shown(text: str) -> str:
    """Return a text of others on one line, cut if it is long."""
    text = single_line(text)
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"


def count_cell(count: Count, state: State = "", *, href: str = "") -> Cell:
    """Return a cell with a number, which has its state and leads somewhere only if it is not zero."""
    if not count.n:
        return cell(number(count), n=0)
    return cell(number(count), state, href=href, n=count.n)


def rate_cell(value: float | None, state: State = "") -> Cell:
    """Return a cell with a rate per minute, empty if nobody knows it."""
    return cell(rate(value), state if value else "", n=value)


def row(key: str, state: State, cells: dict[str, Cell], actions: list[str] | None = None) -> dict[str, Any]:
    """Return a row. ``actions``: what the viewer may do with it."""
    return {"key": key, "state": state, "cells": cells, "actions": actions or []}
