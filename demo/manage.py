#!/usr/bin/env python
"""Django's command line for the demo project, from any directory: ``python demo/manage.py migrate``."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command in ``sys.argv``."""
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the folder that holds the package "demo"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
