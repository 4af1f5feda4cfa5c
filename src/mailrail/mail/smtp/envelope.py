"""What is to be sent, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from .errors import BareNewline, InvalidAddress, SmtpError, Unsendable
from .replies import Reply, Stage, Verdict, classify

_ADDRESS = re.compile(r'[^\x00-\x20\x7f<>]+|"(?:[^\x00-\x1f\x7f"\\]|\\[\x20-\x7e])*"@[^\x00-\x20\x7f<>"]+')
"""A quoted local part may hold what would else end its command (RFC 5321 4.1.2, Quoted-string)."""
_COMMON = re.compile(r"[!#-;=?-~]{1,254}")
"""An address of that length in ASCII, without quotes and angle brackets, as nearly all are."""
MAX_ADDRESS_LENGTH = 254
"""Octets (RFC 5321 4.5.3.1.3: 256 with its angle brackets)."""


def check_address(address: str) -> None:
    """Raise ``InvalidAddress`` for what could end its command, or never be an address."""
    if not _ADDRESS.fullmatch(address):
        raise InvalidAddress(
            f"{address!r} is no address for SMTP: control characters cannot be in one, spaces, < and > only in quotes "
            "before the @. Give the bare address, without a name."
        )
    try:
        length = len(address.encode())
    except UnicodeEncodeError:
        raise InvalidAddress(f"{address!r} is no address for SMTP: it is not valid Unicode.") from None
    if length > MAX_ADDRESS_LENGTH:
        raise InvalidAddress(
            f"{address[:40]!r}… is no address for SMTP: longer than {MAX_ADDRESS_LENGTH} octets."
        )


@dataclass(slots=True, eq=False)
class Envelope:
    """One email. An envelope that exists can be put into SMTP commands without harm.

    ``mail_from``: may be empty, the null sender. ``recipients``: named twice, they get it once. ``content``: the
    message in lines that end with CRLF, not dot-stuffed. ``needs_smtputf8``: its headers hold raw UTF-8 (an address
    that does is seen). ``ref``: the caller's own.

    Raises ``InvalidAddress`` and ``BareNewline``. A server that takes a bare LF for the end of a line would find a
    second email in it (RFC 5321 2.3.8).
    """

    mail_from: str
    recipients: Sequence[str]
    content: bytes
    needs_8bit: bool | None = None
    needs_smtputf8: bool = False
    ref: Any = None

    def __post_init__(self) -> None:
        content, recipients = self.content, self.recipients
        if isinstance(recipients, str) or not recipients:
            raise InvalidAddress("recipients must be a list of at least one address.")
        for address in (self.mail_from, *recipients) if self.mail_from else recipients:
            if not _COMMON.fullmatch(address):
                check_address(address)
        if len(recipients) > 1 and len(set(recipients)) < len(recipients):
            self.recipients = tuple(dict.fromkeys(recipients))
        lines = content.count(b"\r\n")
        if content.count(b"\n") != lines or content.count(b"\r") != lines:
            raise BareNewline(
                "The content has a CR or an LF that stands alone; every line must end with CRLF."
            )
        if self.needs_8bit is None:
            self.needs_8bit = not content.isascii()
        if not self.needs_smtputf8:
            self.needs_smtputf8 = not (self.mail_from.isascii() and all(map(str.isascii, recipients)))

    @property
    def size(self) -> int:
        """Return the octets as RFC 1870 4 counts them: without the dots that are stuffed."""
        return len(self.content) + (0 if self.content.endswith(b"\r\n") or not self.content else 2)


class Fate(StrEnum):
    """Name what an envelope came to."""

    ACCEPTED = "accepted"
    """By the server, for at least one recipient."""
    REFUSED = "refused"
    """By the server, for every recipient."""
    UNSENT = "unsent"
    """The connection's fault: certainly not accepted, nothing against the email."""
    UNFIT = "unfit"
    """Not even tried: this server cannot take it. ``error`` says why."""
    AMBIGUOUS = "ambiguous"
    """The final dot may have arrived, its reply did not: accepted or not, nobody here knows."""


@dataclass(slots=True)
class DeliveryOutcome:
    """What became of an envelope.

    ``stage``: the last one it reached. ``reply``: the one that decided over the whole envelope. ``refused``: the
    recipients that were refused on their own, with their replies. ``error``: with ``UNSENT``, ``UNFIT`` and
    ``AMBIGUOUS``.
    """

    fate: Fate
    stage: Stage
    reply: Reply | None = None
    refused: dict[str, Reply] = field(default_factory=dict)
    error: SmtpError | Unsendable | None = None

    @property
    def certain(self) -> bool:
        return self.fate is not Fate.AMBIGUOUS

    def reply_for(self, recipient: str) -> Reply | None:
        """Return the reply that decided over this recipient."""
        return self.refused.get(recipient, self.reply)

    def verdict_for(self, recipient: str, envelope: Envelope) -> Verdict | None:
        """Return what that reply means, or ``None`` without one: ``UNFIT``, ``AMBIGUOUS``, and ``UNSENT`` unless by
        421."""
        if recipient in self.refused:
            return classify(self.refused[recipient], Stage.RCPT)
        if self.reply is None:
            return None
        return classify(self.reply, self.stage, len(envelope.recipients) - len(self.refused))


class EnvelopeSource(Protocol):
    """Where envelopes come from, who lets their final dots leave, and who gets their outcomes.

    On each connection ``ended`` is called for an envelope before ``before_data_end`` is called for the next one. So
    ``before_data_end`` can write outcomes and intents in one transaction.
    """

    def __len__(self) -> int:
        """Return how many envelopes wait."""

    def next(self) -> Envelope | None:
        """Take the next one. It must not wait: connections stand still meanwhile."""

    def before_data_end(self, envelopes: Sequence[Envelope]) -> Sequence[bool]:
        """Return for each envelope whether its final dot may leave. Each is on a connection of its own.

        A refusal closes the connection, as nothing else takes an email back at that point (RFC 5321 4.1.1.4).
        """

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        """Take in the outcome of an envelope: called once for each that was taken."""

    def stop(self) -> None:
        """Hand out nothing more, as something has failed: what waits stays in the source."""
