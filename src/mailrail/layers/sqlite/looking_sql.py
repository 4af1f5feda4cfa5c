"""What people look at: pages of lists, found by indexes, and single messages."""

from __future__ import annotations

from ..looking import END, EXCERPT
from .sql import LEVELS

# Found by jumping through the indexes from one channel to the next.
CHANNELS = """
WITH RECURSIVE
    open (channel) AS (
        SELECT MIN(channel) FROM mailrail_message WHERE held = 0
        UNION ALL
        SELECT (SELECT MIN(channel) FROM mailrail_message m WHERE m.channel > open.channel AND held = 0)
        FROM open WHERE channel IS NOT NULL
    ),
    buried (channel) AS (
        SELECT MIN(channel) FROM mailrail_dead
        UNION ALL
        SELECT (SELECT MIN(channel) FROM mailrail_dead d WHERE d.channel > buried.channel)
        FROM buried WHERE channel IS NOT NULL
    )
SELECT channel FROM open WHERE channel IS NOT NULL
UNION SELECT channel FROM buried WHERE channel IS NOT NULL
UNION SELECT channel FROM mailrail_pause
"""

# From each channel and priority in use no more than the page shows, and as many that are behind others of their lane.
_WAITING = f"""
WITH RECURSIVE
    open (channel) AS (SELECT value FROM json_each(%(channels)s)),
    {LEVELS},
    page (id) AS (
        SELECT m.id FROM level CROSS JOIN mailrail_message m
        WHERE m.id IN (
            SELECT id FROM mailrail_message
            WHERE channel = level.channel AND priority = level.priority AND held = 0
                AND due >= %(after_at)s AND (due, id) > (%(after_at)s, %(after_id)s) AND {{when}}
            ORDER BY due, id LIMIT %(limit)s)
        UNION ALL
        SELECT m.id FROM open CROSS JOIN mailrail_message m
        WHERE m.id IN (
            SELECT id FROM mailrail_message
            WHERE channel = open.channel AND held = 1
                AND due >= %(after_at)s AND (due, id) > (%(after_at)s, %(after_id)s) AND {{when}}
            ORDER BY due, id LIMIT %(limit)s)
    )
SELECT id, channel, due,
    CASE WHEN due <= %(now)s THEN 'ready' WHEN token IS NULL THEN 'scheduled' ELSE 'claimed' END,
    substr(content, 1, {EXCERPT}), attempt, losses, priority, lane, key, worker,
    substr(error, -{END})
FROM mailrail_message WHERE id IN (SELECT id FROM page)
ORDER BY due, id LIMIT %(limit)s
"""
WAITING = {
    None: _WAITING.format(when="TRUE"),
    "ready": _WAITING.format(when="due <= %(now)s"),
    "scheduled": _WAITING.format(when="due > %(now)s AND token IS NULL"),
    "claimed": _WAITING.format(when="due > %(now)s AND token IS NOT NULL"),
}

_DEAD = f"""
SELECT d.id, d.channel, d.buried_at, 'dead', substr(d.content, 1, {EXCERPT}), d.attempt, d.losses, d.priority, d.lane,
    d.key, d.error_class, substr(d.error, -{END})
FROM json_each(%(channels)s) AS open CROSS JOIN mailrail_dead d -- CROSS JOIN fixes the order of the loops
WHERE d.id IN (
    SELECT id FROM mailrail_dead
    WHERE channel = open.value AND buried_at <= %(before_at)s
        AND (buried_at, id) < (%(before_at)s, %(before_id)s){{of_class}}
    ORDER BY buried_at DESC, id DESC LIMIT %(limit)s)
ORDER BY d.buried_at DESC, d.id DESC LIMIT %(limit)s
"""
DEAD = _DEAD.format(of_class="")
DEAD_OF_CLASS = _DEAD.format(of_class=" AND error_class = %(error_class)s")

ERROR_CLASSES = """
WITH RECURSIVE kind (channel, error_class) AS (
    SELECT value, (SELECT MIN(error_class) FROM mailrail_dead WHERE channel = value) FROM json_each(%(channels)s)
    UNION ALL
    SELECT channel, (
        SELECT MIN(error_class) FROM mailrail_dead d
        WHERE d.channel = kind.channel AND d.error_class > kind.error_class)
    FROM kind WHERE error_class IS NOT NULL
)
SELECT DISTINCT error_class FROM kind WHERE error_class IS NOT NULL
"""
