"""Browsers that have the live page open, as bytes on the wire: their own cost would hide that of the server."""

from __future__ import annotations

import asyncio
import os
from asyncio import StreamReader, StreamWriter
from base64 import b64encode
from collections.abc import Callable, Coroutine
from typing import Any

INTERVAL_S = 2.0
"""Seconds between two questions of a page."""
_PING, _PONG = 0x9, 0xA
"""Frames of RFC 6455, 5.5."""

OpenPage = Callable[[int, str, list[int]], Coroutine[Any, Any, None]]
"""Takes the port, the cookie, and a list to which it adds the bytes of each answer; it ends when it is cancelled."""


def polling(path: str) -> OpenPage:
    """Ask every two seconds, with the tag of the last answer, over one connection."""

    async def ask(port: int, cookie: str, answers: list[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tag = ""
        try:
            while True:
                known = f"If-None-Match: {tag}\r\n" if tag else ""
                writer.write(_request(path, port, cookie, known))
                head = await _head(reader)
                length = int(head.get("content-length", 0)) if head["status"] == "200" else 0
                await reader.readexactly(length)
                tag = head.get("etag", "")
                answers.append(length)
                await asyncio.sleep(INTERVAL_S)
        finally:
            writer.close()

    return ask


async def listening(port: int, cookie: str, answers: list[int]) -> None:
    """Listen over a WebSocket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        key = b64encode(os.urandom(16)).decode()
        asked = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nOrigin: http://127.0.0.1:{port}\r\n"
        )
        writer.write(_request("/live/live/", port, cookie, asked))
        head = await _head(reader)
        if head["status"] != "101":
            raise RuntimeError(f"The WebSocket was refused with {head['status']}.")
        while True:
            await _read_frame(reader, writer, answers)
    finally:
        writer.close()


async def _read_frame(reader: StreamReader, writer: StreamWriter, answers: list[int]) -> None:
    first, length = await reader.readexactly(2)
    if length >= 126:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8))
    content = await reader.readexactly(length)
    if first & 0xF == _PING:
        writer.write(bytes([0x80 | _PONG, 0x80 | length]) + bytes(4) + content)  # masked with zeros
    else:
        answers.append(length)


def _request(path: str, port: int, cookie: str, more: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n{more}\r\n".encode()


async def _head(reader: StreamReader) -> dict[str, str]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    fields = (line.partition(":") for line in lines)
    return {"status": status.split()[1]} | {name.lower(): value.strip() for name, _, value in fields}


async def open_pages(
    count: int, page: OpenPage, port: int, cookie: str, seconds: float, spent: Callable[[], float]
) -> tuple[float, int]:
    """Keep so many pages open, and return the share of a core that ``spent`` grows by, and how many answers came.

    The pages are opened one after the other over one interval. Another three intervals do not count.
    """
    answers: list[int] = []
    async with asyncio.TaskGroup() as group:
        pages: list[asyncio.Task[None]] = []
        for _ in range(count):
            pages.append(group.create_task(page(port, cookie, answers)))
            await asyncio.sleep(INTERVAL_S / count)
        await asyncio.sleep(3 * INTERVAL_S)
        before, answered = spent(), len(answers)
        await asyncio.sleep(seconds)
        share, came = (spent() - before) / seconds * 100, len(answers) - answered
        for each in pages:
            each.cancel()
    return share, came
