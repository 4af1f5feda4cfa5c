"""A real browser for tests: the system's Chromium, driven by Playwright on a thread of its own.

Playwright's synchronous API keeps an event loop running on its thread, and there Django's ORM refuses to work
(``SynchronousOnlyOperation``). So the browser has a thread, and a test uses both, each where it belongs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from axe_playwright_python.base import AXE_SCRIPT
from django.contrib.auth.models import User
from django.test import Client
from playwright import sync_api
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WITHOUT = (
    f"the pages were not looked at in a browser: none of {', '.join(PROGRAMS)} is on PATH. "
    "As root, `make test` installs Debian's; or name a program in MAILRAIL_TEST_CHROMIUM."
)
TIMEOUT_MS = 30_000.0
"""Milliseconds that something on a page may take; Playwright's own 5 s are few on a busy machine."""

_thread = ThreadPoolExecutor(1, "browser")


def program() -> str | None:
    """The path of the browser, if there is one."""
    chosen = os.environ.get("MAILRAIL_TEST_CHROMIUM")
    return chosen or next(filter(None, map(shutil.which, PROGRAMS)), None)


class OnThread:
    """Something of Playwright's, used from here: every look at it and every call happens on the browser's thread."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return _do(getattr, self._thing, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = (_bare(argument) for argument in arguments)
        return _do(self._thing, *given, **{name: _bare(value) for name, value in named.items()})

    def __enter__(self) -> Any:
        return _do(self._thing.__enter__)

    def __exit__(self, *error: Any) -> Any:
        return _do(self._thing.__exit__, *error)


def _do(action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return _remote(_thread.submit(action, *arguments, **named).result())


def _bare(value: Any) -> Any:
    return value._thing if isinstance(value, OnThread) else value


def _remote(value: Any) -> Any:
    if isinstance(value, list):
        return [_remote(item) for item in value]
    is_theirs = type(value).__module__.partition(".")[0] == "playwright"
    return OnThread(value) if is_theirs or callable(value) else value


def expect(locator: Locator) -> Any:
    """Playwright's ``expect``: what comes next is waited for."""
    return OnThread(sync_api.expect)(locator)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, until the block ends."""
    sync_api.expect.set_options(timeout=TIMEOUT_MS)
    playwright = OnThread(sync_api.sync_playwright)().start()
    browser = playwright.chromium.launch(executable_path=program(), args=["--disable-dev-shm-usage"])
    try:
        yield browser
    finally:
        browser.close()
        playwright.stop()


class Watch:
    """What went wrong in a window although the page looks right: what the console says, and where requests go."""

    def __init__(self, site: str) -> None:
        self._site = site
        self.complaints: list[str] = []

    def over_context(self, context: BrowserContext) -> None:
        context.on("request", self._see)
        context.expose_function("tell_of_violation", lambda what: self._note(f"policy: {what}"))
        context.add_init_script(
            """document.addEventListener("securitypolicyviolation", (event) =>
                tell_of_violation(`${event.violatedDirective} ${event.blockedURI}`));"""
        )

    def over_page(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self._note(f"script: {error}"))

    def _note(self, complaint: str) -> None:
        self.complaints.append(complaint)

    def _hear(self, message: ConsoleMessage) -> None:
        # A page with a status from 400 on is a line in the console, too; and an icon is the project's to have.
        is_status = "the server responded with a status of 4" in message.text
        where = message.location["url"]
        expected = is_status and where.startswith((f"{self._site}/invites/", f"{self._site}/favicon.ico"))
        if message.type in ("error", "warning") and not expected:
            self._note(f"console: {message.text} ({where})")

    def _see(self, request: Request) -> None:
        if not request.url.startswith(f"{self._site}/"):
            self._note(f"request: {request.url}")


class Windows:
    """Opens windows, each as of a browser of its own.

    A new context of a browser, its page and the process that shows it take half a second of CPU. So one is kept for
    the next test, emptied.
    """

    def __init__(self, browser: Browser, site: str) -> None:
        self._browser, self.site = browser, site
        self._watch, self._kept = _kept.setdefault(browser, (Watch(site), []))
        self._in_use: list[tuple[Page, bool]] = []
        self.complaints = self._watch.complaints
        self.complaints.clear()

    def open(self, user: User | None = None, *, fresh: bool = False, **options: Any) -> Page:
        """``options`` are those of ``Browser.new_context``. ``fresh``: for a test that changes its clock, say."""
        usual = not (fresh or options)
        page = self._kept.pop() if usual and self._kept else self._new(options)
        self._in_use.append((page, usual))
        if user is not None:
            page.context.add_cookies([_session(user, self.site)])
        return page

    def _new(self, options: dict[str, Any]) -> Page:
        context = self._browser.new_context(base_url=self.site, **options)
        context.set_default_timeout(TIMEOUT_MS)
        self._watch.over_context(context)
        page = context.new_page()
        self._watch.over_page(page)
        return page

    def forgive(self, what: str) -> None:
        """Forget complaints that have to be there."""
        expected = [complaint for complaint in self.complaints if what in complaint]
        assert expected, f"no {what!r} in {self.complaints}"
        self.complaints[:] = [complaint for complaint in self.complaints if complaint not in expected]

    def close(self) -> None:
        for page, usual in self._in_use:
            if usual and not self._kept and page.url.startswith(f"{self.site}/"):
                _empty(page, self.site)
                self._kept.append(page)
            else:
                page.context.close()
        self._in_use.clear()


_kept: WeakKeyDictionary[Browser, tuple[Watch, list[Page]]] = WeakKeyDictionary()
"""By browser: what it complains of, and a window that waits for the next test."""


def _empty(page: Page, site: str) -> None:
    """Forget what it shows, what it has stored, and how it was looked at."""
    storage = page.context.new_cdp_session(page)
    storage.send("Storage.clearDataForOrigin", {"origin": site, "storageTypes": "all"})
    storage.send("DOMStorage.clear", {"storageId": {"securityOrigin": site, "isLocalStorage": False}})
    storage.detach()
    page.context.clear_cookies()
    page.goto("about:blank")
    page.set_viewport_size({"width": 1280, "height": 720})
    page.emulate_media(color_scheme="null")


def _session(user: User, site: str) -> Any:
    client = Client()
    client.force_login(user)
    return {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": site}


_ASK_AXE = """async () => {
    const found = await axe.run({
        resultTypes: ["violations", "incomplete"], rules: { "target-size": { enabled: true } },
    });
    const said = (result) => result.nodes.map((node) =>
        `${result.id} (${result.help}): ${node.html} ${node.failureSummary}`);
    return [...found.violations, ...found.incomplete].flatMap(said);
}"""


def axe(page: Page) -> list[str]:
    """What axe-core, with all its rules, has against the page as it is shown now; what it cannot tell counts, too."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    faults: list[str] = page.evaluate(_ASK_AXE)
    return faults
