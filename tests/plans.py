"""What PostgreSQL's planner made of a statement, with what it touched when it was carried out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def forget_statistics(cursor: Any, *tables: str) -> None:
    """Empty the tables, and let the planner know of them what it knows of a queue that was never long.

    ANALYZE of an empty table keeps what an earlier one has found out of its columns.
    """
    cursor.execute(f"TRUNCATE {', '.join(tables)}")
    for table in tables:
        cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
        cursor.execute(f"VACUUM ANALYZE {table}")


def plan_of(cursor: Any, statement: str, values: Any = None) -> list[dict[str, Any]]:
    """The nodes of the plan."""
    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
    [(plan,)] = cursor.fetchall()
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return flat(plan[0]["Plan"])


def prepared_plan_of(cursor: Any, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same of a plan that knows no values, as one is that was prepared, with the buffers that it touched."""
    names = list(dict.fromkeys(_PLACEHOLDER.findall(statement)))
    numbered = _PLACEHOLDER.sub(lambda match: f"${names.index(match[1]) + 1}", statement)
    cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    cursor.execute(f"PREPARE explained AS {numbered}")
    places = ", ".join(["%s"] * len(names))
    cursor.execute(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained ({places})",
        [values[name] for name in names],
    )
    [(plan,)] = cursor.fetchall()
    cursor.execute("DEALLOCATE explained")
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return flat(plan[0]["Plan"])


def buffers(nodes: list[dict[str, Any]]) -> int:
    """All that a plan has touched. The node on top counts no statements of a WITH that nothing reads from."""
    read = {node["CTE Name"] for node in nodes if node["Node Type"] == "CTE Scan" and node["Actual Loops"]}
    apart = [n for n in nodes if n["Node Type"] == "ModifyTable" and n.get("Subplan Name", "")[:4] == "CTE "]
    apart = [node for node in apart if node["Subplan Name"].removeprefix("CTE ") not in read]
    return sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in [nodes[0], *apart])


def flat(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a plan, the one on top first."""
    return list(_walk(plan))


def rows(node: dict[str, Any]) -> float:
    """That a node has read."""
    read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    read += node.get("Rows Removed by Index Recheck", 0)
    return float(read * node["Actual Loops"])


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _walk(inner)
