"""The project of the benchmark of the live page: that of the admin's, with the page and ASGI."""

from __future__ import annotations

from .admin_settings import *  # noqa: F403 - all of them
from .admin_settings import INSTALLED_APPS as OTHERS
from .admin_settings import MIDDLEWARE as EACH

INSTALLED_APPS = [*OTHERS, "mailrail.dashboard"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", *EACH]
ALLOWED_HOSTS = ["testserver", "127.0.0.1"]
ROOT_URLCONF = "benchmarks.dashboard_urls"
