"""Let commands end without a traceback where people can see why without one, and print tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from .missing_tables import migration_for, with_migration
from .moments import for_machines
from .terminal import as_json, single_line

BROKEN_PIPE_STATUS = 141
"""Exit code of a program that SIGPIPE ends, as shells report it: 128 and the number of the signal."""


class PipedCommand(BaseCommand):
    """End without a traceback when nobody reads the output any more, and when a table of ours is missing."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            output = super().execute(*args, **options)
            self.stdout.flush()
        except BrokenPipeError:
            # What is still buffered would raise again when Python ends (Python's manual, "Note on SIGPIPE").
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE_STATUS)
        except DatabaseError as error:
            if migration_for(error):
                raise CommandError(with_migration(error)) from error
            raise
        return output

    def print_table(self, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], nothing: str) -> None:
        """Print rows in columns below their head, or ``nothing`` if there are none. Texts of others are escaped."""
        if not rows:
            self.stdout.write(nothing)
            return
        rows = [tuple(map(single_line, row)) for row in rows]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            self.stdout.write(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )


class JsonCommand(PipedCommand):
    """Print for people, or as JSON with ``--json``: ``handle`` sets ``_json``."""

    _json = False

    def _say(self, text: str, **facts: Any) -> None:
        if self._json:
            self._print_json(facts)
        else:
            self.stdout.write(text)

    def _print_json(self, value: Any) -> None:
        self.stdout.write(as_json(value, for_machines))
