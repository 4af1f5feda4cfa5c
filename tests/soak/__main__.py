"""``make soak``: two workers of two processes, senders, and faults without end, while every promise is checked.

The seed decides what is sent and what goes wrong; times differ from run to run. Ends with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from ..servers import PostgresServer
from .timetables import difference


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--rate", type=float, default=300.0, help="Messages per second, of all senders.")
    options = parser.parse_args()
    print(f"seed: {options.seed}", flush=True)
    if found := difference(options.seed, options.minutes * 6):  # a tenth of the time
        print(f"BROKEN: {found}")
        return 1
    server, folder = PostgresServer(), Path(tempfile.mkdtemp(prefix="mailrail-soak-"))
    broken = True
    try:
        set_up(server)
        from .soak import Soak

        broken = Soak(server, folder, options.seed, options.rate).run(options.minutes * 60)
    finally:
        server.remove()
        if not broken:
            shutil.rmtree(folder)
    if broken:
        print(f"The ledger and the logs are in {folder}. Again: --seed {options.seed}")
    return int(broken)


def set_up(server: PostgresServer) -> None:
    import django
    from django.core.management import call_command

    server.start()
    with server.connect() as admin:
        admin.execute("CREATE DATABASE mailrail")
    os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.soak.settings", "MAILRAIL_SOAK_PORT": str(server.port)}
    django.setup()
    call_command("migrate", verbosity=0)
    from .records import make_tables

    make_tables()


if __name__ == "__main__":
    sys.exit(main())
