"""How much of the server's memory a waiting message takes, above its content."""

from __future__ import annotations

import json
from typing import Any

from mailrail import Channel

from .database import bare, empty
from .figures import Plan, Result, Series, Target

MESSAGES = 100_000
AT_ONCE = 10_000
MOST = 600.0
CONTENTS: dict[str, dict[str, Any]] = {
    "10 bytes": {"n": 1234},
    "200 bytes": {"text": "x" * 189},
}
EXTRAS: dict[str, dict[str, Any]] = {"": {}, ", expires": {"expires": 3600}}


def run(plan: Plan) -> Result:
    count = plan.size(MESSAGES)
    series: list[Series] = []
    for name, content in CONTENTS.items():
        for extra, options in EXTRAS.items():
            series.append(Series(f"content of {name}{extra}", "bytes"))
            for _ in range(plan.rounds):
                series[-1].values.append(_bytes_each(count, content, options))
    most = max(s.median for s in series)
    return Result(
        "Memory of the server for each waiting message",
        f"`used_memory` of INFO after {count:,} messages of one channel, less that before, less their JSON.",
        series,
        [],
        [Target(f"<= {MOST:.0f} bytes above the content", f"{most:.0f}", most <= MOST)],
    )


def _bytes_each(count: int, content: dict[str, Any], options: dict[str, Any]) -> float:
    empty()
    with bare() as client:
        before = client.info("memory")["used_memory"]
        for begin in range(0, count, AT_ONCE):
            Channel("noop").send_many([content] * min(AT_ONCE, count - begin), **options)
        after = client.info("memory")["used_memory"]
    empty()
    return float((after - before) / count - len(json.dumps(content, separators=(",", ":"))))
