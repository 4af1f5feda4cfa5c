"""Declare what can be observed. Moments are Unix seconds, durations are seconds, rates are per minute.

``None`` means that nobody knows. Texts are untrusted: channels, workers, servers and exceptions have written them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..pauses import Pause as Pause


class Count(NamedTuple):
    """A number; ``is_estimate``: it stands above what is counted, and may be off."""

    n: int
    is_estimate: bool = False


NONE = Count(0)


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """Describe a channel of a layer. ``oldest_due``: seconds since its oldest due message became due."""

    layer: str
    name: str
    ready: Count = NONE
    scheduled: Count = NONE
    claimed: Count = NONE
    dead: Count = NONE
    oldest_due: float | None = None
    sent_per_minute: float | None = None
    done_per_minute: float | None = None
    failed_per_minute: float | None = None
    pause: Pause | None = None
    is_routed: bool = True


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """Describe how mail flows through a mailer.

    ``waiting``: emails by reason: ``"time"``, ``"retry"``, ``"rate"``, ``"pause"``, ``"outage"``, ``"connection"``,
    ``"worker"`` (nothing keeps them but that no worker has taken them yet). ``pace``: emails a second at most, if
    something slows them, and ``pace_reason`` says what. ``seconds_left``: how long the backlog takes at this pace.
    """

    mailer: str
    sent_per_minute: float | None = None
    waiting: Mapping[str, Count] = field(default_factory=dict)
    failed: Count = NONE
    oldest_due: float | None = None
    pace: float | None = None
    pace_reason: str = ""
    connections: int | None = None
    max_connections: int | None = None
    pause: Pause | None = None
    outage: Pause | None = None
    stands_in: str = ""
    next_probe_at: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """Say what one slot of a worker runs, since when."""

    channel: str
    message_id: str
    since: float


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """Describe a worker process. ``is_silent``: it has missed three heartbeats, or its host says that it is gone."""

    id: str
    host: str = ""
    pid: int | None = None
    version: str = ""
    release: str = ""
    is_other_release: bool = False
    age: float = 0.0
    is_silent: bool = False
    is_stopping: bool = False
    started_at: float | None = None
    memory: int | None = None
    threads: int = 0
    slots: tuple[SlotFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkFacts:
    """Describe long work with progress, such as a list of invitations, a task or a batch.

    ``kind`` is translatable; ``model`` and ``pk`` name its record, for links to the admin. ``text``: what a task says
    of its progress, for whoever may see the arguments of tasks.
    """

    kind: str
    title: str
    model: str
    pk: str
    done: Count = NONE
    failed: Count = NONE
    total: Count | None = None
    since: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class OperationFacts:
    """Describe an action that somebody has asked for on the live page, and how far it is.

    ``units``: what it is about: ``[layer, channel]`` or the alias of a mailer. ``is_served``: a worker runs that takes
    it, as far as it needs one.
    """

    key: str
    action: str
    units: tuple[Any, ...]
    filters: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    reason: str = ""
    total: int | None = None
    done: int = 0
    left: int = 0
    begun_at: float | None = None
    ended_at: float | None = None
    is_cancelled: bool = False
    error: str = ""
    is_served: bool = True


@dataclass(frozen=True, slots=True)
class TroubleFacts:
    """Describe what went wrong, grouped: ``where`` is a channel or a mailer, ``what`` an exception or a reply.

    ``kind``: ``"channel"`` or ``"mailer"``. ``buried`` of ``count`` are dead or have failed for good; the others were
    or are tried again.
    """

    kind: str
    where: str
    what: str
    count: int
    buried: int
    first_at: float
    last_at: float
