"""Let commands end quietly when their reader stops, as in ``manage.py mailq | head``."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand

BROKEN_PIPE_STATUS = 141
"""Exit code of a program that SIGPIPE ends, as shells report it: 128 and the number of the signal."""


class PipedCommand(BaseCommand):
    """End without a traceback when nobody reads the output any more."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            output = super().execute(*args, **options)
            self.stdout.flush()
        except BrokenPipeError:
            # What is still buffered would raise again when Python ends (Python's manual, "Note on SIGPIPE").
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE_STATUS)
        return output
