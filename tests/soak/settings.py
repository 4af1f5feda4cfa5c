"""The project that soaks run in: everything on the PostgreSQL that the soak has started."""

from __future__ import annotations

import os

SECRET_KEY = "not a secret: soaks only"
USE_TZ = True
INSTALLED_APPS = ["mailrail", "tests.soak"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ.get("MAILRAIL_SOAK_PORT", ""),
        "USER": "postgres",
        "NAME": "mailrail",
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MAILRAIL = {"LEASE": 5.0, "SHUTDOWN_TIMEOUT": 10.0}
