"""The demo's settings. What differs between deployments is in the environment (``demo.environment``)."""

from __future__ import annotations

import warnings
from pathlib import Path
from urllib.parse import urlsplit

import django
from django.utils.deprecation import RemovedAfterNextVersionWarning, RemovedInNextVersionWarning

from demo import environment

# Also in the processes that are started with these settings, where nobody says -W error.
for _category in (RemovedInNextVersionWarning, RemovedAfterNextVersionWarning):
    warnings.simplefilter("error", _category)


FOLDER = Path(__file__).resolve().parent

DEBUG = environment.flag("DEBUG")
if not DEBUG:
    environment.check_needed()
SECRET_KEY = environment.text("SECRET_KEY", "not a secret: good for development only")
BASE_URL = environment.base_url("http://localhost:8000")
# Health checks ask the machine itself, under these names.
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    str(urlsplit(BASE_URL).hostname),
    *environment.names("ALLOWED_HOSTS"),
]
# What forms come from, also where something in front of us ends TLS.
CSRF_TRUSTED_ORIGINS = environment.origins(BASE_URL)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BASE_URL.startswith("https://")

INSTALLED_APPS = [
    "mailrail",  # first: daphne and staticfiles have a runserver, channels has a runworker
    "mailrail.mail",
    "mailrail.invitations",
    "mailrail.dashboard",  # before the admin, whose first page it extends
    "daphne",
    "channels",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "demo.urls"
ASGI_APPLICATION = "demo.asgi.application"
WSGI_APPLICATION = "demo.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [FOLDER / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
STATICFILES_DIRS = [FOLDER / "static"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = LOGIN_URL
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [FOLDER / "locale"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Messages travel in this database, too.
DATABASES = {"default": environment.database(f"sqlite:///{FOLDER / 'demo.sqlite3'}")}

# Or in Redis, if somebody says where that is.
if REDIS_URL := environment.text("REDIS_URL"):
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
    }

# Where the links in email point, and that whoever has one may accept it: the demo's guests have no accounts.
MAILRAIL = {
    "BASE_URL": BASE_URL,
    "INVITATION_ACCEPT": "link",
    "READY_OLDEST_DUE": environment.seconds("READY_OLDEST_DUE", 300.0),
}

# Email is queued, and delivered by the same workers: to a server, or while developing to the inbox page.
DEFAULT_FROM_EMAIL = environment.text("FROM_EMAIL", "Invites <invites@example.com>")
HAS_INBOX = environment.has_inbox()
QUEUE = "mailrail.mail.backend.EmailBackend"
DELIVERS = "demo.inbox.EmailBackend" if HAS_INBOX else "django.core.mail.backends.smtp.EmailBackend"
SMTP = {} if HAS_INBOX else environment.smtp()
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {"BACKEND": QUEUE, "OPTIONS": {"deliver_with": "out"}},
        "out": {"BACKEND": DELIVERS, "OPTIONS": SMTP},
    }
else:
    EMAIL_BACKEND = QUEUE
    MAILRAIL["DELIVER_WITH"] = DELIVERS
    EMAIL_HOST, EMAIL_PORT = SMTP.get("host", "localhost"), SMTP.get("port", 25)
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = SMTP.get("username", ""), SMTP.get("password", "")
    EMAIL_USE_TLS, EMAIL_USE_SSL = SMTP.get("use_tls", False), SMTP.get("use_ssl", False)
    EMAIL_TIMEOUT = 30

if not DEBUG:  # Django's default shows errors to nobody but the receivers of error mail
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django": {"handlers": ["console"], "level": "INFO"}},
    }
