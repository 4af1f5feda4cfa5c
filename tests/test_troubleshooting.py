"""The page on troubleshooting shows what the commands print in the situations that it is about."""

from __future__ import annotations

import io
import re
from typing import Any

import django
import pytest
from django.core.mail import send_mail
from django.core.management import CommandError, call_command

from mailrail import Channel
from mailrail.layers import get_layer
from mailrail.routing import Routing, route
from mailrail.testing import advance, deliver, drain

from .ports import free_port
from .processes import ROOT
from .walkthrough import _pattern

NULL = 0
PAGE = (ROOT / "docs/how-to/troubleshooting.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def compare(text: str) -> int:
    """Run the commands that stand in a text, and compare what they print. Returns how many there were."""
    blocks = re.findall(r"```console\n\$ python manage.py (.*?)\n(.*?)```", text, re.DOTALL)
    for command, shown in blocks:
        assert _pattern(shown).search(printed := run(*command.split())), f"{command} printed:\n{printed}"
    return len(blocks)


def run(*command: str) -> str:
    out = io.StringIO()
    try:
        call_command(*command, stdout=out)
    except CommandError as error:
        return f"{out.getvalue()}CommandError: {error}"
    return out.getvalue()


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """A project with one consumer, and a mailer whose server does not answer."""

    def make_report(message: Any) -> float:
        if message["year"] < 0:
            message.bury("there is no such year")
        return 1 / (message["year"] or NULL)

    mail = Routing.of_layer().patterns["mailrail.mail.*"]
    mine = Routing([*mail, route("reports", make_report, attempts=3)])
    monkeypatch.setattr(Routing, "of_layer", lambda alias=None: mine)
    if django.VERSION >= (6, 1):
        smtp = {"host": "127.0.0.1", "port": free_port()}
        settings.MAILERS = {
            "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "smtp"}},
            "smtp": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": smtp},
        }


@pytest.mark.django_db
def test_messages_that_nobody_consumes_are_shown_with_the_reason() -> None:
    assert compare(PAGE.partition("\n## ")[0]) == 1
    Channel("reports").send({"year": 0})
    Channel("reports").send({"year": -1})
    drain("reports", raise_errors=False)
    Channel("report").send({"year": 2026})
    get_layer().pause("reports")
    assert compare(SECTIONS["Nothing is consumed"]) == 3


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
@pytest.mark.django_db
def test_mail_that_does_not_leave_is_shown_with_the_reason() -> None:
    send_mail("Hello", "A body.", "me@example.com", ["you@example.com"])
    deliver(raise_errors=False)
    assert compare(SECTIONS["Mail is queued and does not leave"]) == 2


@pytest.mark.django_db
def test_the_log_has_a_line_for_each_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    [line] = re.findall(r"```text\n(.*?)\n```", SECTIONS["A message runs twice"], re.DOTALL)
    level, _, shown = line.partition(" ")
    caplog.set_level(level, "mailrail")
    Channel("reports").send({"year": 0})
    drain("reports", raise_errors=False)
    assert "retried reports" in caplog.text and "because=" in caplog.text
    monkeypatch.setattr("tests.test_troubleshooting.NULL", 1)
    advance(3600)
    drain("reports")
    assert _pattern(shown).search(caplog.text)


def test_every_path_of_the_page_on_architecture_is_there() -> None:
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    paths = re.findall(r"`([a-z_]+(?:/[a-z_]*)*(?:\.py|/))`", text)
    assert len(paths) > 20
    places = {path: ROOT if path.startswith(("src/", "tests/")) else ROOT / "src/mailrail" for path in paths}
    missing = [path for path, folder in places.items() if not (folder / path).exists()]
    assert missing == ["layers/mysql/store.py", "layers/mysql/sql/"]  # the example: yours to write
