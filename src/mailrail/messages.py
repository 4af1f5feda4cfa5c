"""Define ``Message``, its JSON encoding and decoding, and the rules for names.

Times here are Unix seconds on the clock of the layer's storage, as floats; lengths of time are seconds. For
consumers, ``worker.incoming`` turns them into datetimes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from .conf import settings
from .errors import MessageTooLarge
from .namespace import Qualified, qualified
from .pauses import Pause

Content: TypeAlias = dict[str, Any]
Statement: TypeAlias = tuple[str, dict[str, Any]]
"""One statement of SQL, and the values of its ``%(name)s``."""
State: TypeAlias = Literal["ready", "scheduled", "claimed", "dead"]
Cursor: TypeAlias = tuple[float, uuid.UUID]
"""The position of a message in a list: its time (Unix seconds), then its id."""

FORMAT_VERSION = 1
MAX_CHANNEL_NAME_LENGTH = 99
MAX_NESTING_DEPTH = 100

_channel_name = re.compile(r"[A-Za-z0-9._-]+")

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, slots: bool) -> Any:
        """Return a dataclass that only type checkers freeze. At run time, freezing 22 fields would take as
        long as decoding a message."""
        return dataclass(slots=slots)


@value(frozen=True, slots=True)
class Message:
    """Hold a JSON object on a channel. It is immutable: ``dataclasses.replace`` makes a changed copy."""

    channel: str
    content: Content
    id: uuid.UUID = field(default_factory=lambda: uuid7())
    headers: Content = field(default_factory=dict)
    v: int = FORMAT_VERSION
    lane: str | None = None
    lane_seq: int | None = None  # place in the lane, given by the layer; 0: one of several places
    places: int | None = None  # before sending: how many of its lane run at once; None: one, in order
    attempt: int = 0  # runs that were settled, and the present one
    losses: int = 0  # runs that ended without being settled, as their process died
    alone: bool = False  # True: never in a batch with others
    max_attempts: int | None = None  # None: the route decides
    priority: int = 0
    due: float | None = None  # Unix seconds; None before sending: `delay` seconds from now
    delay: float = 0.0  # seconds; only before sending
    expires: float | None = None
    lifetime: float | None = None  # only before sending: `expires`, in seconds from now
    sent_at: float | None = None
    key: str | None = None
    worker: str | None = None
    token: int | None = None  # guards the claim; None: not claimed
    defect: str | None = None  # why the stored message cannot be read
    error: str = ""  # how its last run failed, or what it died of, for people: layers leave it out of claims
    buried_at: float | None = None  # None: it is not dead
    waited: float = 0.0  # of a claim: seconds from due to claimed, by the storage's clock

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    @property
    def claimed_until(self) -> float:
        """Return when the lease ends (Unix seconds). Only for claimed messages."""
        assert self.due is not None and self.token is not None
        return self.due


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """Summarize a message for lists. Only parts of its content and of its error were read."""

    channel: str
    id: uuid.UUID
    at: float  # when it is due or its lease ends; for a dead one, when it was buried
    state: State
    preview: str  # the beginning of its content, as JSON; empty if that is encrypted and long
    attempt: int = 0
    losses: int = 0
    priority: int = 0
    lane: str | None = None
    key: str | None = None
    worker: str | None = None
    error_class: str = ""
    error: str = ""  # the end of the error

    @property
    def cursor(self) -> Cursor:
        return self.at, self.id


class Claimed(NamedTuple):
    """Hold the result of ``claim``."""

    claims: list[Message]
    lost: list[Message]  # of `finished`: those whose token was stale
    expired: list[Message]  # dropped because they had expired


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Count a channel's messages. ``oldest_due``: seconds since its oldest due message became due, or ``None``."""

    ready: int = 0
    scheduled: int = 0
    claimed: int = 0
    dead: int = 0
    oldest_due: float | None = None
    pause: Pause | None = None

    @property
    def paused(self) -> bool:
        return self.pause is not None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Describe a worker whose last heartbeat was ``age`` seconds ago."""

    id: str
    info: Content
    age: float

    @property
    def is_gone(self) -> bool:
        """Tell whether its host has said that it was killed."""
        return bool(self.info.get("gone"))


class Granted(NamedTuple):
    """Hold the result of ``take``: tokens granted, and seconds until the next one if some were refused."""

    granted: int
    retry_after: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Hold a rate: ``count`` per ``seconds``, written ``"100/m"``. A full bucket holds ``count`` tokens."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str | Rate) -> Rate:
        """Read ``"10/s"``, ``"100/m"``, ``"1000/h"``, ``"5000/d"``, ``"100/15m"``; ``ValueError`` otherwise."""
        if isinstance(text, Rate):
            return text
        match = _rate.fullmatch(text) if isinstance(text, str) else None
        if not match:
            raise ValueError(f'rate must look like "10/s", "100/m", "1000/h" or "100/15m", not {text!r}.')
        return cls(int(match[1]), int(match[2] or 1) * _SECONDS_IN[match[3][0]])


_rate = re.compile(
    r"\s*([1-9]\d{,8})\s*/\s*([1-9]\d{,8})?\s*([smhd]|sec|min|(?:second|minute|hour|day)s?)\s*", re.ASCII
)
_SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def check_channel_name(name: object) -> str:
    """Return the name. Raises ``ValueError`` with the rule (that of Channels, for names without ``!``)."""
    if not isinstance(name, str) or len(name) > MAX_CHANNEL_NAME_LENGTH or not _channel_name.fullmatch(name):
        if isinstance(name, Qualified):
            return name  # its bare name was checked
        raise ValueError(
            "A channel name is 1 to 99 ASCII letters, digits, hyphens, underscores or periods, "
            f"not {name if isinstance(name, str) and len(name) < 200 else type(name).__name__!r}."
        )
    return name


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
_sorting = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)


def encode(value: Any, where: str = "content") -> str:
    """Turn a content (or headers) into JSON.

    Raises ``TypeError`` naming the path of what JSON cannot hold (``content["when"]``), and ``MessageTooLarge``.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{where} must be a dict, not {type(value).__name__}.")
    try:
        if (text := _of_one(value)) is None:
            _check_json(value, where, 0)
            text = _encoder.encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise TypeError(f"{_culprit(value, where)} holds half a surrogate pair, which is not text.") from None
    except ValueError as error:  # a number of more than 4,300 digits
        raise TypeError(f"{_culprit(value, where)} cannot be written as JSON: {error}") from error
    if size > settings.max_message_bytes:
        raise MessageTooLarge(
            f"{where} is {size:,} bytes as JSON; the limit is {settings.max_message_bytes:,} "
            '(MAILRAIL["MAX_MESSAGE_BYTES"]). Store what is large and send its id.'
        )
    return text


def _of_one(value: Content) -> str | None:
    """Encode contents with one plain key, such as ``{"id": 7}``, in a quarter of the encoder's time; else ``None``."""
    if len(value) != 1:
        return None
    [(name, item)] = value.items()
    if type(name) is not str or not (name.isascii() and name.isidentifier()):
        return None
    if type(item) is int and -(2**63) <= item < 2**63:
        return f'{{"{name}":{item}}}'
    if type(item) is str and item.isascii() and item.isprintable() and '"' not in item and "\\" not in item:
        return f'{{"{name}":"{item}"}}'
    return None


def row_of(message: Message, **own: Any) -> dict[str, Any]:
    """Return the values of a message by the columns of tables, with those that a store makes its ``own`` way.

    Raises what ``encode`` and ``check_channel_name`` raise.
    """
    return {
        "id": message.id,
        "channel": check_channel_name(message.channel),
        "content": encode(message.content),
        "headers": encode(message.headers, "headers") if message.headers else "{}",
        "v": message.v,
        "attempt": message.attempt,
        "losses": message.losses,
        "alone": message.alone,
        "max_attempts": message.max_attempts,
        "priority": message.priority,
        "due": message.due,
        "expires": message.expires,
        **own,
    }


def _check_json(value: Any, path: str, depth: int) -> None:
    """Raise ``TypeError`` with the path of a value that ``json`` would reject or change silently."""
    if value is None or isinstance(value, str | int):  # bool is an int
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{path} is {value!r}, which JSON has no word for.")
    elif depth > MAX_NESTING_DEPTH:
        raise TypeError(f"{path[:200]} is nested deeper than {MAX_NESTING_DEPTH} levels, or holds itself.")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}; keys must be strings.")
            if item is None or isinstance(item, str | int):  # most are, and the path costs more
                continue
            _check_json(item, f"{path}[{json.dumps(key)}]", depth + 1)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check_json(item, f"{path}[{place}]", depth + 1)
    else:
        raise TypeError(
            f"{path} is a {type(value).__name__}, which JSON cannot hold. Send {_alternative_to(value)}."
        )


def _alternative_to(value: Any) -> str:
    """Return, in words, what to send instead of a value that JSON cannot hold."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "text: base64.b64encode(…).decode(), or its decode() if it is one"
    if hasattr(value, "pk"):
        return "its pk; the consumer reads the row as it is by then"
    return "its isoformat(), its str() or the id of its row"


def _culprit(value: Any, path: str) -> str:
    """Return the path of the first part that the encoder rejects. It is slow, so only error texts use it."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in parts:
        inner = f"{path}[{json.dumps(key)}]"
        if not _is_writable(key):
            return f"The key of {inner}"
        if not _is_writable(item):
            return _culprit(item, inner)
    return path


def _is_writable(value: Any) -> bool:
    try:
        _encoder.encode(value).encode()
    except ValueError:
        return False
    return True


def decode(content: object, headers: object, v: object) -> tuple[Content, Content, str | None]:
    """Decode a stored message: return content, headers, and the defect that makes it unreadable, or ``None``."""
    try:
        parts = _json_object("content", content), {} if headers == "{}" else _json_object("headers", headers)
    except ValueError as error:
        return {}, {}, str(error)
    if v != FORMAT_VERSION:
        return *parts, f"its format version is {v!r}; this release of Mailrail reads version {FORMAT_VERSION}"
    return *parts, None


def _json_object(name: str, text: Any) -> Content:
    if text == "{}":
        return {}
    try:
        text = text if isinstance(text, str) else str(text, "utf-8")
        value, end = _decoder.raw_decode(text) if text.startswith("{") else (None, 0)
        if end != len(text):  # `decode` is slower, as it also skips space and checks the end
            value = _decoder.decode(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its {name} is not JSON ({error}): {str(text)[:200]!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is not a JSON object: {str(text)[:200]!r}")
    return value


def _refuse_constant(word: str) -> None:
    """Reject ``NaN`` and ``Infinity``, which Python reads but JSON does not have (RFC 8259, 6)."""
    raise ValueError(f"{word} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
"""A shared decoder: ``json.loads`` with options would make one for each message."""

_last_tick = 0
_tick_lock = threading.Lock()


def uuid7() -> uuid.UUID:
    """Return a UUIDv7 (RFC 9562, 5.7) that increases within this process.

    The 12 bits after the milliseconds hold the fraction of the millisecond (RFC 9562, 6.2, method 3).
    """
    global _last_tick
    with _tick_lock:
        tick = max(time.time_ns() * 4096 // 1_000_000, _last_tick + 1)
        _last_tick = tick
    number = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62
    return uuid.UUID(int=number | int.from_bytes(os.urandom(8), "big") >> 2)


_of_contents = uuid.UUID("0e5c1f3a-6f53-5d0c-9c5b-2f6a1d9a7b41")  # random, and must never change
_OF_CONTENTS = _of_contents.bytes


def id_of_content(channel: str, content: Content) -> uuid.UUID:
    """Return the id of a message identified by its content alone: always the same (UUIDv5, RFC 9562, 5.5).

    Where the content's own ``id`` is a UUIDv7, its time comes first (UUIDv8, RFC 9562, 5.8). Messages due at the same
    moment run in the order of their ids. So messages of records run in the order in which the records were created.

    Projects with namespaces make different ids of the same content, as one table may hold the messages of both.

    Raises what ``encode`` raises.
    """
    text = encode(content)
    record = content.get("id")
    # Sorting would not change the text of most contents. DEL is the one character of ASCII that it escapes.
    is_plain = len(content) == 1 and text.isascii() and "\x7f" not in text
    if not is_plain or not isinstance(next(iter(content.values())), str | int):
        text = _sorting.encode(content)
    name = f"{qualified(channel)}\0{text}"
    if not isinstance(record, str) or not _uuid7_text.fullmatch(record):
        return uuid.uuid5(_of_contents, name)
    front = int(f"{record[:8]}{record[9:13]}8{record[15:18]}", 16)
    digest = hashlib.sha1(_OF_CONTENTS + name.encode(), usedforsecurity=False).digest()
    # The bits of a UUIDv5.
    back = int.from_bytes(digest[8:16], "big") & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    return uuid.UUID(int=front << 64 | back)


_uuid7_text = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_token() -> int:
    """Return a fencing token: 63 random bits, never zero, so that it fits a signed 64-bit column."""
    return int.from_bytes(os.urandom(8), "big") >> 1 or 1
