"""Read addresses from files: CSV in any encoding that Excel writes, or workbooks."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy

from .addresses import Entry
from .pasted import split_line
from .workbooks import sheets

MAX_HEAD_LINES = 20
"""Rows that may hold titles and the heading of the table."""
HEADINGS = frozenset({"mail", "address", "地址", "电邮", "信箱"})
"""Whole headings of a column of addresses, besides those that contain a word for email."""
_SAYS_SO = re.compile(r"邮箱|邮件|電郵|郵箱|郵件|e-?mail", re.IGNORECASE)
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")
"""The first line that tells Excel the separator of cells."""
_ZIP, _OLD_WORKBOOK = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Row(NamedTuple):
    """Hold the cells of a row, and the line where it ends, counted from 1."""

    line: int
    cells: Sequence[str]


def file_entries(raw: bytes) -> Iterator[Entry]:
    """Read the addresses of a file, from the column with such a heading, else from that with the most.

    Raises ``ValidationError`` for a file that cannot be read as a table.
    """
    is_workbook = raw.startswith((_ZIP, _OLD_WORKBOOK))
    yield from _entries(_sheet_rows(raw) if is_workbook else list(_csv_rows(_decoded(raw))))


def _sheet_rows(raw: bytes) -> Sequence[Row]:
    """Return the rows of the first sheet with an address, else of the first sheet with rows."""
    first: Sequence[Row] = ()
    for sheet in sheets(raw):
        rows = [Row(line, cells) for line, cells in enumerate(sheet, start=1)]
        if _counts(rows):
            return rows
        first = first or rows
    return first


def _decoded(raw: bytes) -> str:
    """Decode a CSV file. Excel writes UTF-8, UTF-16, or the encoding of its system (in China GB18030)."""
    try:
        return raw.decode("utf-16" if raw.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("gb18030")
    except UnicodeDecodeError:
        raise ValidationError(
            gettext_lazy("The file is not in UTF-8. Save it as “CSV UTF-8”, or paste the addresses."),
            "encoding",
        ) from None


def _csv_rows(text: str) -> Iterator[Row]:
    lines, delimiter = 0, ""
    if match := _SEPARATOR_LINE.match(text):
        text, lines, delimiter = text[match.end() :], 1, match[1]
    head = "\n".join(text.split("\n", MAX_HEAD_LINES)[:MAX_HEAD_LINES])
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or max(",;\t", key=head.count))
    try:
        for row in rows:
            yield Row(lines + rows.line_num, row)
    except csv.Error as error:
        raise ValidationError(
            gettext_lazy("Line %(line)d of the file is no CSV: %(error)s."),
            code="csv",
            params={"line": lines + rows.line_num, "error": error},
        ) from None


def _entries(rows: Sequence[Row]) -> Iterator[Entry]:
    column, first = _column(rows)
    for line, cells in rows[first:]:
        if column < len(cells) and (text := cells[column].strip()):
            for part in split_line(" ".join(text.split("\n"))):
                yield Entry(line, part)


def _column(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the column of the addresses, and the index of the first row after its heading.

    A title above the heading, such as “邮箱列表”, may look like one, so the last one before an address counts.
    """
    counts = _counts(rows)
    head = next(
        (n for n, row in enumerate(rows) if any("@" in cell or "＠" in cell for cell in row.cells)),
        MAX_HEAD_LINES,
    )
    for n in range(min(head, MAX_HEAD_LINES, len(rows)) - 1, -1, -1):
        headed = [at for at, cell in enumerate(rows[n].cells) if _is_heading(cell)]
        best = max(headed, key=lambda at: counts.get(at, 0), default=None)
        if best is not None and (best in counts or not counts):
            return best, n + 1
    return max(sorted(counts), key=lambda at: counts[at], default=0), 0


def _counts(rows: Iterable[Row]) -> dict[int, int]:
    """Return how many cells of each column may hold an address."""
    counts: dict[int, int] = {}
    for row in rows:
        for at, cell in enumerate(row.cells):
            if "@" in cell or "＠" in cell:
                counts[at] = counts.get(at, 0) + 1
    return counts


def _is_heading(cell: str) -> bool:
    text = cell.strip().lower()
    return text in HEADINGS or bool(_SAYS_SO.search(text))
