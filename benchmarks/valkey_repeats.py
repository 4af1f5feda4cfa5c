"""How many messages two workers on one channel run twice: ours, and Channels' own on channels_redis."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version

from channels_redis.core import RedisChannelLayer as ChannelsRedisLayer

from mailrail import Channel

from .database import empty
from .figures import Plan, Result, Series, Target
from .processes import running, runworker
from .settings import FOLDER, valkey_url

OURS = 100_000
AT_ONCE = 10_000
THEIRS = 2_000
TIMEOUT_S = 120.0
SETTLED_AFTER = 2.0
"""Seconds without a run after which nothing is to come."""


def run(plan: Plan) -> Result:
    ours, theirs = plan.size(OURS), plan.size(THEIRS)
    our_repeats = Series(f"two runworkers, {ours:,} messages", "repeats")
    their_repeats = Series(
        f"Channels' two runworkers, channels_redis {version('channels-redis')}, {theirs:,} messages",
        "repeats",
    )
    lost = Series("… of which never ran", "messages")
    for _ in range(plan.rounds):
        ran = _run_ours(ours)
        if len(ran) != ours:
            raise RuntimeError(f"{len(ran)} of {ours} messages ran.")
        our_repeats.values.append(ran.total() - len(ran))
        ran = _run_theirs(theirs)
        their_repeats.values.append(ran.total() - len(ran))
        lost.values.append(theirs - len(ran))
    worst = max(our_repeats.values)
    return Result(
        "Two workers on one channel: what is run twice",
        "Two `runworker`s of one process each are started, then the messages are sent; the consumer appends the number "
        "of its message to a file. Channels' consumer is a `SyncConsumer` under a `ChannelNameRouter`, its layer's "
        "capacity large enough.",
        [our_repeats, their_repeats, lost],
        [],
        [Target("0 of ours run twice, in any round", f"{worst:.0f}", worst == 0)],
    )


def _run_ours(count: int) -> Counter[int]:
    empty()
    with _counting() as environment, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(running(*runworker("count"), **environment))
        for begin in range(0, count, AT_ONCE):
            Channel("count").send_many({"n": n} for n in range(begin, min(begin + AT_ONCE, count)))
        return _await(count)


def _run_theirs(count: int) -> Counter[int]:
    empty()
    with _counting() as environment, ExitStack() as stack:
        environment["DJANGO_SETTINGS_MODULE"] = "benchmarks.rivals.channels_settings"
        for _ in range(2):
            stack.enter_context(running("django", "runworker", "count", "-v", "0", **environment))
        asyncio.run(_send_theirs(count))
        return _await(count)


async def _send_theirs(count: int) -> None:
    layer = ChannelsRedisLayer([valkey_url("default")], capacity=10 * THEIRS)
    for n in range(count):
        await layer.send("count", {"type": "count", "n": n})


@contextmanager
def _counting() -> Iterator[dict[str, str]]:
    path = FOLDER / "runs"
    path.write_text("")
    yield {"BENCHMARKS_RUNS": str(path)}


def _await(count: int) -> Counter[int]:
    """Which messages ran how often, once all have and nothing more comes, or nothing more comes."""
    path = FOLDER / "runs"
    size, grown_at, deadline = -1, time.monotonic(), time.monotonic() + TIMEOUT_S
    while time.monotonic() < min(deadline, grown_at + SETTLED_AFTER + 10 * (size <= 0)):
        if (now := path.stat().st_size) != size:
            size, grown_at = now, time.monotonic()
        time.sleep(0.05)
    return Counter(map(int, path.read_text().split()))
