"""How a message travels to and from the server: its state, which scripts read, and its body, which they do not.

The body is the content as JSON. Headers, attempts and format version follow where there are any, each after a zero
byte, which JSON text never holds. ``symmetric_encryption_keys`` turn it into a token of Fernet.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from ...messages import FORMAT_VERSION, Content, Message, decode, encode
from ..store import set_waits

ALONE, UNREADABLE = 1, 4  # flags of a state, as in flags.lua and shared.lua
RELATIVE_DUE, RELATIVE_EXPIRES, ORDERED = 1, 2, 4  # kinds of a record, as in enqueue.lua

_RECORD = struct.Struct("<16sBdd")  # id, kinds, due, expires
_STATE = struct.Struct("<bB8sIHddd")  # priority, flags, token, attempt, losses, sent at, expires, place
_ROW = struct.Struct("<d16s")  # time, id
_WHOLE = struct.Struct(_ROW.format + _STATE.format[1:])  # both, one after the other
_LENGTH = struct.Struct("<H")
_BATCH_HEAD = struct.Struct("<HII")  # number of the channel, length of the state, length of the body
_UNCLAIMED = bytes(8)
_LOST = "what the server had stored of its state (attempts, key, lane, times) was damaged"
_NO_TEXTS = 3 * _LENGTH.pack(0)  # neither key, lane nor worker
_NEITHER = 2 * _LENGTH.pack(0)  # neither key nor lane

Seal = Callable[[bytes], bytes]


class Unreadable(ValueError):
    """What was stored cannot be opened; the text says why."""


class Cipher:
    """Encrypts bodies and errors with the first of the keys, and reads those of all of them; without keys, leaves them.

    Nothing that is not encrypted is read once there are keys: who can write to the server could put it there.
    """

    def __init__(self, keys: Sequence[str | bytes] | None) -> None:
        self._fernet: Any = None
        if keys:
            from channels_redis.serializers import JSONSerializer

            self._fernet = JSONSerializer(symmetric_encryption_keys=keys).crypter

    def seal(self, plain: bytes) -> bytes:
        return plain if self._fernet is None else bytes(self._fernet.encrypt(plain))

    def open(self, sealed: bytes) -> bytes:
        """Raises ``Unreadable``."""
        if self._fernet is None:
            return sealed
        from cryptography.fernet import InvalidToken

        try:
            return bytes(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise Unreadable("it is encrypted with none of CONFIG['symmetric_encryption_keys']") from None


def record_of(message: Message) -> bytes:
    """What ``enqueue.lua`` reads of a message."""
    kinds = 0
    due, expires = message.due, message.expires
    if due is None:
        kinds, due = RELATIVE_DUE, message.delay
    if message.lifetime is not None:
        kinds, expires = kinds | RELATIVE_EXPIRES, message.lifetime
    if message.key or message.lane:
        kinds |= ORDERED
    state = _STATE.pack(
        message.priority,
        ALONE if message.alone else 0,
        _UNCLAIMED,
        message.attempt,
        message.losses,
        0.0,
        0.0,
        -float(message.places) if message.places else 0.0,  # 0.0, and not -0.0: scripts compare the bytes
    )
    head = _RECORD.pack(message.id.bytes, kinds, due, math.inf if expires is None else expires)
    if kinds < ORDERED:
        return head + state + _NO_TEXTS
    return b"".join([head, state, _text(message.key), _text(message.lane), _text(None)])


def body_of(message: Message, seal: Seal) -> bytes:
    parts = [
        encode(message.content),
        encode(message.headers, "headers") if message.headers else "",
        "" if message.max_attempts is None else str(message.max_attempts),
        "" if message.v == FORMAT_VERSION else str(message.v),
    ]
    return seal("\0".join(parts).rstrip("\0").encode())


def _text(value: str | None) -> bytes:
    encoded = (value or "").encode()
    return _LENGTH.pack(len(encoded)) + encoded


def claims_of(claims: Iterable[Message]) -> bytes:
    """Id and token of each: 24 bytes."""
    return b"".join(claim.id.bytes + token_bytes(claim.token) for claim in claims)


def token_bytes(token: int | None) -> bytes:
    return _UNCLAIMED if token is None else token.to_bytes(8, "big", signed=True)


def ids_of(ids: Iterable[UUID]) -> bytes:
    return b"".join(id.bytes for id in dict.fromkeys(ids))


def parts_of(flat: Sequence[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """What a script returns one after the other, ``size`` together."""
    return zip(*[iter(flat)] * size, strict=True)


def read_batch(channels: Sequence[str], batch: bytes, cipher: Cipher) -> list[Message]:
    """The messages that ``batch.lua`` packs into one string."""
    messages, at = [], 0
    while at < len(batch):
        number, of_state, of_body = _BATCH_HEAD.unpack_from(batch, at)
        begin = at + _BATCH_HEAD.size
        middle = begin + _ROW.size + of_state
        at = middle + of_body
        messages.append(read_message(channels[number - 1], batch[begin:middle], batch[middle:at], cipher))
    return messages


def with_waits(claims: list[Message], waits: bytes) -> list[Message]:
    """Return new claims, which have been due for as many seconds as ``claim.lua`` says of each."""
    set_waits(claims, struct.unpack(f"<{len(claims)}d", waits))
    return claims


def read_message(channel: str, row: bytes, body: bytes, cipher: Cipher) -> Message:
    """Build a message from the two strings that a script returns; whatever is unreadable becomes its ``defect``."""
    try:
        return _read_message(channel, row, body, cipher)
    except (struct.error, ValueError):
        due, id = _ROW.unpack(row[: _ROW.size].ljust(_ROW.size, b"\0"))
        return Message(channel=channel, content={}, id=UUID(bytes=id), due=due, defect=_LOST)


def _read_message(channel: str, row: bytes, body: bytes, cipher: Cipher) -> Message:
    due, id, priority, flags, token, attempt, losses, sent_at, expires, place = _WHOLE.unpack_from(row)
    key, lane, worker = _texts(row, _WHOLE.size)
    content, headers, max_attempts, v, defect = _read_body(body, cipher)
    if flags & UNREADABLE:
        defect = _LOST
    return Message(
        channel=channel,
        content=content,
        id=UUID(bytes=id),
        headers=headers,
        v=v,
        max_attempts=max_attempts,
        defect=defect,
        lane=lane,
        lane_seq=max(0, int(place)) if lane else None,
        attempt=attempt,
        losses=losses,
        alone=bool(flags & ALONE),
        priority=priority,
        due=due,
        expires=None if expires == math.inf else expires,
        sent_at=sent_at,
        key=key,
        worker=worker,
        token=None if token == _UNCLAIMED else int.from_bytes(token, "big", signed=True),
    )


def _texts(row: bytes, at: int) -> tuple[str | None, str | None, str | None]:
    """Key, lane and worker. Raises ``ValueError`` if there is more or less than these."""
    if row.startswith(_NEITHER, at):  # as of most
        if len(row) - at - len(_NO_TEXTS) != _LENGTH.unpack_from(row, at + len(_NEITHER))[0]:
            raise ValueError("it is cut, or longer than it says")
        return None, None, row[at + len(_NO_TEXTS) :].decode("utf-8", "backslashreplace") or None
    texts = []
    for _ in range(3):
        (length,) = _LENGTH.unpack_from(row, at)
        at += _LENGTH.size + length
        texts.append(row[at - length : at].decode("utf-8", "backslashreplace") or None)
    if at != len(row):
        raise ValueError("it is cut, or longer than it says")
    key, lane, worker = texts
    return key, lane, worker


def _read_body(body: bytes, cipher: Cipher) -> tuple[Content, Content, int | None, int, str | None]:
    """Content, headers, attempts, format version, and what is wrong with them."""
    try:
        content, *more = cipher.open(body).decode().split("\0")
        headers, attempts, v = (*more, "", "", "")[:3]
        version = int(v) if v else FORMAT_VERSION
        max_attempts = int(attempts) if attempts else None
    except ValueError as error:
        return {}, {}, None, FORMAT_VERSION, f"its body cannot be read: {error}"
    read, read_headers, defect = decode(content, headers or "{}", version)
    return read, read_headers, max_attempts, version, defect


def read_dead(channel: str, row: bytes, body: bytes, cipher: Cipher) -> Message:
    buried_at, _ = _ROW.unpack_from(row)
    return replace(read_message(channel, row, body, cipher), buried_at=buried_at)


def read_error(error: bytes, cipher: Cipher) -> str:
    """Return what is kept of an error, or why that cannot be read."""
    try:
        return cipher.open(error).decode("utf-8", "backslashreplace") if error else ""
    except Unreadable as reason:
        return f"The error cannot be read: {reason}."
