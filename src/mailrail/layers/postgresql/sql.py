"""What the statements for PostgreSQL 14 and up have in common. The modules ``…_sql`` hold them: whole, with the reason
for each unusual clause.

Placeholders are psycopg's ``%(name)s``. Lists travel as arrays and are read by ``unnest``: the statement's text stays
the same, so that its plan is made once.

``clock`` is read once per statement, and from there by a scalar subquery. Unlike ``now()``, ``clock_timestamp()`` goes
on inside a transaction. A volatile function cannot be the condition of an index scan.

Rows are always found by a list of ids (``id = ANY (…)``), even where a join would mean the same. A queue that was empty
when its statistics were made looks like one row to the planner. It would then walk the whole index to join it.

Nothing here relies on the order in which the parts of a WITH are carried out: they all see the same snapshot
(PostgreSQL manual, 7.8.4).
"""

from __future__ import annotations

from ..database_sql import COLUMNS

OF_M = ", ".join(f"m.{name}" for name in COLUMNS.split(", "))


def shortened(statement: str) -> str:
    """Without comments and line breaks. psycopg keeps what it has parsed of a statement if that is short enough."""
    return " ".join(line.partition("--")[0].strip() for line in statement.splitlines()).strip()


NOW = "date_part('epoch', clock_timestamp())"
CLOCK = f"clock AS MATERIALIZED (SELECT {NOW} AS now)"

# The priorities in use, found by jumping through the index from one to the next, never by reading the backlog. There
# are few. But the planner expects ten times as many rows as a recursion begins with, and ten times more from each
# recursion on top. That cost makes the server compile the statement (`jit_above_cost`) for longer than it runs. Of a
# comparison with a computed value it expects that hardly a row fulfils it: this one is true unless there is NULL.
LEVELS = """
    level (channel, priority, floor) AS (
        SELECT channel, (
            SELECT priority FROM mailrail_message m WHERE m.channel = open.channel AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM open
        UNION ALL
        SELECT channel, (
            SELECT priority FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority < level.priority AND m.held = 0
            ORDER BY priority DESC LIMIT 1), '-infinity'::float8
        FROM level WHERE priority = priority + 0)
"""

# The channels in use, found by jumping, too; and those that have dead messages.
IN_USE = """
    open (channel) AS (
        (SELECT channel FROM mailrail_message WHERE held = 0 ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT m.channel FROM mailrail_message m WHERE m.channel > open.channel AND m.held = 0
            ORDER BY m.channel LIMIT 1)
        FROM open WHERE channel = channel || '')
"""
OF_DEAD = """
    buried (channel) AS (
        (SELECT channel FROM mailrail_dead ORDER BY channel LIMIT 1)
        UNION ALL
        SELECT (
            SELECT d.channel FROM mailrail_dead d WHERE d.channel > buried.channel ORDER BY d.channel LIMIT 1)
        FROM buried WHERE channel = channel || '')
"""

# The claims that a statement is about. The token alone decides which of them still are.
GIVEN = "given (id, token) AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::uuid[], %(tokens)s::bigint[]))"

# By a hash of them. As a join, the planner, who expects a row or ten, would compare each with each: 40,000 times for a
# batch of 200. IS TRUE keeps it from making a join of this.
IS_GIVEN = """
    m.id = ANY (%(ids)s::uuid[]) AND ((m.id, m.token) IN (SELECT id, token FROM given)) IS TRUE
"""


def not_among(settled: str) -> str:
    """Of the claims given, those that are not in this table of ids and tokens. One without a token is in none."""
    return f"FROM given WHERE ((id, token) IN (SELECT id, token FROM {settled})) IS NOT TRUE"


STORED = "SELECT id FROM mailrail_message WHERE id = ANY (%(ids)s::uuid[])"
