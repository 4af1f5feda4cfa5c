"""The project that benchmarks run in, on the database that ``BENCHMARKS_ON`` names, set up as our docs recommend.

The baselines use the same databases through the same settings, so that both pay the same price for a commit. SQLite has
its files in a temporary folder; PostgreSQL is one of our own with the server's default settings, ``fsync`` among them.
Redis is a Valkey of our own that keeps nothing on disk; behind the alias "everysec" is one with an append-only file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("BENCHMARKS_FOLDER") or tempfile.gettempdir())
ON = os.environ.get("BENCHMARKS_ON", "sqlite")
ALIASES = ("default", "backlog", "future")


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


def _postgresql(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["BENCHMARKS_POSTGRES_PORT"],
        "USER": "postgres",
        "NAME": name,
    }


def valkey_url(alias: str) -> str:
    """Each alias is a database of one server, but for "everysec"."""
    if alias == "everysec":
        return os.environ["BENCHMARKS_VALKEY_AOF"]
    return f"{os.environ['BENCHMARKS_VALKEY'].removesuffix('/0')}/{ALIASES.index(alias)}"


def _layer(using: str) -> dict[str, Any]:
    if ON == "redis":
        return {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [valkey_url(using)]}}
    return {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": using}}


SECRET_KEY = "not a secret: benchmarks only"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
DATABASES = {alias: _postgresql(alias) if ON == "postgresql" else _sqlite(alias) for alias in ALIASES}
CHANNEL_LAYERS = {alias: _layer(alias) for alias in (*ALIASES, *["everysec"][: ON == "redis"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["mailrail", "benchmarks", "channels"]
