"""What is the same on every database: the columns, and a few statements."""

from __future__ import annotations

COLUMNS = (
    "id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due, expires, "
    "sent_at, key, worker, token"
)
DEAD_COLUMNS = COLUMNS.removesuffix(", worker, token")

FOUND = f"SELECT {COLUMNS}, error FROM mailrail_message WHERE id = %(id)s AND channel = %(channel)s"
FOUND_DEAD = f"""
SELECT {DEAD_COLUMNS}, NULL, NULL, error, buried_at FROM mailrail_dead WHERE id = %(id)s AND channel = %(channel)s
"""

RESUME = "DELETE FROM mailrail_pause WHERE channel = %(channel)s"
DEAD_COUNTS = "SELECT channel, COUNT(*) FROM mailrail_dead GROUP BY channel"
PAUSED = "SELECT channel FROM mailrail_pause"

SHIFT = (
    "UPDATE mailrail_message SET due = due - %(s)s, expires = expires - %(s)s, sent_at = sent_at - %(s)s",
    "UPDATE mailrail_dead SET expires = expires - %(s)s, sent_at = sent_at - %(s)s, buried_at = buried_at - %(s)s",
    "UPDATE mailrail_bucket SET filled_at = filled_at - %(s)s",
    "UPDATE mailrail_worker SET seen = seen - %(s)s",
)
