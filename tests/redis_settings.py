"""The settings of the tests, with the Redis layer: for the processes that tests start."""

from __future__ import annotations

import os

import django

from tests.settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "mailrail.layers.RedisChannelLayer",
        "CONFIG": {
            "hosts": [os.environ["MAILRAIL_TEST_REDIS_URL"]],
            "routing": "tests.routes.on_redis",
            "outbox": "MAILRAIL_TEST_OUTBOX" in os.environ,
        },
    }
}
MAILRAIL = {
    "BASE_URL": "https://testserver.example",
    "RECONCILE_EVERY": 0.5,
    "SHUTDOWN_TIMEOUT": 10.0,
    "BACKOFF": 0.1,
}
_port = int(os.environ.get("MAILRAIL_TEST_SMTP_PORT", "25"))
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "port": _port},
        }
    }
else:
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    EMAIL_HOST, EMAIL_PORT = "127.0.0.1", _port
