"""The demo as a person starts it: a process, whose exit code and table have to be true."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django
import pytest

from demo.browser import Browser

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = pytest.mark.timeout(180)


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, started with its temporary files in ``folder``, and every warning an error in all its processes."""
    process = subprocess.Popen(
        [sys.executable, "demo/run.py", *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def processes_that_know(folder: Path) -> list[str]:
    """The command lines of processes that were started for a demo in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass  # ended meanwhile, or somebody else's
    return found


@pytest.mark.parametrize("layer", ["database", "redis"])
def test_every_mail_arrives_once_and_the_table_says_so(tmp_path: Path, layer: str) -> None:
    with demo(tmp_path, "--addresses", "20", "--layer", layer) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    table = dict(re.findall(r"^  (\w[\w ,]*?)  +(\S.*)$", output, re.MULTILINE))
    assert (table["submitted"], table["queued"]) == ("21", "21")
    assert (table["received"], table["received twice"]) == ("21", "0")
    assert table["accepted by link"] == "1"
    assert table["Django"] == django.get_version()
    assert table["SQLite"] == sqlite3.sqlite_version
    assert re.fullmatch(r"\d+\.\d+\.\d+", table["Valkey"]) if layer == "redis" else "Valkey" not in table
    assert float(table["seconds"]) > 0
    assert float(table["submit to acceptance, p50"].rstrip(" ms").replace(",", "")) > 0
    assert "mail accepted 21/21" in output
    assert errors == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_mail_makes_it_fail_and_say_which(tmp_path: Path) -> None:
    options = ["--addresses", "5", "--refuse", "guest-0003@example.com", "--patience", "4"]
    with demo(tmp_path, *options) as process:
        output, errors = process.communicate()
    assert process.returncode == 1
    assert re.search(r"submitted +6\n +queued +6\n +received +5\n", output), output + errors
    assert "✗ Of 6 emails, the queue records: 5 sent, 1 failed." in errors
    assert "✗ 1 never arrived: guest-0003@example.com." in errors
    assert "--- the end of worker.log" in errors
    assert "✓" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("stop", "layer"), [(signal.SIGINT, "database"), (signal.SIGTERM, "database"), (signal.SIGINT, "redis")]
)
def test_when_it_is_interrupted_it_leaves_nothing_behind(
    tmp_path: Path, stop: signal.Signals, layer: str
) -> None:
    options = ["--addresses", "20", "--refuse", "guest-0000@example.com"]  # for which it waits
    with demo(tmp_path, *options, "--layer", layer) as process:
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if "mail accepted" in line:
                break
        the_live_page_is_where_it_says(said)
        assert len(processes_that_know(tmp_path)) >= 3
        process.send_signal(stop)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "everything is stopped" in errors
    assert processes_that_know(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def the_live_page_is_where_it_says(output: str) -> None:
    page, user, password = re.findall(
        r"Is it well\? (http://127\.0\.0\.1:\d+/live/) .*\n.* log in as (\w+), with the password (\S+)",
        output,
    )[0]
    browser = Browser(page.removesuffix("/live/"))
    assert 'name="password"' in browser.get(page).text
    browser.submit("/login/", username=user, password=password)
    assert "send-invite" in browser.get(page).text


def test_a_deadline_that_is_too_short_is_the_reason_given(tmp_path: Path) -> None:
    with demo(tmp_path, "--deadline", "0") as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert "✗ migrate was not done in time." in errors
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_there_is_not_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with demo(tmp_path, "--layer", "kafka") as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert "--layer: invalid choice: 'kafka'" in errors and "redis" in errors
    made = subprocess.run(
        ["make", "demo", "LAYER=kafka"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 2
    assert 'LAYER is "kafka"; it can be database or redis' in made.stderr
