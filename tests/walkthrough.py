"""A page that is followed as a reader follows it: its files are written, its commands typed, its addresses opened.

What a page may hold, in any language:

- a ``{code-block}`` with a ``:caption:``: the file of that path. In a ``settings.py`` that is there, it replaces the
  settings of these names; what is new goes to the end, imports to the top.
- a block of ``console``: ``$ `` before each command, below it what it prints; ``^C`` ends what still runs.
- a block of ``text`` without a caption: what is to be seen in the terminal of what runs. Its links are opened.
- a paragraph with ``<http://127.0.0.1:8000/…>``: that page is opened, logging in where that is asked for. With a
  ``value`` and a **button**, its form is submitted. What stands in *emphasis* is on the page that comes.
- tabs: of two, the first is for Django 6.1 and newer, the second for older ones.

In what is printed, ``…`` stands for anything, and what is shown has to be there in this order.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import django

from demo.browser import Browser, BrowserError, Page

from .ports import free_port
from .processes import until

SITE = "http://127.0.0.1:8000"
STAYS = ("runserver", "honcho start")
"""Commands that run until they are stopped."""
TIMEOUT_S = 180.0
"""Seconds for what takes a moment, unless the machine is busy."""


@dataclass(frozen=True)
class Step:
    """Something to do. ``kind``: file, console, text or visit. ``tab``: 0 outside tabs, else its number."""

    kind: str
    text: str
    line: int
    path: str = ""
    tab: int = 0

    @property
    def is_for_this_django(self) -> bool:
        return self.tab in (0, 1 if django.VERSION >= (6, 1) else 2)


def steps_of(page: Path) -> list[Step]:
    """In order. Raises ``ValueError`` for a block that nobody would know what to do with."""
    return list(_steps(page.read_text().splitlines()))


def _steps(lines: Sequence[str]) -> Iterator[Step]:
    tab = 0
    paragraph: list[str] = []
    numbered = enumerate([*lines, ""], 1)
    for number, line in numbered:
        if line.startswith("```"):
            content = "\n".join(iter(lambda: next(numbered)[1], "```"))
            yield _block(line.removeprefix("```"), content + "\n", number, tab)
        elif line.startswith("::::"):
            tab = 0
        elif line.startswith(":::{tab-item}"):
            tab += 1
        elif line:
            paragraph.append(line)
        else:
            if f"<{SITE}" in (text := " ".join(paragraph)):
                yield Step("visit", text, number - len(paragraph), tab=tab)
            paragraph = []


def _block(info: str, content: str, number: int, tab: int) -> Step:
    if info.startswith("{code-block}") and content.startswith(":caption: "):
        caption, _, content = content.removeprefix(":caption: ").partition("\n\n")
        return Step("file", content, number, caption, tab)
    if info not in ("console", "text"):
        raise ValueError(
            f"Line {number}: a block of {info!r} that is no file, no command and nothing to see."
        )
    return Step(info, content, number, tab=tab)


class Reader:
    """Does what the steps say, in a folder, and leaves nothing behind that runs.

    ``environment`` is added to that of this process, ``programs`` are folders on its PATH. ``password``: Ada's.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], programs: Sequence[Path], password: str
    ) -> None:
        self._folder = folder
        self._logs = folder
        self._port = free_port()
        self._browser = Browser(self._here(SITE))
        self._password = password
        self._running: subprocess.Popen[bytes] | None = None
        self._log = folder / "none.log"
        theirs = ("DJANGO_", "MAILRAIL_", "PYTEST_", "PYTHONPATH", "RUN_MAIN")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(theirs)},
            "PATH": os.pathsep.join(map(str, [Path(sys.executable).parent, *programs, os.environ["PATH"]])),
            "DJANGO_SUPERUSER_PASSWORD": password,
            "PIP_NO_INDEX": "1",  # what is installed here has to be what the page says is needed
            "PYTHONUNBUFFERED": "1",
            # Ctrl-C makes Django's autoreloader leave the process that serves without waiting for it.
            "PYTHONWARNINGS": "error,ignore:subprocess:ResourceWarning",
            **environment,
        }

    def do(self, step: Step) -> None:
        try:
            getattr(self, f"_{step.kind}")(step)
        except (AssertionError, BrowserError) as error:
            raise AssertionError(f"Line {step.line} of the page: {error}\n{self._seen()[-4000:]}") from error

    def leave(self) -> None:
        """Stop what still runs."""
        if self._running is None:
            return
        self._running.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._running.wait(40)
        with suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait(20)

    def _here(self, text: str) -> str:
        """The same, at a port that is free."""
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")

    def _seen(self) -> str:
        """What the terminal of what runs shows."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # -- files ------------------------------------------------------------------------------------------------------

    def _file(self, step: Step) -> None:
        path, text = self._folder / step.path, self._here(step.text)
        if path.name == "settings.py":
            text = merged(path.read_text(), text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    # -- commands ---------------------------------------------------------------------------------------------------

    def _console(self, step: Step) -> None:
        for typed, _, shown in (
            part.partition("\n") for part in re.split(r"^(?=\$ |\^C)", step.text, flags=re.M)
        ):
            if typed == "^C":
                self._interrupt()
            elif typed:
                self._type(typed.removeprefix("$ "), self._here(shown))

    def _type(self, command: str, shown: str) -> None:
        if command.startswith("cd "):
            self._folder /= command.removeprefix("cd ")
        elif any(name in command for name in STAYS):
            self._start(command)
        else:
            assert _pattern(shown).search(printed := self._run(command)), f"{command} printed:\n{printed}"

    def _run(self, command: str) -> str:
        if "createsuperuser" in command:
            command += " --noinput"  # the password is in the environment
        environment = self._environment
        if "-m pip " in command:  # an old pip warns of its own parts
            environment = {**environment, "PYTHONWARNINGS": "default"}
        done = subprocess.run(
            command,
            shell=True,
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _start(self, command: str) -> None:
        assert self._running is None, f"{command}: something else runs in this terminal"
        command = command.replace("-p 8000", f"-p {self._port}")
        if command.endswith("runserver"):
            command += f" {self._port}"
        self._log = self._logs / f"{command.split()[-2]}-{command.split()[-1]}.log"
        with self._log.open("wb") as log:
            self._running = subprocess.Popen(
                f"exec {command}",
                shell=True,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _interrupt(self) -> None:
        assert self._running is not None, "nothing runs that Ctrl-C could end"
        os.killpg(self._running.pid, signal.SIGINT)
        code = self._running.wait(40)
        assert code in (0, 128 + signal.SIGINT), f"it exited with {code}"
        self._running = None

    def _text(self, step: Step) -> None:
        pattern = _pattern(self._here(step.text))

        def there() -> re.Match[str] | None:
            assert self._running is not None and self._running.poll() is None, "nothing runs"
            return pattern.search(self._seen())

        found = until(there, TIMEOUT_S, f"{pattern.pattern!r}")
        for link in re.findall(r"http://127\.0\.0\.1:\d+/\S+", found[0]):
            self._browser.get(link)

    # -- pages ------------------------------------------------------------------------------------------------------

    def _visit(self, step: Step) -> None:
        [url] = re.findall(rf"<({SITE}[^>]*)>", step.text)
        page = self._open(self._here(url))
        if pressed := re.search(r"\*\*(.+?)\*\*", step.text):
            [value] = re.findall(r"`(.+?)`", step.text)
            assert f"<button>{pressed[1]}</button>" in page.text, page.text
            page = self._browser.submit(page.url, email=value)
        for words in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", step.text):

            def said(words: str = words, page: Page = page) -> bool:
                return words in page.text or words in self._open(page.url).text

            until(said, TIMEOUT_S, f"{words!r} on {url}")

    def _open(self, url: str) -> Page:
        def opened() -> Page | None:
            assert self._running is not None and self._running.poll() is None, "nothing runs"
            try:
                return self._browser.get(url)
            except BrowserError as error:
                if "was not answered" in str(error):  # the server is starting
                    return None
                raise

        page: Page = until(opened, TIMEOUT_S, f"an answer to {url}")
        if 'name="password"' in page.text:
            return self._browser.submit(page.url, username="ada", password=self._password)
        return page


def _pattern(shown: str) -> re.Pattern[str]:
    fragments = (fragment.strip() for fragment in re.split("[…\n]", shown))
    return re.compile(".*".join(re.escape(fragment) for fragment in fragments if fragment), re.DOTALL)


def merged(settings: str, changes: str) -> str:
    """Settings with these changes: each name that is assigned already is replaced, the others come last."""
    for statement in ast.parse(changes).body:
        new = str(ast.get_source_segment(changes, statement))
        if isinstance(statement, ast.Import | ast.ImportFrom):
            settings = f"{new}\n{settings}"
            continue
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name), new
        name = statement.targets[0].id
        for old in ast.parse(settings).body:
            if (
                isinstance(old, ast.Assign)
                and isinstance(old.targets[0], ast.Name)
                and old.targets[0].id == name
            ):
                settings = settings.replace(str(ast.get_source_segment(settings, old)), new)
                break
        else:
            settings = f"{settings}\n{new}\n"
    return settings
