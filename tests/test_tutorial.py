"""The tutorial works: every block of it is executed, in the order in which a reader types it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import ROOT
from .servers import PostgresServer, ValkeyServer
from .walkthrough import Reader, merged, steps_of

PAGE = ROOT / "docs" / "tutorial.md"
ACTS = re.compile(r"<[^>]+>|`[^`]+`|\*+[^*]+\*+")
"""Of a paragraph: what is opened, written and pressed, and what is seen then."""
FILES = {
    "Procfile",
    "invitations/admin.py",
    "invitations/consumers.py",
    "invitations/forms.py",
    "invitations/models.py",
    "invitations/templates/invitations/accept.html",
    "invitations/templates/invitations/invite.html",
    "invitations/tests.py",
    "invitations/views.py",
    "myproject/routing.py",
    "myproject/settings.py",
    "myproject/urls.py",
}


@pytest.fixture
def reader(tmp_path: Path, postgres_server: PostgresServer, valkey: ValkeyServer) -> Iterator[Reader]:
    """Somebody with an empty folder, the packages, a PostgreSQL and a Redis."""
    environment = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres_server.port),
        "PGUSER": "postgres",
        "REDIS_URL": valkey.url,
    }
    reader = Reader(tmp_path, environment, [postgres_server.programs], "the password of ada")
    yield reader
    reader.leave()
    with postgres_server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS myproject WITH (FORCE)")


@pytest.mark.timeout(900)  # some thirty processes, one after the other
def test_a_reader_who_types_all_of_it_sees_what_it_says(reader: Reader) -> None:
    for step in steps_of(PAGE):
        if step.is_for_this_django:
            print(f"line {step.line}: {step.kind}")
            reader.do(step)


def test_every_block_is_a_step_of_one_django_or_of_all() -> None:
    steps = steps_of(PAGE)
    blocks = [step for step in steps if step.kind != "visit"]
    assert len(blocks) * 2 == PAGE.read_text().count("```")
    assert len(blocks) > 30 and len(steps) - len(blocks) > 3
    for_newer, for_older = ([step.path for step in steps if step.tab == tab] for tab in (1, 2))
    assert for_newer == for_older == ["myproject/settings.py"] * 2
    assert max(step.tab for step in steps) == 2


def test_the_chinese_page_leads_the_same_way() -> None:
    def way(page: Path) -> list[tuple[object, ...]]:
        return [
            (step.kind, step.path, step.tab, ACTS.findall(step.text) if step.kind == "visit" else step.text)
            for step in steps_of(page)
        ]

    assert way(PAGE.with_name("tutorial.zh-Hans.md")) == way(PAGE)


def test_nothing_of_the_walk_is_missing() -> None:
    steps = steps_of(PAGE)
    assert {step.path for step in steps if step.path} == FILES
    typed = "".join(step.text for step in steps if step.kind == "console")
    for command in ("startproject", "migrate", "runserver", "channels", "test", "createdb", "honcho start"):
        assert f" {command}" in typed, command


def test_settings_are_replaced_or_added() -> None:
    written = merged('"""Ours."""\nA = [\n    1,\n]\nB = 2\n', "import os\n\nA = [3]\nC = 4\n")
    exec(written, namespace := {})  # type: ignore[var-annotated]
    assert (namespace["A"], namespace["B"], namespace["C"]) == ([3], 2, 4)
    assert "import os" in written and "1" not in written
