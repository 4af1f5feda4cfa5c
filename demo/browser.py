"""What a person with a web browser does: open pages, fill in their forms, submit them."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, Request, build_opener

ANSWER_SECONDS = 60.0


class BrowserError(Exception):
    """A page did not come, or a form was refused; the text says which and why."""


class Page(NamedTuple):
    """A page as it came, after redirects."""

    url: str
    text: str
    headers: Mapping[str, str]


class _FormReader(HTMLParser):
    """Collects the hidden fields of a page, and the errors that its forms report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.hidden: dict[str, str] = {}
        self.errors: list[str] = []
        self._in_errors = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of_tag = dict(attrs)
        if tag == "input" and of_tag.get("type") == "hidden":
            self.hidden[of_tag.get("name") or ""] = of_tag.get("value") or ""
        elif tag == "ul" and "errorlist" in (of_tag.get("class") or ""):
            self._in_errors = True

    def handle_endtag(self, tag: str) -> None:
        self._in_errors = self._in_errors and tag != "ul"

    def handle_data(self, data: str) -> None:
        if self._in_errors and data.strip():
            self.errors.append(data.strip())


class Browser:
    """Keeps cookies, follows redirects, and knows one site."""

    def __init__(self, site: str) -> None:
        self.site = site
        self._opener: OpenerDirector = build_opener(ProxyHandler({}), HTTPCookieProcessor())

    def get(self, url: str) -> Page:
        """Open a page (a path of the site, or a whole URL). Raises ``BrowserError``."""
        return self._open(Request(urljoin(self.site, url)))

    def submit(self, url: str, **fields: str) -> Page:
        """Open a page, fill in its form, submit it to the same address, and return the page that comes after.

        Raises ``BrowserError`` when there is no CSRF token, or when the form comes back with errors.
        """
        page = self.get(url)
        hidden = _FormReader(page.text).hidden
        if "csrfmiddlewaretoken" not in hidden:
            raise BrowserError(f"{page.url} has no form with a CSRF token.")
        body = urlencode({**hidden, **fields}).encode()
        answer = self._open(Request(page.url, body, {"Origin": self.site}))
        if errors := _FormReader(answer.text).errors:
            raise BrowserError(f"{page.url} did not accept the form: {' '.join(errors)}")
        return answer

    def _open(self, request: Request) -> Page:
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as response:
                return Page(response.url, response.read().decode(), response.headers)
        except HTTPError as error:
            raise BrowserError(
                f"{request.get_method()} {request.full_url} was answered with {error}."
            ) from error
        except (URLError, OSError) as error:
            raise BrowserError(
                f"{request.get_method()} {request.full_url} was not answered: {error}."
            ) from error
