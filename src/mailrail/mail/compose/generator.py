"""MIME objects as bytes, by Python's ``email.generator``: header words stay whole, and what was parsed stays as it was.

Python's own policies may cut a word that is longer than a line into encoded words. RFC 2047 section 5 forbids these in
every header that has a grammar: mailboxes then find neither the link to unsubscribe nor the thread.
"""

from __future__ import annotations

import re
from binascii import b2a_qp
from collections.abc import Callable
from email import message_from_bytes
from email.errors import CloseBoundaryNotFoundDefect
from email.generator import BytesGenerator
from email.headerregistry import ParameterizedMIMEHeader
from email.message import Message
from email.policy import Compat32, EmailPolicy, Policy
from io import BytesIO
from typing import Any

from .headers import (
    FOLD_LENGTH,
    MAX_LINE_LENGTH,
    encoded_words,
    fold,
    has_encoded_words,
    is_free_text,
    refold,
)

_line_end = re.compile(r"\r\n|\r|\n")


class WholeWords(EmailPolicy):
    """Use the policy of Python's ``EmailMessage``, with words that stay whole."""

    keeps_source = False
    """Whether headers that were parsed are written as they were."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Return the lines of a header, with encoded words only where something is not ASCII."""
        if self.keeps_source and (source := _as_parsed(name, value, self)) is not None:
            return source
        if not self.max_line_length:
            return super().fold_binary(name, value)
        if (encoded := _without_nul(name, value, self)) is not None:
            return encoded
        if not isinstance(value, ParameterizedMIMEHeader):  # RFC 2231 says how long parameters are cut
            whole = EmailPolicy.fold_binary(self.clone(max_line_length=0), name, value)
            if not has_encoded_words(whole):
                return refold(whole, free_text=is_free_text(name)) or super().fold_binary(name, value)
        folded = super().fold_binary(name, value)
        return refold(folded) or folded


class WholeWordsCompat32(Compat32):
    """Do the same for objects of Python's older API, of which Django 5.2 makes its messages."""

    keeps_source = False

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Return the lines of a header. Python keeps words whole here, but lets the first line be empty."""
        if self.keeps_source and (source := _as_parsed(name, value, self)) is not None:
            return source
        if not self.max_line_length:
            return super().fold_binary(name, value)
        if (encoded := _without_nul(name, value, self)) is not None:
            return encoded
        folded = super().fold_binary(name, value)
        return refold(folded) or folded


class _Source(str):
    """Keep a header's value with the white space before it, as ``SourceCompat32`` has parsed it."""


class SourceCompat32(WholeWordsCompat32):
    """Parse a message that is written again: what nobody changes stays octet for octet."""

    keeps_source = True

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Return the name and all that follows its colon, but for the last line's end."""
        name, _, value = "".join(sourcelines).partition(":")
        return name, _Source(value.rstrip("\r\n"))

    def header_fetch_parse(self, name: str, value: Any) -> Any:
        """Return what a reader asks for: the value alone."""
        return super().header_fetch_parse(name, value.lstrip() if isinstance(value, _Source) else value)


def _as_parsed(name: str, value: Any, policy: Policy) -> bytes | None:
    """Return the lines that a parser has read, or None for a value that came in another way."""
    if not isinstance(value, str) or hasattr(value, "name"):
        return None
    first, *others = _line_end.split(value)
    if not all(line[:1] in (" ", "\t") for line in others):
        return None  # no header goes on in such a line: Python decides
    if not value.isascii() and policy.cte_type == "7bit":
        return None
    lines = [f"{name}:{first}" if isinstance(value, _Source) else f"{name}: {first}", *others]
    try:
        written = [line.encode("ascii", "surrogateescape") for line in lines]
    except UnicodeEncodeError:
        return None  # it has characters, and parsers of bytes give none
    if max(map(len, written)) > MAX_LINE_LENGTH:
        return None
    return b"".join(line + policy.linesep.encode() for line in written)


def _without_nul(name: str, value: Any, policy: Policy) -> bytes | None:
    """Return a text for people that has a NUL, such as the path of a request in a subject, as encoded words.

    None: it has none. Python would write it as it is, and no header may have one (RFC 5322 2.2).
    """
    if not isinstance(value, str) or "\0" not in value or not is_free_text(name):
        return None
    text = _line_end.sub("", value)  # Django 5.2 folds a subject before it is set
    lines = fold(name, encoded_words(text, FOLD_LENGTH - len(name) - 2)).split("\r\n")
    return policy.linesep.join([*lines, ""]).encode("ascii")


class Verbatim(Message):
    """Hold an attached message that was given as bytes, and is written as these."""

    data: bytes


def verbatim(data: bytes) -> Verbatim:
    """Return the message that ``data`` is."""
    message = message_from_bytes(data, _class=Verbatim)
    message.data = data
    return message


class Generator(BytesGenerator):
    """Write as Python's generator does, with attached messages and signed parts as they were parsed."""

    policy: Any
    _fp: BytesIO
    _munge_cte: tuple[str, str] | None

    def _write(self, msg: Message) -> None:
        if isinstance(msg, Verbatim):
            self._write_lines(msg.data.decode("ascii", "surrogateescape"))  # type: ignore[attr-defined]
        else:
            super()._write(msg)  # type: ignore[misc]

    def _handle_text(self, msg: Any) -> None:
        """Write a text with a NUL as quoted-printable (RFC 2045 6.7): no line of SMTP may hold one."""
        payload = msg._payload  # its octets; get_payload() decodes what has 8 bits
        if self.policy.keeps_source or not isinstance(payload, str) or "\0" not in payload:
            super()._handle_text(msg)  # type: ignore[misc]
            return
        quoted = b2a_qp(payload.encode("ascii", "surrogateescape"))
        self._munge_cte = ("quoted-printable", msg["Content-Type"])
        self._write_lines(quoted.decode("ascii"))  # type: ignore[attr-defined]

    def _handle_message(self, msg: Message) -> None:
        self._under(super()._handle_message, msg, keeps_source=True)  # type: ignore[misc]
        payload: Any = msg.get_payload()
        if isinstance(payload, list) and not self.policy.keeps_source:
            self._end_line_of(payload[0])

    def _handle_multipart_signed(self, msg: Message) -> None:
        """Write a signed part unchanged (RFC 1847 2.1). Python alone would still change trailing spaces."""
        self._under(self._handle_multipart, msg, keeps_source=True, max_line_length=0)

    def _under(self, write: Callable[[Message], None], msg: Message, **options: Any) -> None:
        policy, self.policy = self.policy, self.policy.clone(**options)
        try:
            write(msg)
        finally:
            self.policy = policy

    def _handle_multipart(self, msg: Message) -> None:
        """Python closes all multiparts, and puts a line end behind each; a parsed one may have had neither."""
        super()._handle_multipart(msg)  # type: ignore[misc]
        if (
            not self.policy.keeps_source
            or msg.epilogue is not None
            or not isinstance(msg.get_payload(), list)
        ):
            return
        line_end = self.policy.linesep
        surplus = line_end
        if any(isinstance(defect, CloseBoundaryNotFoundDefect) for defect in msg.defects):
            surplus = f"{line_end}--{msg.get_boundary()}--{line_end}"
        written = self._fp
        if written.getvalue().endswith(surplus.encode("ascii", "surrogateescape")):
            written.truncate(written.tell() - len(surplus))
            written.seek(0, 2)

    def _end_line_of(self, root: Message) -> None:
        """End the last line of a whole message: ``_handle_multipart`` leaves that out only between parts."""
        line_end = self.policy.linesep.encode()
        if root.is_multipart() and not self._fp.getvalue().endswith(line_end):
            self._fp.write(line_end)


def flatten(mime: Message, **options: Any) -> bytes:
    """Return the bytes of ``mime``, with CRLF unless ``options``, those of a policy, say otherwise."""
    kind = WholeWordsCompat32 if isinstance(mime.policy, Compat32) else WholeWords
    out = BytesIO()
    generator = Generator(out, mangle_from_=False, policy=kind(**{"linesep": "\r\n", **options}))
    generator.flatten(mime)
    if generator.policy.keeps_source:
        generator._end_line_of(mime)
    return out.getvalue()
