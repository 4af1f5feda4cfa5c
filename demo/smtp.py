"""A real SMTP server in a thread of its own. It keeps everything it accepts."""

from __future__ import annotations

import asyncio
import email
import email.policy
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from functools import cached_property
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

START_SECONDS = 10.0


@dataclass(frozen=True)
class Received:
    """One accepted message for one recipient; ``at`` is ``time.monotonic()`` of the acceptance.

    It is read when somebody asks for what it says: parsing takes longer than accepting.
    """

    recipient: str
    at: float
    content: bytes

    @cached_property
    def message_id(self) -> str:
        """The header Message-ID."""
        return str(BytesHeaderParser().parsebytes(self.content)["Message-ID"])

    @cached_property
    def text(self) -> str:
        """The part that is plain text."""
        message = email.message_from_bytes(self.content, policy=email.policy.default)
        part = message.get_body(("plain",))
        return str(part.get_content()) if part else ""


class Mailbox:
    """What was accepted so far. The server's thread adds to it, others look and wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._copies: Counter[str] = Counter()

    def add(self, mail: Received) -> None:
        with self._changed:
            self._received.append(mail)
            self._copies[mail.recipient] += 1
            self._changed.notify_all()

    def received(self) -> list[Received]:
        """Return everything accepted so far, in order."""
        with self._changed:
            return list(self._received)

    def wait_for(self, recipients: int, timeout: float) -> int:
        """Wait until so many recipients got mail, or ``timeout`` seconds; return how many did."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._copies) >= recipients, timeout)
            return len(self._copies)


class _Handler:
    """aiosmtpd's hooks: refuses some recipients, puts everything else into the mailbox."""

    def __init__(self, mailbox: Mailbox, refused: Collection[str]) -> None:
        self._mailbox = mailbox
        self._refused = refused

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self._refused:
            return "550 5.1.1 There is no such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        accepted_at = time.monotonic()
        assert isinstance(envelope.content, bytes)  # as decode_data is off
        for recipient in envelope.rcpt_tos:
            self._mailbox.add(Received(recipient, accepted_at, envelope.content))
        return "250 OK"


class MailServer:
    """``with MailServer() as server:`` listens at ``127.0.0.1``, ``server.port``, until the block ends."""

    def __init__(self, refused: Collection[str] = ()) -> None:
        self.mailbox = Mailbox()
        self.port = 0
        self._refused = frozenset(refused)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="smtp", daemon=True)

    def __enter__(self) -> MailServer:
        self._thread.start()
        if not self._started.wait(START_SECONDS):
            raise RuntimeError("The SMTP server did not start.")
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(self._session, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()

    def _session(self) -> Any:
        return SMTP(_Handler(self.mailbox, self._refused), hostname="localhost", loop=self._loop)
