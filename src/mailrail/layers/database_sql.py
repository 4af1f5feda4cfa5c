"""The few statements that are the same on every database."""

from __future__ import annotations

DEAD_COUNTS = "SELECT channel, COUNT(*) FROM mailrail_dead GROUP BY channel"
PAUSED = "SELECT channel FROM mailrail_pause"

SHIFT = (
    "UPDATE mailrail_message SET due = due - %(s)s, expires = expires - %(s)s, sent_at = sent_at - %(s)s",
    "UPDATE mailrail_dead SET expires = expires - %(s)s, sent_at = sent_at - %(s)s, buried_at = buried_at - %(s)s",
    "UPDATE mailrail_bucket SET filled_at = filled_at - %(s)s",
    "UPDATE mailrail_worker SET seen = seen - %(s)s",
)
