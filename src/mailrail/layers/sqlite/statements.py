"""The statements for SQLite 3.35 and up, from the files in ``sql``: whole, with the reason for each unusual clause.

``:now`` is the clock of this machine, which is SQLite's own clock, too. All writes run inside ``BEGIN IMMEDIATE``, so a
statement sees what the one before it left and nobody in between. Lists travel as one JSON text read by ``json_each``.
So the statement's text stays the same, and SQLite uses its compiled form again. The number of parameters has no limit
either.
"""

from __future__ import annotations

import re

from ..sql_files import load_statements

STATEMENTS = load_statements(__package__)

ENQUEUE = re.sub(r"%\(\w+\)s", "%s", STATEMENTS["enqueue"])
"""With its values by their order, which costs Django less than names."""
