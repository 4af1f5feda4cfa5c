"""Compile the catalogues of translations: a build hook of hatchling, so that every wheel, sdist and editable install
has them.

Needs Babel, and not the package itself.
"""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "mailrail"
DEMO = ROOT / "demo"
ANY_TIME = datetime.fromtimestamp(0, UTC)
"""Whenever a build is made, it is the same."""


class CompileCatalogues(BuildHookInterface):  # type: ignore[type-arg]  # generic only for the type checker
    """Compiles them in place: an editable install has them where it looks for them, and builds take them along."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_all()


def compile_all(*folders: Path) -> None:
    """Write a ``.mo`` beside each ``.po`` in these folders, unless it is there already. Default: see ``sources``."""
    for source in sources(*folders):
        target, data = source.with_suffix(".mo"), compiled(source)
        if not target.exists() or target.read_bytes() != data:
            _replace(target, data)


def sources(*folders: Path) -> list[Path]:
    """Return the catalogues in these folders; default: those of the package and of the demo, which may be absent."""
    catalogues = (folder.glob("**/locale/*/LC_MESSAGES/django.po") for folder in folders or (PACKAGE, DEMO))
    return sorted(path for paths in catalogues for path in paths)


def compiled(source: Path) -> bytes:
    catalog = read(source)
    if source.parents[1].name == "en":
        _leave_out_what_gettext_knows(catalog)
    data = io.BytesIO()
    write_mo(data, catalog)
    return data.getvalue()


def read(source: Path) -> Catalog:
    with source.open("rb") as file:
        catalog = read_po(file, abort_invalid=True)
    catalog.creation_date = catalog.revision_date = ANY_TIME
    return catalog


def _leave_out_what_gettext_knows(catalog: Catalog) -> None:
    """An English text that is its own id; the English that a project gives to that id would lose against it."""
    for message in list(catalog):
        if message.id and message.string == message.id:
            catalog.delete(message.id, message.context)


def _replace(target: Path, data: bytes) -> None:
    """At once: others may be reading it."""
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(target)
