"""Make Django's autoreloader watch files that failed to import and whose error a check caught.

Django watches such a file when it sees the exception itself (``django.utils.autoreload.check_errors``). A check that
catches the exception hides the file: it is not in ``sys.modules``, so the reloader would not notice a fix.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

from django.dispatch import receiver
from django.utils.autoreload import BaseReloader, autoreload_started
from django.utils.module_loading import import_string

_failed: set[Path] = set()
_reloaders: list[BaseReloader] = []

IMPORT_MACHINERY = (
    str(Path(importlib.__file__).parent) + os.sep,
    "<frozen importlib",
    import_string.__code__.co_filename,
)


def import_watched(path: str, load: Callable[[str], Any] = import_string) -> Any:
    """Import a dotted path. If the import raises, watch the files of the traceback, so that a fix reloads."""
    try:
        return load(path)
    except Exception as error:
        _watch_files(_files_of(error))
        raise


def failed_files() -> frozenset[Path]:
    """Return the files to watch, for reloaders other than Django's."""
    return frozenset(_failed)


def _watch_files(files: Iterable[Path]) -> None:
    _failed.update(files)
    for reloader in _reloaders:
        reloader.extra_files.update(_failed)


def _files_of(error: Exception) -> Iterator[Path]:
    """Yield the files of the traceback, and the one that a syntax error names."""
    names = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        names.append(error.filename)
    for name in names:
        if not name.startswith(IMPORT_MACHINERY) and (path := Path(name).absolute()).is_file():
            yield path


@receiver(autoreload_started, dispatch_uid="mailrail.autoreload")
def _on_start(sender: BaseReloader, **kwargs: Any) -> None:
    _reloaders[:] = [sender]
    _watch_files(())
