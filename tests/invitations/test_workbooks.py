"""Lists in workbooks (.xlsx): read as CSV is, and measured before anything is loaded."""

from __future__ import annotations

import logging
import resource
import sys
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from mailrail.invitations import workbooks
from mailrail.invitations.tables import file_entries

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"

TEXTS = ["邮箱", "张三 <a@qq.com>", "b@qq.com"]
STYLES = (  # 1: dates, 2: hours
    '<numFmts count="1"><numFmt numFmtId="170" formatCode="[h]:mm"/></numFmts>'
    '<cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="22"/><xf numFmtId="170"/></cellXfs>'
)
CORNERS = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
UNREADABLE, TOO_MUCH = "This workbook cannot be read", "This workbook holds too much"


def workbook(*sheets: str, hidden: int = 0, **parts: str) -> bytes:
    """A workbook with these sheets, each the rows of its ``sheetData``; the first ``hidden`` ones are hidden."""
    numbers = range(1, len(sheets) + 1)
    states = ["state='hidden'" if n <= hidden else "" for n in numbers]
    listed = "".join(
        f'<sheet name="S{n}" sheetId="{n}" r:id="rId{n}" {state}/>' for n, state in enumerate(states, start=1)
    )
    related = [(f"rId{n}", "worksheet", f"worksheets/sheet{n}.xml") for n in numbers]
    related += [(f"rId{name}", name, f"{name}.xml") for name in ("styles", "sharedStrings")]
    links = "".join(f'<Relationship Id="{i}" Type="{OFFICE}/{t}" Target="{to}"/>' for i, t, to in related)
    texts = "".join(f"<si><t>{text.replace('<', '&lt;')}</t></si>" for text in TEXTS)
    return zipped({
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">{links}</Relationships>',
        "xl/styles.xml": f"<styleSheet {MAIN}>{STYLES}</styleSheet>",
        "xl/sharedStrings.xml": parts.pop("texts", f"<sst {MAIN}>{texts}</sst>"),
        **{
            f"xl/worksheets/sheet{n}.xml": f"<worksheet {MAIN}><sheetData>{rows}</sheetData></worksheet>"
            for n, rows in enumerate(sheets, start=1)
        },
    })  # fmt: skip


def zipped(parts: dict[str, str]) -> bytes:
    file = BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def rows(*table: tuple[str, ...]) -> str:
    """Rows of texts, without a place, as some programs write them."""
    cells = [[f'<c t="inlineStr"><is><t>{text}</t></is></c>' for text in row] for row in table]
    return "".join(f"<row>{''.join(row)}</row>" for row in cells)


def shared(place: str, number: int) -> str:
    """A row with one cell, which shows the shared text of that number."""
    return f'<row r="{place[1:]}"><c r="{place}" t="s"><v>{number}</v></c></row>'


def shared_texts(length: int) -> str:
    return f"<sst {MAIN}><si><t>{'x' * length}</t></si></sst>"


LIST = rows(("name", "email"), ("Ada", "a@qq.com"))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (workbook(LIST), [(2, "a@qq.com")]),
        (workbook(rows(("邮箱列表",), ("Ada", "7"), ("姓名", "邮箱"), ("x@y.zz", "a@qq.com"))), [(4, "a@qq.com")]),
        (workbook(rows(("a@qq.com",), ("b@qq.com c@qq.com",))), [(1, "a@qq.com"), (2, "b@qq.com"), (2, "c@qq.com")]),
        (workbook(shared("C3", 0) + shared("C5", 1) + shared("C9", 2)), [(5, "张三 <a@qq.com>"), (9, "b@qq.com")]),
        (workbook('<row><c t="str"><f>A2&amp;"@qq.com"</f><v>a@qq.com</v></c></row>'), [(1, "a@qq.com")]),
        (workbook(rows(("notes",)), "", LIST), [(2, "a@qq.com")]),
        (workbook(rows(("b@qq.com",)), LIST, hidden=1), [(2, "a@qq.com")]),
        (workbook(LIST, hidden=1), [(2, "a@qq.com")]),
        (workbook(rows(("name",), ("Ada",)), rows(("more",))), [(1, "name"), (2, "Ada")]),
        (workbook(f'{LIST}<row r="1048576"><c r="XFD1048576" s="1"/></row>'), [(2, "a@qq.com")]),
        (workbook(""), []),
    ],
    ids=["heading", "titles", "most", "places", "formula", "second", "hidden", "all hidden", "none", "format", "empty"],
)  # fmt: skip
def test_a_workbook_is_read_as_a_csv_file_is(raw: bytes, found: list[tuple[int, str]]) -> None:
    assert list(file_entries(raw)) == found


def test_numbers_and_dates_become_text() -> None:
    cells = (
        '<c><v>13800138000</v></c><c><v>1.5</v></c><c t="b"><v>1</v></c><c s="1"><v>45000</v></c>'
        '<c s="1"><v>45000.5</v></c><c s="2"><v>1.5</v></c><c/><c t="e"><v>#N/A</v></c><c><v>7</v></c>'
    )
    [[row]] = workbooks.sheets(workbook(f"<row>{cells}</row>"))
    said = ["13800138000", "1.5", "TRUE", "2023-03-15", "2023-03-15 12:00:00", "1 day, 12:00:00", "", "", "7"]
    assert row == said


def with_another_size(raw: bytes, size: int) -> bytes:
    """The workbook, with a directory that says this size of its last part."""
    at = raw.rindex(b"PK\x01\x02") + 24  # APPNOTE.TXT 4.3.12: "uncompressed size"
    return raw[:at] + size.to_bytes(4, "little") + raw[at + 4 :]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"PK\x03\x04 and so on", UNREADABLE),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", UNREADABLE),
        (workbook(LIST)[:-300], UNREADABLE),
        (workbook(LIST).replace(b"PK\x03\x04", b"PK\x03\x05").replace(b"PK\x03\x05", b"PK\x03\x04", 1), UNREADABLE),
        (zipped({"word/document.xml": "<document/>"}), UNREADABLE),
        (workbook(LIST[:-6]), UNREADABLE),
        (workbook('<row><c r="?"><v>1</v></c></row>'), UNREADABLE),
        (workbook(shared("A1", 99)), UNREADABLE),
        (workbook('<row><c s="1"><v>-1e300</v></c></row>'), UNREADABLE),
        (workbook('<row><c s="2"><v>1e300</v></c></row>'), UNREADABLE),
        (workbook(LIST, texts=f'<!DOCTYPE a [<!ENTITY b "c">]><sst {MAIN}><si><t>&b;</t></si></sst>'), UNREADABLE),
        (with_another_size(workbook(LIST), 10), UNREADABLE),
        (workbook(CORNERS), TOO_MUCH),
        (workbook(LIST, CORNERS), TOO_MUCH),
        (workbook(CORNERS.replace("<c", "<x:c").replace("</c", "</x:c").replace("<row", '<row xmlns:x="x"')), TOO_MUCH),
        (workbook('<row r="1048576"><c><v>1</v></c></row>'), TOO_MUCH),
        (workbook(f"<row>{'<c><v>1</v></c>' * 1_001}</row>"), TOO_MUCH),
        (workbook(LIST, texts=shared_texts(32_768)), TOO_MUCH),
        (workbook('<row><c t="s"><v>0</v></c></row>' * 1_700, texts=shared_texts(32_000)), TOO_MUCH),
        (zipped(dict.fromkeys(map(str, range(1_001)), "")), TOO_MUCH),
        (with_another_size(workbook(LIST), workbooks.MAX_UNPACKED_BYTES + 1), TOO_MUCH),
    ],
    ids=["rest", "old", "cut", "part", "document", "no XML", "place", "no text", "date", "hours", "entity", "size",
         "corners", "second sheet", "prefix", "row", "columns", "text", "same text", "parts", "unpacked"],
)  # fmt: skip
def test_a_workbook_that_is_damaged_or_too_large_is_explained(raw: bytes, said: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValidationError) as caught:
        list(file_entries(raw))
    assert caught.value.messages[0].startswith(said) and "paste it" in caught.value.messages[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.fixture
def without_calamine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)


@pytest.mark.usefixtures("without_calamine")
def test_without_the_extra_a_workbook_is_named_and_the_log_says_what_to_install(
    browser: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mailrail.invitations"):
        page = browser.post("/invites/bulk/", {"file": SimpleUploadedFile("list.xlsx", workbook(LIST))})
    assert "This is a workbook, not a CSV file. Save it as “CSV UTF-8”" in page.text
    assert "mailrail[xlsx]" in caplog.text
    assert ".xlsx" not in page.text


def test_the_page_takes_a_workbook(browser: Client) -> None:
    page = browser.get("/invites/bulk/").text
    assert "Or a CSV file or a workbook (.xlsx)" in page and 'accept=".csv,.txt,.tsv,text/csv,.xlsx"' in page
    page = browser.post(
        "/invites/bulk/", {"file": SimpleUploadedFile("list.xlsx", workbook(LIST))}, follow=True
    ).text
    assert "1 address will be invited." in page
