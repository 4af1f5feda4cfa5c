"""Name what an entry and a tick can say, apart from the tables: decorators need it before there are models."""

from __future__ import annotations

from django.utils.translation import pgettext_lazy

CODE, ADMIN = "code", "admin"
SOURCES = (
    (CODE, pgettext_lazy("schedule", "code")),
    (ADMIN, pgettext_lazy("schedule", "admin")),
)
SKIP, ONCE, ALL = "skip", "once", "all"
MISSED = (
    (SKIP, pgettext_lazy("missed ticks", "skip them")),
    (ONCE, pgettext_lazy("missed ticks", "run once for all of them")),
    (ALL, pgettext_lazy("missed ticks", "run once for each of them")),
)
QUEUE, ALLOW = "queue", "allow"
OVERLAP = (
    (SKIP, pgettext_lazy("overlap", "skip the tick")),
    (QUEUE, pgettext_lazy("overlap", "run after it")),
    (ALLOW, pgettext_lazy("overlap", "run beside it")),
)
ENQUEUED, BY_HAND, OVERLAPPED, PAUSED = "enqueued", "by hand", "overlapped", "paused"
DECISIONS = (
    (ENQUEUED, pgettext_lazy("tick", "enqueued")),
    (BY_HAND, pgettext_lazy("tick", "enqueued by hand")),
    (OVERLAPPED, pgettext_lazy("tick", "skipped: the last run had not ended")),
    (PAUSED, pgettext_lazy("tick", "skipped: the channel was paused")),
)
MAX_NAME_LENGTH = 200
