"""Update the catalogues of translations from the code, compile them, and say what they still lack.

    python -m scripts.catalogues [--compile]

``make messages`` runs it, for the apps of the package and for the demo. New texts come in without a translation, texts
that are gone go; who translates fills in ``msgstr`` in ``locale/zh_Hans/LC_MESSAGES/django.po`` and runs it again.
``--compile``: nothing but that.

Exit status: 1 if something is lacking.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.pofile import write_po
from django.utils.translation.template import templatize

from .compile_catalogues import ANY_TIME, ROOT, compile_all, read, sources

KEYWORDS = {
    **DEFAULT_KEYWORDS,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext_lazy": ((1, "c"), 2, 3),
}
TEMPLATES = (".html", ".txt")
Text: TypeAlias = str | tuple[str, ...] | list[str]
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[a-z%]|\{\w*\}|</?\w+")
CHINESE = "[\u3400-\u9fff]"
HALF_WIDTH = re.compile(rf"{CHINESE}[,.!?;:()]|[,.!?;:()]{CHINESE}")
TOO_CLOSE = re.compile(rf"{CHINESE}[A-Za-z0-9%]|[A-Za-z0-9]{CHINESE}")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--compile", action="store_true", help="only compile them")
    if not parser.parse_args().compile:
        for source in sources():
            update(source)
    compile_all()
    lacking = [f"{source.relative_to(ROOT)}: {text}" for source in sources() for text in problems(source)]
    print(*lacking, sep="\n", end="\n" if lacking else "")
    return 1 if lacking else 0


def app_of(source: Path) -> Path:
    """The folder of the app that a catalogue belongs to."""
    return source.parents[3]


def texts(app: Path) -> Catalog:
    """Every text of an app that is marked for translation; files below another app's folder are that one's."""
    catalog = Catalog(project="mailrail", fuzzy=False, header_comment="#")
    others = [other for other in {app_of(source) for source in sources()} if other != app]
    for path in sorted(app.rglob("*")):
        within = [other for other in others if other.is_relative_to(app) and path.is_relative_to(other)]
        if within or path.suffix not in (".py", *TEMPLATES):
            continue
        for line, message, comments, context in extract(
            "python", _as_python(path), KEYWORDS, ["Translators"]
        ):
            place = (str(path.relative_to(app)), line)
            catalog.add(message, None, [place], auto_comments=comments, context=context)
    return catalog


def _as_python(path: Path) -> io.BytesIO:
    """A template as Django reads it for makemessages; its indentation would mean something to Python."""
    text = path.read_text("utf-8")
    if path.suffix in TEMPLATES:
        text = "\n".join(line.strip() for line in templatize(text).splitlines())
    return io.BytesIO(text.encode())


def update(source: Path) -> None:
    """Write the catalogue anew: the texts of today, with the translations that there are."""
    before, catalog = read(source), texts(app_of(source))
    catalog.locale = before.locale
    catalog.creation_date = catalog.revision_date = ANY_TIME
    for message in catalog:
        if message.id:
            message.string = _known(before, message) or _untranslated(catalog, message)
            message.flags.discard("fuzzy")
    data = io.BytesIO()
    write_po(data, catalog, width=100, sort_by_file=True, include_lineno=False)
    lines = data.getvalue().decode().splitlines()
    source.write_text("\n".join(_lasting(lines)) + "\n", "utf-8")


def _known(before: Catalog, message: Message) -> Text | None:
    known = before.get(message.id, message.context)
    return known.string if known is not None and known.pluralizable == message.pluralizable else None


def _untranslated(catalog: Catalog, message: Message) -> Text:
    if str(catalog.locale) == "en":
        return message.id
    return ("",) * catalog.num_plurals if message.pluralizable else ""


def _lasting(lines: Iterable[str]) -> Iterator[str]:
    """Without what is another one at each run, or says nothing."""
    headers = ("Language:", "Plural-Forms:", "MIME-Version:", "Content-T")
    for line in lines:
        is_header = re.match(r'"[A-Z][A-Za-z-]+: .*\\n"$', line)
        if line != "#" and (not is_header or line.startswith(tuple(f'"{name}' for name in headers))):
            yield line


def problems(source: Path) -> Iterator[str]:
    """What is wrong with a catalogue, each in a line. Raises ``PoFileError`` for one that cannot be compiled."""
    catalog, wanted = read(source), texts(app_of(source))
    present, needed = (
        {(message.id, message.context) for message in entries if message.id} for entries in (catalog, wanted)
    )
    yield from sorted(f"lacks {text!r}; run make messages" for text, _context in needed - present)
    yield from sorted(
        f"has {text!r}, which is gone; run make messages" for text, _context in present - needed
    )
    if catalog.obsolete:
        yield "has obsolete entries; run make messages"
    for message in catalog:
        if message.id:
            yield from (f"{message.id!r} {problem}" for problem in _wrong(message))


def _wrong(message: Message) -> Iterator[str]:
    ids, strings = forms_of(message.id), forms_of(message.string)
    if message.fuzzy:
        yield "is fuzzy"
    if not all(strings):
        yield "is not translated"
        return
    for number, string in enumerate(strings):
        # a language with one form says it as English does for many
        original = ids[-1] if len(strings) < len(ids) else ids[min(number, len(ids) - 1)]
        if Counter(PLACEHOLDER.findall(original)) != Counter(PLACEHOLDER.findall(string)):
            yield f"has other placeholders or tags in {string!r}"
        for pattern, fault in (
            (HALF_WIDTH, "half-width punctuation"),
            (TOO_CLOSE, "no space between scripts"),
        ):
            if pattern.search(string):
                yield f"has {fault} in {string!r}"


def forms_of(text: Text | None) -> tuple[str, ...]:
    """One, or one for each plural."""
    if text is None:
        return ()
    return (text,) if isinstance(text, str) else tuple(text)


if __name__ == "__main__":
    sys.exit(main())
