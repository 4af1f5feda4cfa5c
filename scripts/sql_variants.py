"""Write the SQL statements that are variants of others, each in full, so that it can be read and pasted as it is.

``python -m scripts.sql_variants`` writes them; a test compares. Edit the statement a variant is made of, or what it
has of its own here, never the variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LAYERS = Path(__file__).resolve().parent.parent / "src/mailrail/layers"
NOTE = "-- Written by scripts/sql_variants.py from {base}.sql: edit that.\n"

Change = tuple[str, str]
"""Text of the statement, and what stands in its place. It has to be there."""


@dataclass(frozen=True)
class Variant:
    """A statement that another one is changed into."""

    folder: str
    base: str
    name: str
    changes: tuple[Change, ...]

    @property
    def path(self) -> Path:
        return LAYERS / self.folder / "sql" / f"{self.name}.sql"

    def text(self) -> str:
        """Return the statement as its file has to hold it. Raises ``ValueError`` where the base lacks a text."""
        text = self.path.with_name(f"{self.base}.sql").read_text("utf-8")
        for old, new in self.changes:
            if old not in text:
                raise ValueError(
                    f"{self.base}.sql has no text {old!r}, so {self.name}.sql cannot be made of it."
                )
            text = text.replace(old, new)
        return NOTE.format(base=self.base) + text


def _part(text: str, begin: str, end: str) -> str:
    """Return what stands from one text up to another."""
    start = text.index(begin)
    return text[start : text.index(end, start)]


# -- claims -----------------------------------------------------------------------------------------------------------

_CLAIM = (LAYERS / "postgresql/sql/claim.sql").read_text("utf-8")

_LEVELS = _part(_CLAIM, "    -- The priorities in use, found", "    share (channel")
_KNOWN_LEVELS = """\
    -- The priorities in use, and where their messages begin, as known from the claim before.
    level (channel, priority, min_due) AS (
        SELECT * FROM unnest(:'known_channels'::text[], :'known_priorities'::smallint[], :'min_dues'::float8[])),
"""
_KNOWN_VALUES = """\
\\set known_channels '{noop}'
\\set known_priorities '{0}'
\\set min_dues '{0}'
"""
FROM_FLOOR: tuple[Change, ...] = (
    (_LEVELS, _KNOWN_LEVELS),
    (
        "in one round trip.\n",
        "in one round trip.\n-- From the floor that the claim before has found, not from the front (scan_floor.py).\n",
    ),
    ("WITH RECURSIVE\n", _KNOWN_VALUES + "WITH\n"),
)

_OF_MANY = """\
-- Of many channels: to lock as many of each priority and channel would be far too many. So a look without locks says
-- how many of the best are of each, and no more than those are locked. Where others have locked them meanwhile, the
-- next ones of the same are.
"""
_SHARE_OF_ONE = _part(_CLAIM, "    share (channel", "    -- The token alone decides")
_FIRST = _part(_CLAIM, "            WHERE m.channel = share.channel AND m.priority", " LIMIT share.n")
_SHARE_OF_BEST = f"""\
    seen AS MATERIALIZED (
        SELECT channel, priority, min_due, id, due, room,
            row_number() OVER (PARTITION BY channel ORDER BY priority DESC, due, id) AS nth
        FROM level JOIN open USING (channel) CROSS JOIN LATERAL (
            SELECT id, due FROM mailrail_message m
{_FIRST.replace("share.", "level.")} LIMIT open.room) AS first),
    share (channel, priority, min_due, n) AS (
        SELECT channel, priority, min_due, count(*) FROM (
            SELECT * FROM seen WHERE nth <= room ORDER BY priority DESC, due, id LIMIT :'total') AS best
        GROUP BY channel, priority, min_due),
"""
_RANKED = _part(_CLAIM, "    ranked AS (", "    leased AS (")
_CHOSEN = """\
    chosen AS MATERIALIZED ( -- what is locked is of the best, as many of each channel as have room
        SELECT id, due FROM found
        -- Those blocked may stand where better ones could. First they are put out of the way (park.sql), if they can.
        WHERE NOT blocked AND (:'despite' OR NOT EXISTS (SELECT FROM found WHERE blocked))
        ORDER BY priority DESC, due, id),
"""
OF_MANY: tuple[Change, ...] = (
    (
        "-- For a single channel: lock up to `room` messages of each priority, and lease the best of them.\n",
        _OF_MANY,
    ),
    (_SHARE_OF_ONE, _SHARE_OF_BEST),
    (_RANKED, _CHOSEN),
    ("share.channel, share.n,", "share.channel,"),
    ("'passed_over', FALSE", "'passed_over', EXISTS (SELECT FROM seen) AND NOT EXISTS (SELECT FROM found)"),
    ("\\set channels '{noop}'", "\\set channels '{noop,mail}'"),
    ("\\set rooms '{8}'", "\\set rooms '{8,8}'"),
    ("\\set leases '{15}'", "\\set leases '{15,15}'"),
)

CLAIMS = (
    Variant("postgresql", "claim", "claim_from_floor", FROM_FLOOR),
    Variant("postgresql", "claim", "claim_of_many", OF_MANY),
    Variant("postgresql", "claim", "claim_of_many_from_floor", (*OF_MANY, *FROM_FLOOR)),
)

# -- lists ------------------------------------------------------------------------------------------------------------

_PG_PLACE = "(m.due, m.id) > (:'after_at', :'after_id'::uuid)"
_PG_NOW = "(SELECT now FROM clock)"
_SQLITE_PLACE = "(due, id) > (:after_at, :after_id)"
_WHAT_WAITS = "List what waits or is claimed"


def _postgresql_list(state: str, title: str, when: str, *more: Change) -> Variant:
    changes = ((_WHAT_WAITS, title), (_PG_PLACE, f"{_PG_PLACE}\n                AND {when}"), *more)
    return Variant("postgresql", "list_waiting", f"list_waiting_{state}", changes)


def _sqlite_list(state: str, title: str, when: str) -> Variant:
    changes = ((_WHAT_WAITS, title), (_SQLITE_PLACE, f"{_SQLITE_PLACE}\n                AND {when}"))
    return Variant("sqlite", "list_waiting", f"list_waiting_{state}", changes)


READY, SCHEDULED, CLAIMED = "List what is ready", "List what is scheduled", "List what is claimed"
OF_CLASS = "List dead messages of one class of error, last buried first"
LISTS = (
    _postgresql_list("ready", READY, f"m.due <= {_PG_NOW}"),
    _postgresql_list("scheduled", SCHEDULED, f"m.due > {_PG_NOW} AND m.token IS NULL"),
    _postgresql_list(
        "claimed",
        CLAIMED,
        f"m.due > {_PG_NOW}",
        (
            "    ) AS found\n",
            "    ) AS found\n    WHERE token IS NOT NULL -- no index knows them; those due soon come first\n",
        ),
    ),
    _sqlite_list("ready", READY, "due <= :now"),
    _sqlite_list("scheduled", SCHEDULED, "due > :now AND token IS NULL"),
    _sqlite_list("claimed", CLAIMED, "due > :now AND token IS NOT NULL"),
    Variant(
        "postgresql",
        "list_dead",
        "list_dead_of_class",
        (
            ("List dead messages, last buried first, from a place on", OF_CLASS),
            (
                "(:'before_at', :'before_id'::uuid)",
                "(:'before_at', :'before_id'::uuid) AND d.error_class = :'error_class'",
            ),
            ("WITH page", "\\set error_class ValueError\nWITH page"),
        ),
    ),
    Variant(
        "sqlite",
        "list_dead",
        "list_dead_of_class",
        (
            ("List dead messages, last buried first, from a place on", OF_CLASS),
            ("(:before_at, :before_id)", "(:before_at, :before_id) AND error_class = :error_class"),
            ("SELECT d.id", ".parameter set :error_class ValueError\nSELECT d.id"),
        ),
    ),
)

VARIANTS = (*CLAIMS, *LISTS)


def outdated() -> Iterator[Variant]:
    """Yield the variants whose file does not hold what it has to."""
    for variant in VARIANTS:
        if not variant.path.exists() or variant.path.read_text("utf-8") != variant.text():
            yield variant


def main() -> None:
    for variant in list(outdated()):
        variant.path.write_text(variant.text(), "utf-8")
        print(variant.path.relative_to(LAYERS.parent.parent.parent))


if __name__ == "__main__":
    main()
