"""``runserver`` with its worker, as a developer uses it: a copy of ``tests/site``, started, asked, edited, killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from .ports import free_port
from .processes import ROOT, Ledger, Line, until

SERVERS = {
    "django": "mailrail jobs",
    "staticfiles": "mailrail django.contrib.staticfiles jobs",
    "daphne": "mailrail daphne channels jobs",
    "daphne-staticfiles": "mailrail daphne channels django.contrib.staticfiles jobs",
}
MEMORY = {"SITE_LAYER": "mailrail.layers.InMemoryChannelLayer"}

both_servers = pytest.mark.parametrize(
    "apps", [SERVERS["django"], SERVERS["daphne"]], ids=["django", "daphne"]
)
with_and_without_reloader = pytest.mark.parametrize("reloader", [True, False], ids=["reloader", "noreload"])


class Server:
    """``manage.py runserver`` of a site, in a session of its own, as in a terminal."""

    def __init__(
        self, folder: Path, apps: str, *options: str, command: str = "runserver", **environment: str
    ) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self.ledger = Ledger(folder / "ledger")
        self.log_path = folder / "runserver.log"
        self._port = free_port()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", command, f"127.0.0.1:{self._port}", *options],
                cwd=folder,
                env=_environment(folder, apps) | environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> str:
        """The body of an answer. Raises ``OSError`` while nobody listens."""
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=20)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
        assert answer.status == 200, body
        return body

    def pid(self) -> int:
        """The process that serves: with the autoreloader, a child of the one we started."""

        def answer() -> str:
            assert self.process.poll() is None, self.log
            try:
                return self.get("/")
            except OSError:
                return ""

        return int(json.loads(until(answer, what=f"an answer ({self.log_path})"))["pid"])

    def send(self, channel: str = "note") -> str:
        """Have a view send a message; its id."""
        answer: dict[str, Any] = json.loads(self.get(f"/send/{channel}?gate={self.gate}"))
        return str(answer["id"])

    def line(self, what: str, id: str, besides: Line | None = None) -> Line:
        """Wait for a consumer's line about a message."""

        def found() -> Line | None:
            return next((x for x in self.ledger.lines(what) if x.id == id and x != besides), None)

        line: Line = until(found, what=f"{what!r} of {id}")
        return line

    def processes(self) -> set[int]:
        """All processes that live and were started for this site, whoever is their parent by now."""
        marker = f"SITE_FOLDER={self.folder}\0".encode()
        ids = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (process / "environ").read_bytes():
                    ids.add(int(process.name))
            except OSError:
                pass  # ended meanwhile
        return ids

    def kill_all(self) -> None:
        """Leave nothing of it behind, whatever state it is in."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # ended meanwhile
        self.process.wait(20)

    def edit(self, serving: int) -> None:
        """Change the consumers' code, and wait until the process that served is gone."""
        name = "jobs/consumers.py"
        self.write(name, (self.folder / name).read_text().replace('"old"', '"new"'), until_gone={serving})

    def write(self, name: str, text: str, until_gone: set[int]) -> None:
        """Write a file of the site, and wait until the autoreloader has ended these processes."""
        file = self.folder / name
        file.write_text(text)

        def reloaded() -> bool:
            file.touch()  # the autoreloader overlooks a change that comes before its own first look
            return not any(Path(f"/proc/{pid}").exists() for pid in until_gone)

        until(reloaded, what="the reload")

    def until_logged(self, text: str, seen: int, what: str) -> None:
        """Wait until its log says that, behind the first ``seen`` characters."""
        until(lambda: text in self.log[seen:], what=f"a word on {what}")

    def until_gone(self) -> int:
        """Wait until nothing of it is left; the exit code."""
        code = self.process.wait(30)
        until(lambda: not self.processes(), 30, f"the end of all processes ({self.processes()})")
        return code


def _environment(folder: Path, apps: str) -> dict[str, str]:
    ours = {
        "MAILRAIL_LEDGER": str(folder / "ledger"),
        "PYTHONPATH": str(ROOT / "src"),
        # Ctrl-C makes Django's autoreloader leave the process that serves without waiting for it.
        "PYTHONWARNINGS": "error,ignore:subprocess:ResourceWarning",
        "PYTHONUNBUFFERED": "1",
        "SITE_APPS": apps,
        "SITE_FOLDER": str(folder),
    }
    theirs = ("DJANGO_SETTINGS_MODULE", "RUN_MAIN")
    return {name: value for name, value in os.environ.items() if name not in theirs} | ours


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated copy of the site."""
    folder = tmp_path_factory.mktemp("site") / "site"
    shutil.copytree(ROOT / "tests" / "site", folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v0"],
        cwd=folder,
        env=_environment(folder, "mailrail"),
        check=True,
    )
    return folder


Start = Callable[..., Any]


@pytest.fixture
def start(site: Path, tmp_path: Path) -> Start:
    """Start a server on a fresh copy of the site; again in the same test: on the same copy."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)

    @contextmanager
    def started(apps: str, *options: str, **environment: str) -> Iterator[Server]:
        server = Server(folder, apps, *options, **environment)
        try:
            yield server
        except BaseException:
            print(f"--- log of runserver\n{server.log[-8000:]}")
            raise
        finally:
            server.kill_all()

    return started


def options(reloader: bool) -> list[str]:
    return [] if reloader else ["--noreload"]


@pytest.mark.parametrize("name", SERVERS)
def test_each_runserver_has_a_worker_in_a_process_of_its_own(start: Start, name: str) -> None:
    apps = SERVERS[name]
    with start(apps, "--noreload") as server:
        serving = server.pid()
        line = server.line("old", server.send())
        assert ("ASGI/Daphne" in server.log) == ("daphne" in apps)
        assert line.pid != serving and {line.pid, serving} < server.processes()
        if "staticfiles" in apps:
            assert server.get("/static/served.txt") == "served\n"


@both_servers
@with_and_without_reloader
def test_noworker_switches_the_worker_off(start: Start, apps: str, reloader: bool) -> None:
    with start(apps, "--noworker", *options(reloader)) as server:
        serving = server.pid()
        server.send()
        assert server.processes() == {serving, server.process.pid}
        assert not server.ledger.lines()


@both_servers
def test_new_code_restarts_the_worker_and_releases_what_runs(start: Start, apps: str) -> None:
    with start(apps) as server:
        before = server.pid()
        assert server.line("old", server.send())
        held = server.send("held")
        first = server.line("began", held)
        old_processes = server.processes() - {server.process.pid}

        server.edit(before)

        second = server.line("began", held, besides=first)
        assert (second.attempt, second.losses) == (1, 0), "the attempt is burnt, or the lease had to lapse"
        assert server.pid() != before
        assert server.line("new", server.send())
        assert not old_processes & server.processes()
        server.gate.touch()
        assert server.line("ran", held).pid == second.pid


def interrupt(server: Server, serving: int) -> None:
    os.killpg(server.process.pid, signal.SIGINT)  # a terminal sends it to everybody


def terminate(server: Server, serving: int) -> None:
    server.process.terminate()


def kill(server: Server, serving: int) -> None:
    os.kill(serving, signal.SIGKILL)


@both_servers
@with_and_without_reloader
@pytest.mark.parametrize("end", [interrupt, terminate, kill])
def test_no_worker_outlives_its_server(
    start: Start, apps: str, reloader: bool, end: Callable[[Server, int], None]
) -> None:
    with start(apps, *options(reloader)) as server:
        serving = server.pid()
        server.line("old", server.send())
        end(server, serving)
        code = server.until_gone()
        assert end is not interrupt or code == 0
        assert "Traceback" not in server.log


def test_a_worker_that_has_just_been_started_does_not_outlive_its_server(start: Start) -> None:
    with start(SERVERS["django"], "--noreload") as server:
        kill(server, server.pid())  # the worker is still importing Django
        server.until_gone()


@both_servers
def test_ctrl_c_releases_what_runs_for_the_next_start(start: Start, apps: str) -> None:
    with start(apps) as server:
        serving = server.pid()
        held = server.send("held")
        first = server.line("began", held)
        interrupt(server, serving)
        assert server.until_gone() == 0
    with start(apps) as server:
        second = server.line("began", held, besides=first)
        assert (second.attempt, second.losses) == (1, 0)
        server.gate.touch()
        server.line("ran", held)


def test_after_kill_9_of_the_server_the_worker_finishes_what_runs_and_ends(start: Start) -> None:
    with start(SERVERS["django"], "--noreload") as server:
        serving = server.pid()
        held = server.send("held")
        first = server.line("began", held)
        kill(server, serving)
        server.process.wait(20)
        server.gate.touch()
        server.until_gone()
        assert server.ledger.lines() == [first, server.line("ran", held)]


@both_servers
@with_and_without_reloader
def test_with_the_in_memory_layer_the_worker_is_a_thread_of_the_server(
    start: Start, apps: str, reloader: bool
) -> None:
    with start(apps, *options(reloader), **MEMORY) as server:
        serving = server.pid()
        assert server.line("old", server.send()).pid == serving
        assert server.processes() == {serving, server.process.pid}
        server.line("began", server.send("held"))
        interrupt(server, serving)
        assert server.until_gone() == 0  # although a consumer runs


BROKEN = {
    "a syntax error": ("jobs/consumers.py", "def version(:\n"),
    "a NameError": ("jobs/consumers.py", "nowhere_defined\n"),
    "a missing import": ("jobs/consumers.py", "import nowhere_to_be_found\n"),
    "an error in what consumers.py imports": ("jobs/words.py", "VERSION = nowhere_defined\n"),
}


def test_a_site_whose_consumers_do_not_import_comes_back_when_they_are_mended(start: Start) -> None:
    with start(SERVERS["django"]) as server:
        code, words = server.folder / "jobs/consumers.py", server.folder / "jobs/words.py"
        words.write_text('VERSION = "old"\n')
        code.write_text(code.read_text().replace('VERSION = "old"', "from .words import VERSION"))
        for what, (name, broken) in BROKEN.items():
            good, seen = (server.folder / name).read_text(), len(server.log)
            server.write(name, broken, until_gone={server.pid()})
            server.until_logged("mailrail.E004", seen, what)
            server.write(name, good, until_gone=server.processes() - {server.process.pid})
            server.pid()  # it serves again
            assert server.line("old", server.send())


def test_with_the_in_memory_layer_noworker_means_no_thread_either(start: Start) -> None:
    with start(SERVERS["django"], "--noreload", "--noworker", **MEMORY) as server:
        tasks = Path(f"/proc/{server.pid()}/task")
        server.send()
        assert not server.ledger.lines()
        assert "mailrail-worker" not in {name.read_text().strip() for name in tasks.glob("*/comm")}


def test_new_code_restarts_the_worker_in_a_thread(start: Start) -> None:
    with start(SERVERS["daphne"], **MEMORY) as server:
        before = server.pid()
        server.line("old", server.send())
        server.edit(before)
        after = server.pid()
        assert after != before
        assert server.line("new", server.send()).pid == after


def test_a_routing_that_does_not_import_stops_the_server_and_leaves_no_worker(start: Start) -> None:
    with start(SERVERS["django"], "--noreload", SITE_ROUTING="jobs.routing.nowhere") as server:
        assert server.until_gone() != 0
        assert "mailrail.E004" in server.log and "jobs.routing.nowhere" in server.log


def test_without_checks_the_server_runs_and_says_why_it_has_no_worker(start: Start) -> None:
    bad = {"SITE_ROUTING": "jobs.routing.nowhere"}
    with start(SERVERS["django"], "--noreload", "--skip-checks", **bad) as server:
        serving = server.pid()
        assert server.processes() == {serving}
        assert "No worker: CHANNEL_LAYERS['default']['CONFIG']['routing']" in server.log


def test_without_a_route_the_server_runs_and_says_so(start: Start) -> None:
    with start("mailrail", "--noreload") as server:
        serving = server.pid()
        assert server.processes() == {serving}
        assert "No worker: no channel is routed" in server.log


def test_runserver_plus_has_a_worker_too(start: Start) -> None:
    """With its reloader: without, django-extensions 4.1 does not start on werkzeug 3 (KeyError: WERKZEUG_SERVER_FD)."""
    with start("mailrail django_extensions jobs", command="runserver_plus") as server:
        serving = server.pid()
        line = server.line("old", server.send())
        assert line.pid != serving
        workers = server.processes() - {serving, server.process.pid}
        assert line.pid in workers
        server.edit(serving)
        server.pid()
        assert server.line("new", server.send()).pid not in workers
        interrupt(server, serving)
        server.until_gone()


def test_runserver_plus_without_its_app_says_what_to_install(start: Start) -> None:
    with start("mailrail jobs", "--noreload", command="runserver_plus") as server:
        assert server.until_gone() == 1
        assert "pip install django-extensions werkzeug" in server.log


def test_a_runserver_of_an_app_before_ours_may_extend_it(start: Start) -> None:
    with start("early mailrail django.contrib.staticfiles jobs", "--noreload") as server:
        server.pid()
        server.line("old", server.send())
        assert "The early app's runserver." in server.log
        assert server.get("/static/served.txt") == "served\n"


def test_what_a_consumer_starts_does_not_get_pythons_own_directories(start: Start) -> None:
    with start(SERVERS["django"]) as server:
        server.pid()
        line = server.line("old", server.send())
        environ = Path(f"/proc/{line.pid}/environ").read_text().split("\0")
        [path] = [value.removeprefix("PYTHONPATH=") for value in environ if value.startswith("PYTHONPATH=")]
        assert str(server.folder) in path.split(os.pathsep)
        assert "site-packages" not in path and str(Path(os.__file__).parent) not in path.split(os.pathsep)
        assert "RUN_MAIN=true" not in environ
