"""What the Procfile says, started as a platform does: its lines given to a shell, all else in the environment, on a
real PostgreSQL and a real Valkey; SIGTERM to all processes of a line at once, as platforms send it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from demo.browser import Browser, BrowserError
from demo.smtp import MailServer

from ..ports import free_port
from ..processes import ROOT, until
from ..servers import PostgresServer, ValkeyServer
from .test_demo import processes_that_know
from .test_deploy_files import PROCFILE

pytestmark = pytest.mark.timeout(240)

GUESTS = 25
PASSWORD = "not a secret: tests only"


class Platform:
    """Runs lines of the Procfile, in the folder it lies in."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = (
            os.environ | variables | {"PATH": path, "TMPDIR": str(folder), "PYTHONWARNINGS": "error"}
        )
        self.environment.pop("DJANGO_SETTINGS_MODULE", None)
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, line: str) -> None:
        """To its end."""
        process = self.start(line, "run")
        assert process.wait(120) == 0, self.log("run")

    def start(self, line: str, name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                line,
                shell=True,
                cwd=ROOT / "demo",
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def kill_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def terminate(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)


@contextmanager
def database(server: PostgresServer) -> Iterator[str]:
    """A new one; its URL."""
    name = f"demo_{time.monotonic_ns()}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"postgres://postgres@127.0.0.1:{server.port}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def smtp() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def platform(
    tmp_path: Path, postgres_server: PostgresServer, valkey: ValkeyServer, smtp: MailServer
) -> Iterator[Platform]:
    port = free_port()
    with database(postgres_server) as url:
        started = Platform(
            tmp_path,
            PORT=str(port),
            SECRET_KEY="not a secret either, but long enough for the checks of a deployment 0123456789",
            DATABASE_URL=url,
            REDIS_URL=valkey.url,
            EMAIL_URL=f"smtp://127.0.0.1:{smtp.port}",
            BASE_URL=f"http://127.0.0.1:{port}",
            DJANGO_SUPERUSER_PASSWORD=PASSWORD,
            DEBUG="",
        )
        try:
            yield started
        except BaseException:
            for log in tmp_path.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text()[-5000:]}")
            raise
        finally:
            started.kill_all()


def status(url: str) -> int:
    """Of an answer; 0: none."""
    try:
        with urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_an_invitation_goes_out_and_sigterm_loses_nothing(
    platform: Platform, smtp: MailServer, valkey: ValkeyServer, tmp_path: Path
) -> None:
    platform.run(PROCFILE["release"])
    web, worker = (platform.start(PROCFILE[name], name) for name in ("web", "worker"))
    platform.run("python manage.py createsuperuser --no-input --username demo --email demo@example.com")
    site = platform.environment["BASE_URL"]
    until(lambda: status(f"{site}/healthz") == 200, 120, "an answer")
    until(lambda: status(f"{site}/readyz") == 200, 120, "a worker")
    platform.run("python manage.py channels check --here")

    browser = Browser(site)
    browser.submit("/login/", username="demo", password=PASSWORD)
    browser.submit("/invites/new/", email="first@example.com")
    assert smtp.mailbox.wait_for(1, timeout=120) == 1
    [mail] = smtp.mailbox.received()
    [link] = re.findall(rf"{site}/invites/accept/\S+", mail.text)
    assert "was accepted" in Browser(site).submit(link).text

    guests = "\n".join(f"guest-{number}@example.com" for number in range(GUESTS))
    preview = browser.submit("/invites/bulk/", addresses=guests)
    browser.submit(preview.url)
    assert smtp.mailbox.wait_for(2, timeout=120) >= 2
    for process in (worker, web):  # in the middle of it
        terminate(process)
    assert [process.wait(60) for process in (worker, web)] == [0, 0], platform.log("worker")
    with pytest.raises(BrowserError):
        browser.get("/")
    assert not processes_that_know(tmp_path)

    worker = platform.start(PROCFILE["worker"], "worker")
    assert smtp.mailbox.wait_for(1 + GUESTS, timeout=120) == 1 + GUESTS
    assert len(smtp.mailbox.received()) == 1 + GUESTS, "some of it came twice"
    terminate(worker)
    assert worker.wait(60) == 0
    assert "Traceback" not in platform.log("worker") + platform.log("web")


def test_without_its_variables_nothing_starts_and_all_are_named(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("SECRET_KEY", "DATABASE_URL", "EMAIL_URL", "BASE_URL", "DEBUG"), "")
    platform = Platform(tmp_path, PORT=str(free_port()), **nothing)
    web = platform.start(PROCFILE["web"], "web")
    assert web.wait(120) != 0
    assert "The environment lacks SECRET_KEY, DATABASE_URL, EMAIL_URL, BASE_URL;" in platform.log("web")
