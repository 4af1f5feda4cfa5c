"""Pages in another language say what the English ones do: what can be compared is the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from scripts.catalogues import HALF_WIDTH

from .processes import ROOT

PAGES = [
    pytest.param(page, id=str(page.relative_to(ROOT)))
    for page in [*ROOT.glob("*.zh-Hans.md"), *ROOT.glob("docs/**/*.zh-Hans.md")]
]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)|<(https?://[^>]+)>")


RELATIVE = re.compile(r"\[([^\]\n]+)\]\(((?!https?:)[^)#\s]*(?:\.md|/))(#[^)\s]*)?\)(（英文）)?")
WRONG_WORDS = (
    *("泳道", "死因", "死信消息", "栅栏令牌", "了结", "一本账", "只追加文件", "标头"),
    *("到期时间", "最早到期", "正在途中", "被中止", "丢失 %(count)s 次", "报错邮件"),
)


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-Hans", ""))


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text())


def links(page: Path) -> Counter[str]:
    """Where it leads to, but for its other language. An anchor counts as the number of its heading."""
    targets = (inside or outside for inside, outside in LINK.findall(prose(page)))
    return Counter(
        numbered(page, target).replace(".zh-Hans", "")
        for target in targets
        if target not in (page.name, other(page))
    )


def numbered(page: Path, target: str) -> str:
    """Replace the anchor of a link to a page of ours by the number of its heading, the same in both languages."""
    path, mark, anchor = target.partition("#")
    if not mark or "://" in target:
        return target
    return f"{path}#{anchors_of(page.parent / path if path else page).index(anchor)}"


def anchors_of(page: Path) -> list[str]:
    """Return the anchors of its headings, as MyST and GitHub make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def other(page: Path) -> str:
    return english(page).name if ".zh-Hans" in page.name else f"{page.stem}.zh-Hans.md"


def test_there_is_a_readme_in_chinese() -> None:
    assert ROOT / "README.zh-Hans.md" in [param.values[0] for param in PAGES]


@pytest.mark.parametrize("page", PAGES)
class TestATranslation:
    def test_it_has_the_same_code(self, page: Path) -> None:
        assert CODE.findall(page.read_text()) == CODE.findall(english(page).read_text())

    def test_it_has_the_same_headings_lists_and_tables(self, page: Path) -> None:
        def shape(path: Path) -> list[str]:
            lines = prose(path).splitlines()
            marks = (re.match(r"#+ |- |\d+\. |\|---.*|\||:{3,}\S*", line) for line in lines)
            return [mark[0] for mark in marks if mark]

        assert shape(page) == shape(english(page))

    def test_it_has_the_same_paragraphs(self, page: Path) -> None:
        def count(path: Path) -> int:
            return len(re.split(r"\n\s*\n", prose(path).strip()))

        assert count(page) == count(english(page))

    def test_it_names_the_same_commands_and_settings(self, page: Path) -> None:
        names = (Counter(INLINE.findall(prose(each))) for each in (page, english(page)))
        assert next(names) == next(names)

    def test_it_leads_to_the_same_places(self, page: Path) -> None:
        assert links(page) == links(english(page))
        for each in (page, english(page)):
            assert f"]({other(each)})" in each.read_text(), f"{each.name} does not lead to {other(each)}"

    def test_it_is_written_as_chinese_is(self, page: Path) -> None:
        text = LINK.sub("]", INLINE.sub("", prose(page)))
        assert HALF_WIDTH.findall(text) == []

    def test_its_links_lead_to_chinese_pages_or_say_that_they_are_english(self, page: Path) -> None:
        for _, target, _, says_english in RELATIVE.findall(prose(page)):
            is_chinese = ".zh-Hans" in target
            translated = page.parent / target.replace(".md", ".zh-Hans.md")
            if is_chinese or target == other(page):
                assert (page.parent / target).exists(), target
                assert not says_english, target
            else:
                assert says_english, target
                assert target.endswith("/") or not translated.exists(), f"{target} has a Chinese version"


@pytest.mark.parametrize("word", WRONG_WORDS)
def test_chinese_says_one_thing_by_one_word(word: str) -> None:
    catalogues = [*ROOT.glob("src/**/zh_Hans/**/*.po"), *ROOT.glob("demo/**/zh_Hans/**/*.po")]
    pages = [Path(str(param.values[0])) for param in PAGES]
    assert catalogues
    assert [path.name for path in (*catalogues, *pages) if word in path.read_text()] == []
