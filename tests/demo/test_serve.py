"""``make serve`` as a newcomer uses it: one process started, the rest over HTTP."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import NamedTuple

import pytest
from django.core.mail import EmailMultiAlternatives

from demo.browser import Browser, BrowserError
from demo.inbox import EmailBackend
from demo.serve import parse

from ..ports import free_port
from ..processes import until
from .test_demo import ROOT, processes_that_know

GUEST = "guest@example.com"
pytestmark = pytest.mark.timeout(180)

HTML = (
    '<!doctype html><p>Hello <a href="https://example.com/there">there</a>'
    '<img src="https://example.com/pixel.png"><script>alert(1)</script>'
)


def recipe(port: int) -> list[str]:
    """What the Makefile's ``serve`` runs, with this Python."""
    match = re.search(r"^serve:.*\n\t(.*)\n", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert match
    replaced = {"$(call python-of,demo)": sys.executable, "$(PORT)": str(port), "$(ARGS)": ""}
    line = match[1]
    for variable, value in replaced.items():
        assert variable in line
        line = line.replace(variable, value)
    return shlex.split(line)


class Serving(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path

    def says(self, what: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return what in self.log.read_text()


@contextmanager
def serve(folder: Path, port: int) -> Iterator[Serving]:
    """In a shell that has been used for a deployment, whose database must not be touched."""
    elsewhere = {"DATABASE_URL": f"sqlite:///{folder}/other.sqlite3", "SECRET_KEY": "x" * 60, "DEBUG": "0"}
    # Ctrl-C makes Django's autoreloader leave the process that serves without waiting for it.
    warnings = "error,ignore:subprocess:ResourceWarning"
    log = folder / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*recipe(port), "--folder", str(folder)],
            cwd=ROOT,
            env=os.environ | elsewhere | {"PYTHONWARNINGS": warnings, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    with process:
        try:
            yield Serving(process, log)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def answers(browser: Browser) -> bool:
    try:
        return bool(browser.get("/login/"))
    except BrowserError:
        return False  # it does not listen yet


def mail_to(browser: Browser, recipient: str) -> str:
    """The address of the page that shows the mail of this recipient."""
    match = re.search(
        rf'href="(/inbox/[\w-]+/)">[^<]*</a></td>\s*<td role="cell">{recipient}<', browser.get("/inbox/").text
    )
    assert match
    return str(match[1])


def test_a_newcomer_invites_reads_the_mail_clicks_and_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    site = f"http://127.0.0.1:{port}"
    with serve(tmp_path, port) as served:
        until(lambda: served.says("Starting ASGI/Daphne"), 120, "the start")
        log = served.log.read_text()
        login = re.search(r"Log in as +(\w+), with the password (\S+)", log)
        assert login and f"{site}/inbox/" in log and f"{site}/admin/" in log, log
        browser, guest = Browser(site), Browser(site)
        until(lambda: answers(browser), what="an answer")

        page = browser.submit("/login/", username=login[1], password=login[2])
        assert page.url == f"{site}/"
        for place in ("/invites/", "/inbox/", "/live/", "/admin/"):
            assert f'<dt><a href="{place}">' in page.text
        assert "Channels" in browser.get("/live/").text and "Log in" in guest.get("/live/").text
        assert "Site administration" in browser.get("/admin/").text
        assert "Log in" in guest.get("/inbox/").text
        assert "Nothing yet" in browser.get("/inbox/").text

        browser.submit("/invites/new/", email=GUEST)
        until(lambda: list(tmp_path.glob("captured/*.eml")), timeout=120, what="the delivery")
        shown = browser.get(mail_to(browser, GUEST))
        links = re.findall(rf'<a href="({site}/invites/accept/[^"]+)"', shown.text)
        assert len(links) == 1, shown.text
        assert links[0] in browser.get(f"{shown.url}html/").text
        assert "was accepted" in guest.submit(links[0]).text

        foreign_mail_does_nothing(browser, tmp_path, monkeypatch)
        os.killpg(served.process.pid, signal.SIGINT)  # a terminal sends it to everybody
        assert served.process.wait(60) == 0
        assert "Traceback" not in served.log.read_text()
    until(lambda: not processes_that_know(tmp_path), what="the end of all processes")
    assert not (tmp_path / "other.sqlite3").exists()


def foreign_mail_does_nothing(browser: Browser, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INBOX_FOLDER", str(folder / "captured"))
    message = EmailMultiAlternatives(
        "Grüße", "Look: https://example.com/x <b>", "me@example.com", ["a@example.com"]
    )
    message.attach_alternative(HTML, "text/html")
    message.attach("résumé.txt", "content", "text/plain")
    assert EmailBackend().send_messages([message]) == 1
    page = browser.get(mail_to(browser, "a@example.com"))
    assert "Grüße" in page.text and "&lt;b&gt;" in page.text and 'href="https://example.com/x"' in page.text
    [sandbox] = re.findall(r'<iframe sandbox="([^"]*)"', page.text)
    assert sandbox == "allow-popups allow-popups-to-escape-sandbox"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "frame-src 'self'" in policy
    frame = browser.get(f"{page.url}html/")
    assert frame.text.strip() == HTML.replace("<p>", '<base target="_blank"><p>')
    policy = frame.headers["Content-Security-Policy"]
    assert "default-src 'none'; img-src data:;" in policy and "base-uri 'none'; form-action 'none'" in policy
    assert "sandbox" in policy and "allow-scripts" not in policy and "allow-same-origin" not in policy
    assert frame.headers["X-Frame-Options"] == "SAMEORIGIN"
    [path] = re.findall(r'href="(/inbox/[^"]*/attachments/0/)"', page.text)
    file = browser.get(path)
    assert file.text.strip() == "content" and file.headers["Content-Disposition"].startswith("attachment;")
    assert "résumé.txt" in unescape(page.text)
    with pytest.raises(BrowserError, match="404"):
        browser.get("/inbox/nothing/")


def test_a_port_that_is_taken_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with serve(tmp_path, port) as served:
            assert served.process.wait(60) == 1
    assert served.log.read_text() == (
        f"Port {port} of 127.0.0.1 cannot be used: Address already in use. Try another: make serve PORT=8001\n"
    )
    assert list(tmp_path.iterdir()) == [served.log]


@pytest.mark.parametrize("port", [0, 65536])
def test_what_is_no_port_is_refused(tmp_path: Path, port: int) -> None:
    with serve(tmp_path, port) as served:
        assert served.process.wait(60) == 2
    assert f"'{port}' is not a port: those are 1 to 65535" in served.log.read_text()


def test_a_folder_that_is_missing_is_made_and_one_that_cannot_be_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "one" / "two"
    assert parse(["--folder", str(missing)]).folder == missing and missing.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        parse(["--folder", str(tmp_path / "file")])
    assert "file' cannot be a folder: File exists" in capsys.readouterr().err
