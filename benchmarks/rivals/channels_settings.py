"""The settings of Channels' own ``runworker``, with channels_redis as it is: ours is not installed here."""

from __future__ import annotations

from ..settings import valkey_url

SECRET_KEY = "not a secret: benchmarks only"
INSTALLED_APPS = ["channels"]
ASGI_APPLICATION = "benchmarks.rivals.with_channels.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [valkey_url("default")], "capacity": 20_000},
    }
}
