"""What PostgreSQL's planner made of a statement, with what it touched when it was carried out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def plan_of(cursor: Any, statement: str, values: Any = None) -> list[dict[str, Any]]:
    """The nodes of the plan."""
    cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
    [(plan,)] = cursor.fetchall()
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return list(_walk(plan[0]["Plan"]))


def rows(node: dict[str, Any]) -> float:
    """That a node has read."""
    read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    read += node.get("Rows Removed by Index Recheck", 0)
    return float(read * node["Actual Loops"])


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _walk(inner)
