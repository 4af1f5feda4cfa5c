"""The project of the benchmarks of tasks with its messages on Valkey, and the records of tasks in PostgreSQL."""

from __future__ import annotations

from ..settings import valkey_url
from .settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [valkey_url("default")]}}
}
