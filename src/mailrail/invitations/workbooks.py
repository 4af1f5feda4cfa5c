"""Read the sheets of workbooks (.xlsx) as rows of text, with python-calamine (the extra ``xlsx``).

calamine keeps a sheet as the whole rectangle up to its last cell, and ends the process when memory runs out. Two cells
far apart, in a file of 2 KB, take 500 GB (tafia/calamine, issue 693). So every part is unpacked and measured first, and
calamine gets exactly the measured bytes.
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING
from xml.parsers import expat
from zipfile import BadZipFile, ZipFile, ZipInfo

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from mailrail.log import logger_of

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

MAX_UNPACKED_BYTES = 50 * 1024 * 1024
"""Bytes of all parts, unpacked. It also bounds the characters of all cells, because many cells may share one text."""
MAX_PARTS = 1_000
MAX_CELLS = 1_000_000
"""Cells of all sheets, including empty ones before the last; calamine takes 32 bytes for each."""
MAX_COLUMNS = 1_000
MAX_ELEMENTS = 3_000_000
"""XML elements in all parts; this number takes about a second to measure."""
MAX_CELL_LENGTH = 32_767  # of a cell: "Excel specifications and limits"

_REFERENCE = re.compile(r"([A-Za-z]{1,3})([0-9]{1,7})")
_PARTS = ("xl/", "_rels/", "[content_types].xml")
_DAMAGED = (
    *(BadZipFile, zlib.error, expat.ExpatError, EOFError, ValueError),
    *(RuntimeError, NotImplementedError),  # zipfile: a password, an unknown compression
    OverflowError,  # calamine: a time beyond Python's
)

logger = logger_of("mailrail.invitations")


def can_read_workbooks() -> bool:
    """Tell whether python-calamine is installed."""
    return find_spec("python_calamine") is not None


def sheets(raw: bytes) -> Iterator[list[list[str]]]:
    """Yield the rows of each visible sheet; those of hidden sheets if there are no others.

    Raises ``ValidationError`` for a file that is damaged, too large or no .xlsx file, and without python-calamine.
    """
    if not can_read_workbooks():
        logger.warning('A workbook was refused. To read .xlsx files, install "mailrail[xlsx]".')
        raise ValidationError(
            _("This is a workbook, not a CSV file. Save it as “CSV UTF-8”, or copy the column and paste it."),
            "workbook",
        )
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_filelike(BytesIO(_measured(raw))) as workbook:
            budget = _Budget()
            for number in _visible(workbook):
                yield [budget.texts(row) for row in workbook.get_sheet_by_index(number).iter_rows()]
    except BaseException as error:
        if isinstance(error, (CalamineError, *_DAMAGED)) or _is_panic(error):
            raise _unreadable() from error
        raise


def _is_panic(error: BaseException) -> bool:
    """Tell whether Rust panicked, as for a date of 1e300. A panic is no ``Exception``, so it would end the server."""
    return type(error).__module__ == "pyo3_runtime"


def _visible(workbook: CalamineWorkbook) -> list[int]:
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    tables = [n for n, sheet in enumerate(workbook.sheets_metadata) if sheet.typ == SheetTypeEnum.WorkSheet]
    shown = [n for n in tables if workbook.sheets_metadata[n].visible == SheetVisibleEnum.Visible]
    return shown or tables


def _unreadable() -> ValidationError:
    return ValidationError(
        _(
            "This workbook cannot be read: it is damaged, has a password, or is no .xlsx file. "
            "Save it as “CSV UTF-8”, or copy the column and paste it."
        ),
        "workbook",
    )


def _too_large() -> ValidationError:
    return ValidationError(
        _(
            "This workbook holds too much. Copy the column of addresses and paste it, or save that as a CSV file."
        ),
        "large",
    )


def _measured(raw: bytes) -> bytes:
    """Return a workbook of the tables' parts, unpacked. Raises ``ValidationError`` if it is too large."""
    copy, extent = BytesIO(), _Extent()
    with ZipFile(BytesIO(raw)) as archive, ZipFile(copy, "w") as parts:
        infos = archive.infolist()
        if len(infos) > MAX_PARTS or sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
            raise _too_large()
        table_parts = [info for info in infos if _is_part(info.filename.lower())]
        if len({info.filename for info in table_parts}) < len(table_parts):
            raise BadZipFile("two parts have one name")
        for part in table_parts:
            content = _unpacked(archive, part)
            extent.add(content)
            parts.writestr(part.filename, content)
    return copy.getvalue()


def _is_part(name: str) -> bool:
    return name.startswith(_PARTS) and name.endswith((".xml", ".rels"))


def _unpacked(archive: ZipFile, part: ZipInfo) -> bytes:
    """Return the content of a part, whose size must be that of the directory, so that no part unpacks to more."""
    with archive.open(part) as file:
        content = file.read(part.file_size + 1)
    if len(content) != part.file_size:
        raise BadZipFile("a part has another size than the directory says")
    return content


class _Extent:
    """Add up the cells of the sheets as calamine would store them: rectangles up to the last cell with a value.

    Other parts have no cells. A cell without a reference follows the one before (ECMA-376, part 1, 18.3.1.4).
    """

    def __init__(self) -> None:
        self.cells = self.elements = 0

    def add(self, content: bytes) -> None:
        """Measure a part. Raises ``ValidationError`` if the workbook is too large, ``ExpatError`` if it is no XML."""
        self.row = self.column = self.last_row = self.last_column = self.text = 0
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartElementHandler = self._start
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.Parse(content, True)
        del self.parser
        self.cells += self.last_row * self.last_column
        if self.cells > MAX_CELLS or self.last_column > MAX_COLUMNS:
            raise _too_large()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise _too_large()
        match name.rpartition(":")[2]:
            case "c":
                self._place(attributes.get("r"))
            case "v" | "is":
                self.last_row, self.last_column = (
                    max(self.last_row, self.row),
                    max(self.last_column, self.column),
                )
            case "row":
                self.row, self.column = int(attributes.get("r", self.row + 1)), 0
            case "si":
                self.text, self.parser.CharacterDataHandler = 0, self._count

    def _place(self, reference: str | None) -> None:
        if reference is None:
            self.column += 1
            return
        if not (match := _REFERENCE.fullmatch(reference)):
            raise ValueError("a cell has no place")
        self.row = max(self.row, int(match[2]))
        self.column = 0
        for letter in match[1].upper():
            self.column = 26 * self.column + ord(letter) - 64

    def _count(self, text: str) -> None:
        self.text += len(text)
        if self.text > MAX_CELL_LENGTH:
            raise _too_large()

    def _refuse(self, *_declaration: object) -> None:
        raise ValueError("a part declares a document type")


class _Budget:
    """Convert cells to text, up to ``MAX_UNPACKED_BYTES`` characters in all."""

    def __init__(self) -> None:
        self.left = MAX_UNPACKED_BYTES

    def texts(self, row: Sequence[object]) -> list[str]:
        cells = [cell if isinstance(cell, str) else _text(cell) for cell in row]
        self.left -= sum(map(len, cells))
        if self.left < 0:
            raise _too_large()
        return cells


def _text(cell: object) -> str:
    """Convert a cell as Excel does for CSV: whole numbers without a point, dates in ISO 8601."""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(" ")
    return str(cell)
