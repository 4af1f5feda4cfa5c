"""The statements for PostgreSQL 14 and up, from the files in ``sql``: whole, with the reason for each unusual clause.

Lists travel as arrays and are read by ``unnest``: the statement's text stays the same, so that its plan is made once.

``clock`` is read once per statement, and from there by a scalar subquery. Unlike ``now()``, ``clock_timestamp()`` goes
on inside a transaction. A volatile function cannot be the condition of an index scan.

Rows are always found by a list of ids (``id = ANY (…)``), even where a join would mean the same. A queue that was empty
when its statistics were made looks like one row to the planner. It would then walk the whole index to join it, or look
for all ids once for each of them.

``level`` holds the priorities in use, found by jumping through the index from one to the next, never by reading the
backlog. Where no channels are given, ``open`` holds those in use, found the same way. ``claim.sql`` says why the
recursion ends as it does.

``given`` holds the claims that a statement is about. The token alone decides which of them still are. They are compared
by a hash, as ``claim.sql`` says, too.

Nothing here relies on the order in which the parts of a WITH are carried out: they all see the same snapshot
(PostgreSQL manual, 7.8.4).
"""

from __future__ import annotations

from ..sql_files import load_statements

STATEMENTS = load_statements(__package__)
