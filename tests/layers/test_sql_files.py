"""The statements of the database layers: files that can be pasted into psql and sqlite3, and what is made of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.db import connections

from mailrail.layers import sql_files
from mailrail.layers.postgresql.statements import STATEMENTS as POSTGRESQL
from mailrail.layers.rows import COLUMNS, TABLES_WITH_TIMES
from mailrail.layers.sql_files import driver_form
from mailrail.layers.sqlite.statements import ENQUEUE
from mailrail.layers.sqlite.statements import STATEMENTS as SQLITE
from scripts.sql_variants import outdated

from ..servers import PostgresServer

LAYERS = Path(sql_files.__file__).parent
FILES = sorted(LAYERS.glob("*/sql/*.sql"))
LONGEST = 4096
"""What psycopg keeps in parsed form is no longer than that; `_queries.MAX_CACHED_STATEMENT_LENGTH`."""
BY_NAME = {"postgresql": POSTGRESQL, "sqlite": SQLITE}
EXAMPLE = re.compile(r"^(?:\\set |\.parameter set :)(\w+)", re.MULTILINE)
PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def test_a_file_becomes_what_a_driver_takes() -> None:
    text = "-- Why, and how.\n\\set ids '{1}'\nSELECT 7 % 4, -- a comment\n    :'ids'::int[], '$[0]';\n"
    assert driver_form(text) == "SELECT 7 %% 4, %(ids)s::int[], '$[0]'"
    assert driver_form(".parameter set :now 1\nSELECT :now\nFROM t;\n") == "SELECT %(now)s FROM t"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_file_says_what_it_does_and_sets_each_parameter(path: Path) -> None:
    text = path.read_text("utf-8")
    statement = BY_NAME[path.parts[-3]][path.stem]
    assert text.startswith("-- ") and not re.search(r"^--.*(?:%\(|\{)", text, re.MULTILINE)
    assert sorted(EXAMPLE.findall(text)) == sorted(set(PLACEHOLDER.findall(statement)))
    assert len(statement) <= LONGEST
    assert ";" not in statement and "--" not in statement and ":'" not in statement
    assert max(map(len, text.splitlines())) <= 120


def test_variants_are_as_the_script_writes_them() -> None:
    assert not [variant.path.name for variant in outdated()], "run python -m scripts.sql_variants"


@pytest.mark.parametrize("folder", BY_NAME)
def test_every_statement_is_used_and_every_used_one_is_there(folder: str) -> None:
    code = "".join(path.read_text("utf-8") for path in (LAYERS / folder).glob("*.py"))
    built = {f"age_{table}" for table in TABLES_WITH_TIMES}
    built |= {f"list_waiting_{state}" for state in ("ready", "scheduled", "claimed")}
    assert set(re.findall(r'STATEMENTS\["(\w+)"\]', code)) <= BY_NAME[folder].keys()
    assert BY_NAME[folder].keys() - set(re.findall(r"""["'](\w+)["']""", code)) == built


@pytest.mark.parametrize("folder", BY_NAME)
def test_what_statements_have_in_common_is_the_same_in_all(folder: str) -> None:
    common = {
        "priorities in use": r"level \(channel, priority.*? FROM level WHERE priority [^)]*\)",
        "claims given": r"given \(id, token\) AS .*?\)\)",
        "which are held": r"\(id, token\) IN \( ?SELECT json.*?\)\)",
        "what it takes to be ready": r"m\.held = 0 AND m\.due <= .*? LIMIT",
    }
    statements = BY_NAME[folder].values()
    texts = {what: {t for s in statements for t in re.findall(like, s)} for what, like in common.items()}
    texts["priorities in use"] -= {t for t in texts["priorities in use"] if "known" in t}
    for what in ("priorities in use", "claims given", "which are held"):
        assert len(texts[what]) <= 1, what
    assert texts["priorities in use"]


def test_whole_messages_have_all_columns_in_the_order_in_which_they_are_read() -> None:
    whole = {name for name in POSTGRESQL if name.startswith("claim")}
    whole |= {"recover_claims", "drop_expired", "get"}
    texts = [POSTGRESQL[name] for name in whole] + [SQLITE[n] for n in ("lease", "drop_expired", "get")]
    assert all(COLUMNS in text.replace("m.", "") for text in texts)
    dead = COLUMNS.replace("worker, token", "NULL, NULL, error, buried_at")
    assert all(dead in statements["get_dead"] for statements in BY_NAME.values())


def test_sqlite_takes_the_values_of_a_plain_message_by_their_order() -> None:
    assert ENQUEUE.count("%s") == len(PLACEHOLDER.findall(SQLITE["enqueue"])) == 13 and "%(" not in ENQUEUE


@pytest.mark.django_db(databases=["postgres"])
def test_each_can_be_pasted_into_psql(postgres_server: PostgresServer) -> None:
    given = connections["postgres"].settings_dict
    script = [f"BEGIN;\n{text}ROLLBACK;\n" for text in texts_of("postgresql")]
    options = ("-h", "127.0.0.1", "-p", str(given["PORT"]), "-U", "postgres", "-d", str(given["NAME"]))
    psql = (postgres_server.programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options)
    assert run(psql, "".join(script)) == ""


@pytest.mark.django_db
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="there is no sqlite3")
def test_each_can_be_pasted_into_sqlite3() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name LIKE 'mailrail_%%' AND sql IS NOT NULL", []
        )
        tables = [f"{sql};\n" for (sql,) in cursor.fetchall()]
    script = [f"BEGIN;\n.parameter clear\n{text}ROLLBACK;\n" for text in texts_of("sqlite")]
    assert run(("sqlite3", "-bail"), "".join([*tables, *script])) == ""


def texts_of(folder: str) -> list[str]:
    return [path.read_text("utf-8") for path in FILES if path.parts[-3] == folder]


def run(command: tuple[str | Path, ...], script: str) -> str:
    """Return what a shell says of errors."""
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr or ("" if done.returncode == 0 else f"ended with {done.returncode}")
