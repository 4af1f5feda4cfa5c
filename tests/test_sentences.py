"""Count the words of sentences in docstrings and comments of the package: at most 25."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent

LIMIT = 25
SOURCES = sorted((ROOT / "src" / "mailrail").rglob("*.py"))
BLOCK = re.compile(r"^([-*•] |\d+\. |\.\. |[|=─├└│]|[\w.]+ {2,})")
"""How a line begins that continues no sentence: a list's item, a directive, a row of a table or of a tree."""
ROW = re.compile(r"[|=─├└│]|[\w.]+ {2,}")
"""How a line begins that is a row of a table or of a tree."""
END = re.compile(r"(?<=[.!?])[)\"'`]*\s+(?=[A-Z\"'`(\[])")
"""Where a sentence ends. A colon or a semicolon ends none."""
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|No)\.")


def sentences_of(text: str) -> Iterator[str]:
    """Cut paragraphs into sentences. Code blocks, tables, trees and drawings are none."""
    for paragraph in _paragraphs(text.splitlines()):
        yield from filter(None, map(str.strip, END.split(ABBREVIATION.sub(r"\1", paragraph))))


def _paragraphs(lines: list[str]) -> Iterator[str]:
    collected: list[str] = []
    for line in lines:
        text = line.strip()
        is_code = line.startswith("    ")
        if not text or is_code or BLOCK.match(text):
            yield " ".join(collected)
            collected = []
        if text and not is_code and not ROW.match(text):
            collected.append(text)
    yield " ".join(collected)


def docstrings_of(source: str) -> Iterator[tuple[int, str]]:
    """Find the strings that stand as statements, with their lines: docstrings, and those of attributes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, dedent(" " * node.col_offset + text)


def comments_of(source: str) -> Iterator[tuple[int, str]]:
    """Find the comments, with their lines; those of consecutive lines of one column are one text."""
    joined: list[str] = []
    start, previous = 0, (-1, -1)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, column = token.start
        own_line = token.line[:column].strip() == ""
        if not (own_line and previous == (row - 1, column)):
            if joined:
                yield start, "\n".join(joined)
            joined, start = [], row
        joined.append(token.string.lstrip("#").strip())
        previous = (row, column) if own_line else (-1, -1)
    if joined:
        yield start, "\n".join(joined)


def long_sentences_of(source: str) -> list[tuple[int, int, str]]:
    """Return line, words and text of each sentence over the limit."""
    return [
        (line, words, sentence)
        for line, text in sorted([*docstrings_of(source), *comments_of(source)])
        for sentence in sentences_of(text)
        if (words := len(sentence.split())) > LIMIT
    ]


def test_docstrings_and_comments_are_short_sentences() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{line}: {words} words: {text}"
        for path in SOURCES
        for line, words, text in long_sentences_of(path.read_text())
    ]
    assert not too_long, "\n".join(too_long)


LONG = " ".join(f"word{number}" for number in range(LIMIT + 1))


@pytest.mark.parametrize(
    "source",
    [
        f'"""Begin. {LONG}."""',
        f'"""Begin.\n\n{LONG[:60]}\n{LONG[61:]}.\n"""',
        f'LIMIT = 1\n"""{LONG}."""',
        f"# {LONG[:60]}\n# {LONG[61:]}.",
        f'"""- {LONG[:60]}\n  {LONG[61:]}."""',
        f'"""{LONG[:60]}: {LONG[61:]}."""',
    ],
    ids=["docstring", "paragraph", "attribute", "comment over lines", "item of a list", "colon"],
)
def test_a_long_sentence_is_found_wherever_it_stands(source: str) -> None:
    [(_line, words, _text)] = long_sentences_of(source)
    assert words > LIMIT


@pytest.mark.parametrize(
    "source",
    [
        f'text = "{LONG}"',
        f'"""Show an example.\n\n    {LONG}\n"""',
        f'"""| {LONG} |"""',
        f'"""mailrail.E001  {LONG}"""',
        f"{LONG.split()[0]} = 1  # {LONG[:60]}.\nother = 2  # {LONG[61:]}",
        f'"""{LONG[:60]}. Then {LONG[61:150]}."""',
    ],
    ids=["no docstring", "code block", "table", "list of ids", "two comments", "two sentences"],
)
def test_what_is_no_long_sentence_is_none(source: str) -> None:
    assert long_sentences_of(source) == []
