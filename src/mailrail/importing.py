"""Import what settings and routes name, and report the line of the project's files that has a mistake.

``route()``, ``include()`` and ``@consumer`` raise their mistakes. A module that raises is read no
further, so people would learn of one mistake at a time. While the routing is imported, ``gathered`` collects the
mistakes instead.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from traceback import extract_tb
from typing import Any

from django.utils.module_loading import import_string

from .autoreload import IMPORT_MACHINERY, import_watched
from .errors import InvalidSettings
from .options import Mistakes

_NOT_THEIRS = (f"{Path(__file__).parent}{os.sep}", *IMPORT_MACHINERY)
_NAMES_ITS_LINE = re.compile(r", line \d+\)$")
_gathered: ContextVar[Mistakes | None] = ContextVar("mailrail.importing", default=None)


def import_named(path: str, where: str, load: Callable[[str], Any] = import_string) -> Any:
    """Import a dotted path that ``where`` names. Raises ``InvalidSettings`` with the line that raised."""
    try:
        return import_watched(path, load)
    except Exception as error:  # a module may raise anything
        reason = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise InvalidSettings(f"{where} cannot be imported: {reason}{_raised_at(error)}") from error


@contextmanager
def gathered(mistakes: Mistakes) -> Iterator[None]:
    """Collect in ``mistakes`` the errors passed to ``noted_or_raised`` in this block and its imports."""
    token = _gathered.set(mistakes)
    try:
        yield
    finally:
        _gathered.reset(token)


def noted_or_raised(error: Exception) -> tuple[str, ...]:
    """Return the sentences of an error, with the line that caused it; outside ``gathered``, raise the error."""
    mistakes = _gathered.get()
    if mistakes is None:
        raise error
    texts = getattr(error, "mistakes", None) or str(error).splitlines()
    place = _called_at()
    gathered_error = InvalidSettings(
        *(text if _NAMES_ITS_LINE.search(text) else f"{text}{place}" for text in texts)
    )
    mistakes.add(gathered_error)
    return gathered_error.mistakes


def _raised_at(error: Exception) -> str:
    """Return the file and line where a module raised, for a text without a traceback."""
    if isinstance(error, SyntaxError) or error.__traceback__ is None:
        return ""  # a syntax error names its line
    frames = extract_tb(error.__traceback__)
    project_frames = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    return f" ({project_frames[-1].filename}, line {project_frames[-1].lineno})" if project_frames else ""


def _called_at() -> str:
    """Return the file and line of the project that called us."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_NOT_THEIRS):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return f" ({frame.f_code.co_filename}, line {frame.f_lineno})"
