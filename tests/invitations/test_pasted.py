"""Lists as people paste them: what is read, what is refused, and what the preview says of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from mailrail.invitations import invite, invite_many
from mailrail.invitations.addresses import clean, entries, read_list, understand
from mailrail.invitations.models import Invitation, InvitationBatch

READ = {
    "zhang＠qq.com": "zhang@qq.com",
    "zhang﹫qq.com": "zhang@qq.com",
    "zhang@qq．com": "zhang@qq.com",
    "zhang@qq。com": "zhang@qq.com",
    "zhang@ｑｑ.com": "zhang@qq.com",
    "ｚｈａｎｇ@qq.com": "zhang@qq.com",
    "张三 <zhang@qq.com>": "zhang@qq.com",
    "张三＜zhang@qq.com＞": "zhang@qq.com",
    "《zhang@qq.com》": "zhang@qq.com",
    "〈zhang@qq.com〉": "zhang@qq.com",
    "zhang@qq.com（张三）": "zhang@qq.com",
    "zhang@qq.com（张三，销售）": "zhang@qq.com",
    "zhang@qq.com。": "zhang@qq.com",
    "zhang@qq.com.": "zhang@qq.com",
    "zhang@qq.com!": "zhang@qq.com",
    "张三 zhang@qq.com": "zhang@qq.com",
    "张三\u3000zhang@qq.com": "zhang@qq.com",
    "张三：zhang@qq.com": "zhang@qq.com",
    "邮箱: zhang@qq.com": "zhang@qq.com",
    "“张三” <zhang@qq.com>": "zhang@qq.com",
    "Ann Smith <a@x.example>": "a@x.example",
    '"Smith, Ann" <a@x.example>': "a@x.example",
    "Smith, Ann <a@x.example>": "a@x.example",
    "a@x.example <a@x.example>": "a@x.example",
    "'a@x.example'": "a@x.example",
    "'a@x.example' <a@x.example>": "a@x.example",
    "‘a@x.example’": "a@x.example",
    '"a@x.example"': "a@x.example",
    "<a@x.example>": "a@x.example",
    "<a@x.example": "a@x.example",
    "(a@x.example)": "a@x.example",
    "mailto:a@x.example": "a@x.example",
    "<mailto:a@x.example?subject=Hello>": "a@x.example",
    "mailto:a%2Bb@x.example": "a+b@x.example",
    "[a@x.example](mailto:a@x.example)": "a@x.example",
    "Ann\ta@x.example": "a@x.example",
    "7\tAnn Smith\ta@x.example\tyes": "a@x.example",
    "Ann | a@x.example": "a@x.example",
    "1. a@x.example": "a@x.example",
    "2、a@x.example": "a@x.example",
    "• a@x.example": "a@x.example",
    "\ufeffa@x.example\u200b": "a@x.example",
    "\u00a0a@x.example\u00a0": "a@x.example",
    "o'neil@x.example": "o'neil@x.example",
}
UNCLEAR = [
    "zhang san@qq.com",  # zhangsan@ with a space too many?
    "Ann Smith a@x.example",
    "a@x.example Ann",
    "a@example.co m",
    "a@qq .com",
    "a@x.example <b@x.example>",
    "a@x.example (b@x.example)",
    "gäst@x.example",
    "张三zhang@qq.com",
    "zhang@qq.com张三",
    "o’neil@x.example",
    'o"neil@x.example',
    '"odd user"@x.example',
    "foo)a@x.example",
    "a@x.example/b@x.example",
    "a@b@x.example",
    "guest@evil＠x.example",
    "@x.example",
    "a@",
]


@pytest.mark.parametrize(("pasted", "address"), READ.items())
def test_an_address_is_read_with_what_people_paste_around_it(pasted: str, address: str) -> None:
    good, problems = read_list(entries(f"first@x.example\n{pasted}\n"))
    assert problems == [] and [(line.line, line.text) for line in good] == [
        (1, "first@x.example"),
        (2, address),
    ]


@pytest.mark.parametrize("pasted", UNCLEAR)
def test_what_may_mean_another_mailbox_is_refused_with_a_reason(pasted: str) -> None:
    good, [problem, *_] = read_list(entries(pasted))
    assert good == [] and problem.why
    with pytest.raises(ValidationError):
        clean(pasted)


@pytest.mark.parametrize(
    ("line", "addresses"),
    [
        ("Ann Smith <a@x.example>; Bob <b@x.example>；c@x.example，", ["a", "b", "c"]),
        ("Smith, Ann <a@x.example>; Jones, Bob <b@x.example>", ["a", "b"]),
        ("a@x.example b@x.example\u3000c@x.example", ["a", "b", "c"]),
        ("张三 a@x.example 李四 b@x.example", ["a", "b"]),
        ("Ann <a@x.example> Bob <b@x.example>", ["a", "b"]),
        ("a@x.example、b@x.example,c@x.example|d@x.example", ["a", "b", "c", "d"]),
        ("<a@x.example>,<b@x.example>", ["a", "b"]),
    ],
)
def test_several_on_a_line_are_read_one_by_one(line: str, addresses: list[str]) -> None:
    good, problems = read_list(entries(line))
    assert problems == [] and [it.text for it in good] == [f"{name}@x.example" for name in addresses]


def test_of_a_line_the_part_that_is_no_address_is_told() -> None:
    good, problems = read_list(entries("a@x.example, bob; c@x.example"))
    assert [line.text for line in good] == ["a@x.example", "c@x.example"]
    assert [(problem.line, problem.text) for problem in problems] == [(1, "bob")]


NOISE = st.text(" \t<>()\"'“”‘’,;:.。@＠-abü张", max_size=12)


@given(NOISE, st.sampled_from(["a@x.example", "zhang@qq.com"]), NOISE)
def test_whatever_is_around_an_address_no_part_of_it_is_taken_for_all(
    before: str, address: str, after: str
) -> None:
    """An address that was read is the text between two ends that cannot belong to it."""
    text = f"{before}{address}{after}"
    for entry in read_list(entries(text))[0]:
        at = text.find(entry.text)
        if at < 0:
            continue
        around = text[at - 1 : at] + text[at + len(entry.text) : at + len(entry.text) + 1]
        assert not any(char.isalnum() or char in "@＠-" for char in around)


@given(st.text(max_size=40) | NOISE)
def test_what_was_read_is_read_again_as_the_same(text: str) -> None:
    assert understand(understand(text)) == understand(text)


@pytest.mark.django_db
def test_each_way_to_invite_reads_them(sender: User, browser: Client, admin_client: Client) -> None:
    assert invite("张三 <a@x.example>", sender).email == "a@x.example"
    assert [it.email for it in invite_many(["b＠x.example", "c@x.example。"], sender)] == [
        "b@x.example",
        "c@x.example",
    ]
    browser.post("/invites/new/", {"email": "Dora <d@x.example>"})
    data: dict[str, Any] = {"email": "Eve <e@x.example>", "sender": sender.pk, "payload": "{}"}
    admin_client.post("/admin/mailrail_invitations/invitation/add/", data)
    stored = set(Invitation.objects.values_list("email", flat=True))
    assert {f"{name}@x.example" for name in "abcd"} <= stored
    page = browser.get("/invites/new/").text
    assert 'type="email"' not in page  # a browser would take no name


@pytest.mark.django_db
def test_the_preview_shows_how_each_line_was_read(browser: Client) -> None:
    pasted = "plain@x.example\n张三 <zhang＠qq.com>\nzhang san@qq.com\n"
    page = browser.post("/invites/bulk/", {"addresses": pasted}, follow=True).text
    assert "2 addresses will be invited." in page and "1 line was read like this" in page
    row = page[page.index('id="understood"') : page.index('id="problems"')]
    assert ">2</td>" in row and "张三 &lt;zhang＠qq.com&gt;" in row and ">zhang@qq.com</td>" in row
    assert "zhang san@qq.com" in page[page.index('id="problems"') :]
    batch = InvitationBatch.objects.get()
    assert batch.addresses == ["plain@x.example", "zhang@qq.com"] and batch.understood_count == 1


@pytest.mark.django_db
def test_a_table_that_excel_has_written_in_china_is_read(browser: Client) -> None:
    raw = "员工邮箱,,\n姓名,邮箱（必填）,部门\n张三,zhang＠qq.com,销售\n李四,li@qq.com,\n".encode("gb18030")
    page = browser.post("/invites/bulk/", {"file": SimpleUploadedFile("名单.csv", raw)}, follow=True).text
    assert "2 addresses will be invited." in page and "left out" not in page
