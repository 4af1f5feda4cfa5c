"""The project of ``benchmarks.mail.waiting``: one mailer, whose policy the environment gives."""

from __future__ import annotations

import json
import os

from .settings import *  # noqa: F403

MAILRAIL = {"MAILERS": {"smtp": json.loads(os.environ.get("BENCHMARKS_POLICY", "{}"))}}
