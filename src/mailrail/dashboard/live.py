"""Bring the live page over a WebSocket as its numbers change: the same object that polling gets.

There are no groups and no channel layer in it. Each connection looks at the samples of its own process
(``mailrail.monitoring``), so a page also tells that the layer is down.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.http import is_same_domain

from mailrail.log import logger_of

from .access import refusal, session_user
from .page import Page, asamples, pages
from .queries import PageQuery
from .viewers import VIEW, Viewer, grants_of

logger = logger_of("mailrail.dashboard")

RECHECK_S = 60.0
"""Seconds after which session, user and permission are checked again."""
REPEAT_S = 10.0
"""Seconds after which an unchanged page is sent again, so that the browser knows that the connection lives."""
FRESH_S = 1.0
"""Seconds between two looks: for so long a sample is the same for all."""
SHORTEST_WAIT_S = 0.1
"""Seconds between two looks at least: the next one answers the last question of those that came meanwhile."""
MAX_QUESTION_LENGTH = 2_000
UNREADABLE = 1007
"""RFC 6455, 7.4.1: data that is not what its type says."""


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    """Send the page to one browser. Close codes: 4401 for a session that is over, 4403 without permission.

    The browser chooses channels by ``{"q": "…", "page": 2}``. Language and time zone are those of the page that
    opened the connection; it has put them into the address.
    """

    channel_layer_alias = ""  # none: a page must not need the layer that it watches

    async def connect(self) -> None:
        """Refuse pages of other sites without a word, and tell others why they are refused."""
        self._request = ASGIRequest({**self.scope, "method": "GET"}, BytesIO())
        self._query, self._asked = PageQuery.read(self._request.GET.dict()), asyncio.Event()
        self._sent, self._sent_at, self._following = "", 0.0, None
        if not is_trusted(self._request):
            await self.close()
            return
        await self.accept()
        if await self._is_admitted():
            self._following = asyncio.ensure_future(self._follow())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Read which channels the browser shows."""
        try:
            question = json.loads((text_data or "")[:MAX_QUESTION_LENGTH])
        except (ValueError, RecursionError):
            await self.close(UNREADABLE)
            return
        if isinstance(question, dict):
            self._query = PageQuery.read(question)
            self._asked.set()

    async def disconnect(self, code: int) -> None:
        """Stop looking."""
        if self._following is not None:
            self._following.cancel()

    async def _is_admitted(self) -> bool:
        """Check session, user and permission, and close the connection if one of them is lacking."""
        status, self._viewer = await database_sync_to_async(_admitted)(self._request, self.scope)
        self._checked_at = time.monotonic()
        if status is not None:
            await self.close(4000 + status)
        return status is None

    async def _follow(self) -> None:
        try:
            while time.monotonic() - self._checked_at < RECHECK_S or await self._is_admitted():
                await self._look()
                await asyncio.sleep(SHORTEST_WAIT_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), self._wait_s - SHORTEST_WAIT_S)
        except Exception:  # whatever it is: nobody else would hear of it
            logger.exception("the live page of a connection ends")
            await self.close(1011)

    async def _look(self) -> None:
        self._asked.clear()
        query, samples = self._query, await asamples()
        page = pages.known(samples, self._viewer, query)
        if page is None:
            build = database_sync_to_async(pages.get, thread_sensitive=False)
            page = await build(samples, self._viewer, query)
        age = time.time() - min((sample.at for sample in samples), default=0.0)
        self._wait_s = min(max(FRESH_S - age, SHORTEST_WAIT_S), FRESH_S)
        await self._send_changed(page)

    async def _send_changed(self, page: Page) -> None:
        now = time.monotonic()
        if page.etag != self._sent or now - self._sent_at >= REPEAT_S:
            self._sent, self._sent_at = page.etag, now
            await self.send(text_data=page.body.decode())


def is_trusted(request: HttpRequest) -> bool:
    """Tell whether the page that opens the connection is of this site, or of one in ``CSRF_TRUSTED_ORIGINS``.

    Browsers send cookies along whoever opens a WebSocket, so this is what keeps other sites out (RFC 6455, 10.2).
    """
    try:
        origin, host = urlsplit(request.META.get("HTTP_ORIGIN", "")), request.get_host()
    except (ValueError, SuspiciousOperation):
        return False
    if not origin.netloc:
        return False
    trusted = [urlsplit(address) for address in settings.CSRF_TRUSTED_ORIGINS]
    return is_same_domain(origin.netloc, host.lower()) or any(
        origin.scheme == other.scheme and is_same_domain(origin.netloc, other.netloc.lstrip("*"))
        for other in trusted
    )


def _admitted(request: HttpRequest, scope: Any) -> tuple[int | None, Viewer]:
    """Return why the user is refused, if so, and the viewer."""
    user = session_user(request, scope.get("user"))
    status = refusal(user, VIEW)
    grants = frozenset[str]() if status is not None else grants_of(user)
    asked = parse_qs(scope.get("query_string", b"").decode("ascii", "replace"))
    prefix = get_script_prefix(scope).rstrip("/") + "/"
    return status, Viewer(grants, _language(asked), _zone(asked), prefix)


def _language(asked: dict[str, list[str]]) -> str:
    language = asked.get("language", [""])[0]
    return language if language and translation.check_for_language(language) else settings.LANGUAGE_CODE


def _zone(asked: dict[str, list[str]]) -> Any:
    try:
        return ZoneInfo(asked["zone"][0])
    except (KeyError, ValueError, OSError):  # there is no such zone, or no zone was asked for
        return timezone.get_default_timezone()
