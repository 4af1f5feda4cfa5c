import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

SECRET_KEY = "not a secret: tests only"
DEBUG = True
INSTALLED_APPS = os.environ["SITE_APPS"].split()
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "db.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
ROOT_URLCONF = "urls"
ASGI_APPLICATION = "asgi.application"
STATIC_URL = "static/"
USE_TZ = True
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": os.environ.get("SITE_LAYER", "mailrail.layers.DatabaseChannelLayer"),
        "CONFIG": {"routing": os.environ.get("SITE_ROUTING")},  # None: consumers.py of the apps
    }
}
