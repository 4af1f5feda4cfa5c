"""What people look at: pages of lists, found by indexes alone, and single messages.

A page is chosen by keys, from each channel (and priority in use) no more than it shows; contents are
read of those only.
"""

from __future__ import annotations

from ..looking import END, EXCERPT
from .sql import CLOCK, IN_USE, LEVELS, OF_DEAD

CHANNELS = f"""
WITH RECURSIVE {IN_USE}, {OF_DEAD}
SELECT channel FROM open WHERE channel IS NOT NULL
UNION SELECT channel FROM buried WHERE channel IS NOT NULL
UNION SELECT channel FROM mailrail_pause
"""

# Both ends of the range are named apart from the order within one moment: the index begins and ends there.
_WAITING = f"""
WITH RECURSIVE {CLOCK}, open (channel) AS (SELECT * FROM unnest(%(channels)s::text[])), {LEVELS},
page AS MATERIALIZED (
    SELECT id, due FROM (
        SELECT m.* FROM level CROSS JOIN LATERAL (
            SELECT m.id, m.due, m.token FROM mailrail_message m
            WHERE m.channel = level.channel AND m.priority = level.priority AND m.held = 0
                AND m.due >= %(after_at)s AND (m.due, m.id) > (%(after_at)s, %(after_id)s::uuid) AND {{when}}
            ORDER BY m.due, m.id LIMIT %(most)s) AS m
        UNION ALL
        SELECT m.* FROM open CROSS JOIN LATERAL ( -- behind others of their lane
            SELECT m.id, m.due, m.token FROM mailrail_message m
            WHERE m.channel = open.channel AND m.held = 1
                AND m.due >= %(after_at)s AND (m.due, m.id) > (%(after_at)s, %(after_id)s::uuid) AND {{when}}
            ORDER BY m.due, m.id LIMIT %(limit)s) AS m
    ) AS found
    WHERE {{which}}
    ORDER BY due, id LIMIT %(limit)s)
SELECT id, channel, due,
    CASE WHEN due <= (SELECT now FROM clock) THEN 'ready' WHEN token IS NULL THEN 'scheduled' ELSE 'claimed' END,
    left(content, {EXCERPT}), attempt, losses, priority, lane, key, worker,
    right(error, {END})
FROM mailrail_message WHERE id = ANY (ARRAY (SELECT id FROM page))
ORDER BY due, id
"""
_NOW = "(SELECT now FROM clock)"
WAITING = {
    None: _WAITING.format(when="TRUE", which="TRUE"),
    "ready": _WAITING.format(when=f"m.due <= {_NOW}", which="TRUE"),
    "scheduled": _WAITING.format(when=f"m.due > {_NOW} AND m.token IS NULL", which="TRUE"),
    # No index knows them; they are due soon, so they come first.
    "claimed": _WAITING.format(when=f"m.due > {_NOW}", which="token IS NOT NULL"),
}

_DEAD = f"""
WITH page AS MATERIALIZED (
    SELECT d.* FROM unnest(%(channels)s::text[]) AS open (channel) CROSS JOIN LATERAL (
        SELECT d.id, d.buried_at FROM mailrail_dead d
        WHERE d.channel = open.channel AND d.buried_at <= %(before_at)s
            AND (d.buried_at, d.id) < (%(before_at)s, %(before_id)s::uuid){{of_class}}
        ORDER BY d.buried_at DESC, d.id DESC LIMIT %(limit)s) AS d
    ORDER BY d.buried_at DESC, d.id DESC LIMIT %(limit)s)
SELECT id, channel, buried_at, 'dead', left(content, {EXCERPT}), attempt, losses, priority, lane, key, error_class,
    right(error, {END})
FROM mailrail_dead WHERE id = ANY (ARRAY (SELECT id FROM page))
ORDER BY buried_at DESC, id DESC
"""
DEAD = _DEAD.format(of_class="")
DEAD_OF_CLASS = _DEAD.format(of_class=" AND d.error_class = %(error_class)s")

ERROR_CLASSES = """
WITH RECURSIVE kind (channel, error_class) AS (
    SELECT channel, (
        SELECT error_class FROM mailrail_dead d WHERE d.channel = open.channel ORDER BY error_class LIMIT 1)
    FROM unnest(%(channels)s::text[]) AS open (channel)
    UNION ALL
    SELECT channel, (
        SELECT error_class FROM mailrail_dead d
        WHERE d.channel = kind.channel AND d.error_class > kind.error_class ORDER BY error_class LIMIT 1)
    FROM kind WHERE error_class = error_class || '')
SELECT DISTINCT error_class FROM kind WHERE error_class IS NOT NULL
"""
