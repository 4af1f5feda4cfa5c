"""The live page of a real site, by polling and by WebSocket: a send shows, and the page finds back to its server."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from playwright.sync_api import Page

from mailrail import Channel
from mailrail.layers import get_layer
from mailrail.messages import Message
from mailrail.testing import drain

from ..chromium import Windows, expect
from ..ports import free_port
from ..processes import ROOT, environment, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def operator() -> User:
    user = User.objects.create_user("grace", is_staff=True)
    names = ("view_dashboard", "operate_dashboard", "view_storedmessage", "requeue_message")
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    return user


@contextmanager
def daphne(port: int, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "daphne", "-p", str(port), "tests.pages.live_asgi:application"]
    with folder.joinpath("log").open("ab") as log:
        process = Popen(command, env=environment(folder / "ledger"), cwd=ROOT, stdout=log, stderr=log)
        try:
            until(lambda: listens(port), what="daphne")
            yield
        finally:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def ready(page: Page) -> Any:
    return page.locator("tr[data-key='default/mails'] [data-column=ready]")


def send_and_see(page: Page, seconds: float, number: int) -> None:
    Channel("mails").send({})
    sent = time.monotonic()
    expect(ready(page)).to_have_text(str(number))
    print(f"seen after {time.monotonic() - sent:.2f} s; promised: {seconds} s")


def ask(page: Page, action: str, reason: str) -> None:
    page.get_by_role("button", name=f"{action}: mails").click()
    page.get_by_role("dialog").get_by_role("textbox").fill(reason)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()


def bury(count: int) -> None:
    layer = get_layer()
    layer.enqueue([Message("mails", {"n": n}) for n in range(count)])
    for claim in layer.claim("w", {"mails": count}, 60.0).claims:
        layer.bury(claim, "ValueError: it did not work")


def test_by_polling_a_send_is_seen_what_is_asked_for_is_done_and_the_end_of_a_session_told(
    windows: Windows, operator: User
) -> None:
    bury(1_001)  # more than an operation takes at once
    Channel("mails").send({})
    page = windows.open(operator)
    page.goto("/mailrail/?q=mails")
    expect(ready(page)).to_have_text("1")
    send_and_see(page, 3.5, 2)
    ask(page, "Pause", "the disk is full")
    expect(page.locator("#channels")).to_contain_text("by grace: the disk is full")
    expect(page.get_by_role("button", name="Resume: mails")).to_be_visible()
    ask(page, "Requeue", "the disk has room")
    expect(page.locator("#operations tbody")).to_contain_text("grace: the disk has room")
    drain("mailrail.operations")
    expect(page.locator("#operations td[data-column=progress]").first).to_have_text("1,001")
    expect(page.locator("#channels td[data-column=dead]").last).to_have_text("0")
    Session.objects.all().delete()
    expect(page.locator("#away")).to_contain_text("Your session is over.")
    assert page.evaluate("connection.socket ?? null") is None
    windows.forgive("status of 401")


def test_by_websocket_a_send_is_seen_also_after_the_server_has_started_again(
    windows: Windows, operator: User, tmp_path: Path
) -> None:
    Channel("mails").send({})
    port = free_port()
    page = windows.open(operator, fresh=True)
    host = f"localhost:{port}"  # whose cookies are those of the site
    with daphne(port, tmp_path):
        page.goto(f"http://{host}/mailrail/?q=mails")
        expect(ready(page)).to_have_text("1")
        page.wait_for_function("connection.socket?.readyState === WebSocket.OPEN")
        asked = page.evaluate("performance.getEntriesByType('resource').length")
        send_and_see(page, 1.5, 2)
        assert page.evaluate("performance.getEntriesByType('resource').length") == asked, "it came by itself"
    expect(page.locator("#away")).to_contain_text("No answer since")
    expect(page.locator("body")).to_have_class("old")
    assert page.title().startswith("? No answer since")
    with daphne(port, tmp_path):
        page.get_by_role("button", name="Try now").click()
        expect(page.locator("#away")).to_be_hidden()
        page.wait_for_function("connection.socket?.readyState === WebSocket.OPEN")
        send_and_see(page, 1.5, 3)
        page.goto("about:blank")
    windows.forgive(f"//{host}/")  # it was away, and is not the site of the other tests
