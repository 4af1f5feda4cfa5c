"""The two ways in which a browser gets the numbers of the live page, so that tests can ask both the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.test import Client
from django.urls import path

from mailrail.dashboard.routing import websocket_urlpatterns

TIMEOUT_S = 30
application = URLRouter([path("mailrail/", URLRouter(websocket_urlpatterns))])


class Answer(NamedTuple):
    """The status of an answer: 200, 401 or 403, also over a WebSocket; and the page."""

    status: int
    page: Any = None


def poll(browser: Client, **query: Any) -> Answer:
    response = browser.get("/mailrail/data/", query)
    return Answer(response.status_code, response.json() if response.status_code == 200 else None)


def listen(browser: Client, **query: Any) -> Answer:
    async def first() -> Answer:
        async with socket(browser, **query) as connection:
            return await received(connection)

    return asyncio.run(first())


Look = Callable[..., Answer]


@asynccontextmanager
async def socket(
    browser: Client, origin: str | None = "http://testserver", host: str = "testserver", **query: Any
) -> AsyncIterator[Any]:
    """A WebSocket as the browser opens it, with its cookies; it has been accepted, or ``accepted`` is false."""
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in browser.cookies.items())
    headers = [(b"host", host.encode()), (b"cookie", cookies.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    connection = WebsocketCommunicator(application, f"/mailrail/live/?{urlencode(query)}", headers)
    connection.accepted, _ = await connection.connect(TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.disconnect()


async def received(connection: Any) -> Answer:
    """What the server sends next: a page, or the code that it closes with."""
    event = await connection.receive_output(TIMEOUT_S)
    if event["type"] == "websocket.close":
        return Answer(event["code"] - 4000)
    return Answer(200, json.loads(event["text"]))


async def until(connection: Any, is_it: Callable[[Any], object]) -> Any:
    """Read pages until one is as wanted."""
    while True:
        answer = await received(connection)
        assert answer.status == 200, answer
        if is_it(answer.page):
            return answer.page
