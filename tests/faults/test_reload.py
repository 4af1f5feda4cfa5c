"""SIGHUP to ``runworker``: new code and settings take over, what runs goes on to its end, the process id stays."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailrail import Channel
from mailrail.layers import get_layer

from ..processes import Ledger, children_of, environment, until

pytestmark = pytest.mark.django_db(transaction=True)

CONSUMERS = """
import time
from pathlib import Path
from django.conf import settings
from mailrail.routing import consumer
from tests.project.consumers import note

@consumer("versioned")
def versioned(message):
    version = "{version}-" + settings.VERSION
    note(message, "began-" + version)
    while "gate" in message and not Path(message["gate"]).exists():
        time.sleep(0.01)
    note(message, "ran-" + version)
"""
WAIT = "import time\nfrom pathlib import Path\nwhile not Path({gate!r}).exists(): time.sleep(0.01)"
TOOK_OVER = "has taken over with the reloaded code and settings"
LOADING = "reloading: process"


class Site:
    """A project with one consumer, in the folder of a release, and its worker in a session of its own."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.ledger = ledger
        self.gate = folder / "gate"
        self.release("first")
        self.write(
            "one", "import os; VERSION = os.environ.setdefault('VERSION', 'a')"
        )  # as readers of .env do
        self._log_path = folder / "worker.log"

    def release(self, name: str) -> None:
        """Point to another folder, which is empty."""
        (self.folder / name / "shop").mkdir(parents=True)
        (self.folder / name / "shop/__init__.py").touch()
        (self.folder / "new").symlink_to(name)
        (self.folder / "new").rename(self.folder / "current")

    def start(self, *arguments: str, **options: Any) -> None:
        env = environment(self.ledger.path) | {"DJANGO_SETTINGS_MODULE": "site_settings"}
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # its cache cannot tell two versions of one second
        env["PWD"] = str(self.folder / "current")
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "django", "runworker", "-v2", "versioned", *arguments],
                env=env,
                cwd=self.folder / "current",  # where Python looks for modules first
                stdout=log,
                stderr=log,
                start_new_session=True,
                **{"stdin": subprocess.DEVNULL, **options},
            )

    def write(self, version: str, settings: str) -> None:
        (self.folder / "current/shop/consumers.py").write_text(CONSUMERS.replace("{version}", version))
        (self.folder / "current/site_settings.py").write_text(
            f"from tests.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']\n{settings}\n"
        )

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def send(self, number: int = 1, **content: str) -> list[str]:
        return [str(id) for id in Channel("versioned").send_many([content] * number)]

    def wait_for(self, what: str, ids: list[str]) -> None:
        until(lambda: {line.id for line in self.ledger.lines(what)} >= {*ids}, what=what)

    def wait_for_log(self, text: str, times: int = 1) -> None:
        until(lambda: self.log.count(text) >= times, what=f"{text!r} in the log")

    def runs(self) -> dict[str, int]:
        """How often each message was run to its end, by whatever code."""
        ran = [line.id for line in self.ledger.lines() if line.what.startswith("ran-")]
        return {id: ran.count(id) for id in ran}

    def is_gone(self) -> bool:
        """Is there no process left of the session?"""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.log
        until(self.is_gone, what="the end of all processes")


@pytest.fixture
def site(tmp_path: Path, ledger: Ledger) -> Iterator[Site]:
    site = Site(tmp_path, ledger)
    try:
        yield site
    finally:
        print(site.log[-10000:])
        if not site.is_gone():
            os.killpg(site.process.pid, signal.SIGKILL)
        site.process.wait(20)


def test_sighup_replaces_code_and_settings_and_nothing_is_lost_or_run_twice(site: Site) -> None:
    site.start("--processes", "2", "--threads", "2", "--worker-id", "web")
    held = site.send(gate=str(site.gate))
    site.wait_for("began-one-a", held)
    site.write("two", "import os; VERSION = os.environ.setdefault('VERSION', 'b')")
    site.process.send_signal(signal.SIGHUP)
    ids = list(held)
    while not site.ledger.lines("ran-two-b"):  # there is work all the time
        more = site.send(3)
        until(lambda: site.runs().keys() >= {*more})  # noqa: B023
        ids += more
    assert site.ledger.lines("ran-one-a")
    site.wait_for_log(TOOK_OVER)
    # What ran before goes on with the code of before, beside the new.
    until(lambda: {w.id for w in get_layer().workers() if not w.info["stopping"]} == {"web-2:0", "web-2:1"})
    assert held[0] not in site.runs()
    site.gate.touch()
    site.wait_for("ran-one-a", held)
    # Once more, from another folder.
    site.release("second")
    site.write("three", "VERSION = 'c'")
    site.process.send_signal(signal.SIGHUP)
    site.wait_for_log(TOOK_OVER, 2)
    ids += (last := site.send(5))
    site.wait_for("ran-three-c", last)
    until(lambda: {w.id for w in get_layer().workers()} == {"web-3:0", "web-3:1"})
    until(lambda: len(children_of(site.process.pid)) == 1)
    site.end()
    assert site.runs() == dict.fromkeys(ids, 1)
    assert {(line.attempt, line.losses) for line in site.ledger.lines()} == {(1, 0)}
    assert "ERROR" not in site.log


def test_code_that_does_not_load_changes_nothing_and_the_last_reload_counts(site: Site) -> None:
    site.start("--threads", "2")
    ids = site.send()
    site.wait_for("ran-one-a", ids)
    site.write("two(", "VERSION = 'b'; nonsense")
    site.process.send_signal(signal.SIGHUP)
    site.wait_for_log("ended before it could take over (exit code 1)")
    assert "NameError: name 'nonsense' is not defined" in site.log
    ids += (more := site.send(3))
    site.wait_for("ran-one-a", more)
    # Loading takes long, and before it is done the code changes again.
    site.write("three", WAIT.format(gate=str(site.gate)))
    site.process.send_signal(signal.SIGHUP)
    site.wait_for_log(LOADING, 2)
    site.write("four", "VERSION = 'd'")
    site.process.send_signal(signal.SIGHUP)
    site.wait_for_log(TOOK_OVER)
    ids += (more := site.send(3))
    site.wait_for("ran-four-d", more)
    # The process above the new workers is killed.
    [successor] = until(
        lambda: len(children := children_of(site.process.pid)) == 1 and children
    )  # the others end
    os.kill(successor, signal.SIGKILL)
    site.wait_for_log(TOOK_OVER, 2)
    ids += (more := site.send(3))
    site.wait_for("ran-four-d", more)
    # SIGTERM comes in the middle of a reload.
    site.write("five", WAIT.format(gate=str(site.gate)))
    site.process.send_signal(signal.SIGHUP)
    site.wait_for_log(LOADING, 5)
    held = site.send(gate=str(site.gate))
    site.wait_for("began-four-d", held)
    site.process.send_signal(signal.SIGTERM)
    site.process.send_signal(signal.SIGHUP)  # service managers may send it, too
    until(lambda: all(worker.info["stopping"] for worker in get_layer().workers()))
    site.gate.touch()
    assert site.process.wait(20) == 0
    until(site.is_gone, what="the end of all processes")
    assert site.runs() == dict.fromkeys(ids + held, 1)


def test_the_end_of_the_terminal_is_a_sigterm_and_kill_hup_before_it_is_not(site: Site) -> None:
    terminal, end = os.openpty()
    site.start(stdin=end, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(end)
    site.wait_for("ran-one-a", site.send())
    site.process.send_signal(signal.SIGHUP)
    site.wait_for_log(TOOK_OVER)
    held = site.send(gate=str(site.gate))
    site.wait_for("began-one-a", held)
    os.close(terminal)
    until(lambda: all(worker.info["stopping"] for worker in get_layer().workers()))
    site.gate.touch()
    assert site.process.wait(20) == 0
    assert site.runs()[held[0]] == 1
