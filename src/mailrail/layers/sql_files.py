"""Reading SQL from files: whole statements that can be pasted into the database's own shell, psql or sqlite3.

A file says first what the statement does, then sets its parameters to examples, as the shell takes them, then holds the
statement. ``psql --file`` and sqlite3's ``.read`` run it as it is; parameters are named in the language of the shell
(``:'name'`` in psql, ``:name`` in sqlite3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_COMMENT = re.compile(r"--.*")
_FOR_THE_SHELL = ("\\", ".")
"""What lines of the shells' own commands begin with."""
_PARAMETER = re.compile(r"(?<![:\w]):('?)([a-z_]+\d*)\1")


def load_statements(package: str) -> Mapping[str, str]:
    """Return the statements in a package's folder ``sql`` by the files' names, as Django's cursors take them."""
    entries = (files(package) / "sql").iterdir()
    return {
        file.name.removesuffix(".sql"): driver_form(file.read_text("utf-8"))
        for file in entries
        if file.name.endswith(".sql")
    }


def driver_form(text: str) -> str:
    """Return the statement of a file, with ``%(name)s`` for its parameters, on one line and without comments.

    psycopg keeps what it has parsed of a statement if that is no longer than 4,096 characters.
    """
    lines = (line for line in text.splitlines() if not line.startswith(_FOR_THE_SHELL))
    words = " ".join(_COMMENT.sub("", line) for line in lines).split()
    statement = " ".join(words).removesuffix(";").replace("%", "%%")
    return _PARAMETER.sub(r"%(\2)s", statement)
