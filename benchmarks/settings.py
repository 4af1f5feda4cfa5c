"""The project that benchmarks run in: two SQLite files in a temporary folder, set up as our docs recommend.

The baselines use the same files through the same settings, so that both pay the same price for a commit.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("BENCHMARKS_FOLDER") or tempfile.gettempdir())


def _sqlite(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / f"{name}.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def _layer(using: str) -> dict[str, Any]:
    return {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": using}}


SECRET_KEY = "not a secret: benchmarks only"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
DATABASES = {"default": _sqlite("default"), "backlog": _sqlite("backlog")}
CHANNEL_LAYERS = {"default": _layer("default"), "backlog": _layer("backlog")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["mailrail", "benchmarks", "channels"]
