"""What `.ci/run` relies on: commands at the same time, their output whole, a line for each, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .processes import ROOT, until

SCRIPT = ROOT / "scripts" / "side_by_side.py"

SAY = """
import sys
for n in range(int(sys.argv[1])):
    print("line", n)
print("the last,", sys.argv[1], file=sys.stderr)
print("make: *** [Makefile:1: test] Error 1")
sys.exit(int(sys.argv[2]))
"""

TIDY = """
import os, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(folder / "orphan").write_text(str(orphan.pid))
try:
    (folder / "ready").touch()
    time.sleep(600)
except KeyboardInterrupt:
    (folder / "tidied").touch()
    print("tidied up", flush=True)
    if sys.argv[2] == "hang":
        time.sleep(600)
    sys.exit(2)
"""

REUSE = """
import os, runpy, subprocess, sys
reap = runpy.run_path(sys.argv[1])["_reap"]
command = subprocess.Popen([sys.executable, "-c", ""])
running = {command.pid: command}
while reap(running):
    pass
orphan = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
if running:  # as if the system had given its number to another process
    running[orphan] = running.pop(command.pid)
print(reap(running), command.returncode)
try:
    os.waitpid(orphan, os.WNOHANG)
except ChildProcessError:
    print("reaped")
"""


def side_by_side(*words: str) -> list[str]:
    return [sys.executable, str(SCRIPT), *words]


@contextmanager
def running(folder: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    """A command that has an orphan in a session of its own, and `then` ends or hangs when it is interrupted."""
    tidy = [sys.executable, "-c", TIDY, str(folder), then]
    process = subprocess.Popen(
        side_by_side("tidy", *tidy), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until((folder / "ready").exists)
        yield process
    finally:
        process.kill()
        process.wait()


def is_gone(folder: Path) -> bool:
    pid = (folder / "orphan").read_text()
    try:
        os.kill(int(pid), 0)
        # It may have ended, and nobody has waited for it yet: proc(5).
        return (
            sys.platform == "linux"
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_orphan_that_got_the_number_of_a_command_that_is_over_is_reaped() -> None:
    words = [sys.executable, "-c", REUSE, str(SCRIPT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False 0\nreaped\n", "")


def test_each_line_is_shown_and_one_failure_is_enough(tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    one, other = ([sys.executable, "-c", SAY, str(number), code] for number, code in ((3000, "0"), (2, "3")))
    done = subprocess.run(
        side_by_side("--summary", str(summary), "one", *one, "--", "other", *other),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    said = [line.removeprefix("one | ") for line in lines if line.startswith("one | line")]
    assert said == [f"line {n}" for n in range(3000)]
    assert {"other | line 0", "other | line 1", "other | the last, 2"} <= set(lines)
    told = ["one: passed: the last, 3000", "other: FAILED (3): the last, 2"]
    assert lines[-2:] == told == summary.read_text().splitlines()


def test_all_of_them_run_at_the_same_time(tmp_path: Path) -> None:
    meet = (
        "import sys, time; from pathlib import Path; mine, others = map(Path, sys.argv[1:]); mine.touch()\n"
    )
    meet += "while not others.exists(): time.sleep(0.01)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    words = ["a", sys.executable, "-c", meet, a, b, "--", "b", sys.executable, "-c", meet, b, a]
    assert subprocess.run(side_by_side(*words), capture_output=True, timeout=60, check=False).returncode == 0


def test_a_command_hears_of_an_interruption_as_in_a_terminal() -> None:
    ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    words = side_by_side("ask", sys.executable, "-c", ask)
    # As bash starts what it runs in the background.
    done = subprocess.run(
        ["bash", "-c", '"$@" & wait $!', "bash", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ask | True" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_commands_tidy_up_and_leaves_no_orphan(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, then="end") as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number and (tmp_path / "tidied").exists()
    assert output.splitlines()[-1] == "tidy: FAILED (2): tidied up"
    until(lambda: is_gone(tmp_path))


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    with running(tmp_path, then="hang") as process:
        process.send_signal(signal.SIGTERM)
        until((tmp_path / "tidied").exists)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "tidy: FAILED (-9): tidied up"
    until(lambda: is_gone(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's end")
def test_the_end_of_whoever_started_it_is_a_signal(tmp_path: Path) -> None:
    tidy = side_by_side("tidy", sys.executable, "-c", TIDY, str(tmp_path), "end")
    shell = subprocess.Popen(["bash", "-c", '"$@"; true', "bash", *tidy], stdout=subprocess.DEVNULL)
    until((tmp_path / "ready").exists)
    shell.kill()
    shell.wait(20)
    until((tmp_path / "tidied").exists)
    until(lambda: is_gone(tmp_path))


def test_orphans_that_end_are_gone_while_the_others_run(tmp_path: Path) -> None:
    leave = """
import subprocess, sys, time
from pathlib import Path
leave = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '']).pid)"
pid = subprocess.run([sys.executable, "-c", leave], capture_output=True, text=True).stdout.strip()
while Path(f"/proc/{pid}").exists(): time.sleep(0.01)
"""
    done = subprocess.run(
        side_by_side("leave", sys.executable, "-c", leave), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("words", [[], ["label"], ["label", "true", "--", "label"]])
def test_a_command_without_a_label_is_refused(words: list[str]) -> None:
    done = subprocess.run(side_by_side(*words), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "each command needs a label before it" in done.stderr
