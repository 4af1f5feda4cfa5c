"""``python -m benchmarks.tasks.fill COUNT [alone]``: so many tasks wait on Valkey, and nothing else does.

``alone``: without results.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import django
import redis


def main() -> None:
    django.setup()
    redis.Redis.from_url(os.environ["BENCHMARKS_VALKEY"]).flushall()
    defined = import_module("benchmarks.tasks.defined")  # it needs Django to be set up
    defined.fill(int(sys.argv[1]), without_results="alone" in sys.argv)


if __name__ == "__main__":
    main()
