"""Other queues that send invitations by email, each at the settings that are its best here."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

from ..processes import ROOT, running
from ..settings import FOLDER
from ..sink import accepted
from .watching import COUNTER, PROCESSES, rate

SETTINGS = {"DJANGO_SETTINGS_MODULE": "benchmarks.rivals.mail_settings"}
_celery = ("celery", "-q", "-A", "benchmarks.rivals.mail_celery", "worker", "-l", "ERROR")
_post_office = ("django", "send_queued_mail", "-p", "2", "-l", "1", "-L", str(FOLDER / "post_office"))


@dataclass(frozen=True)
class Peer:
    """``commands``: each ``python -m …``, so many processes; ``package``: whose version is named."""

    label: str
    package: str
    module: str
    commands: tuple[tuple[str, ...], ...]
    ends: bool = False
    """By itself, when all is sent and written down."""

    @property
    def name(self) -> str:
        return f"{self.label} ({version(self.package)})"


POST_OFFICE = Peer(
    "django-post_office, -p 2, 16 threads each",
    "django-post_office",
    "mail_post_office",
    (_post_office,),
    ends=True,
)
CELERY = Peer("Celery, Valkey, -c 2", "celery", "mail_celery", ((*_celery, "-c", "2"),))
CELERY_THREADS = Peer(
    "Celery, Valkey, 32 threads", "celery", "mail_celery", ((*_celery, "-P", "threads", "-c", "32"),)
)
HUEY = Peer(
    "huey, Valkey, 2 processes",
    "huey",
    "mail_huey",
    (("huey.bin.huey_consumer", "benchmarks.rivals.mail_huey.HUEY", "-w", "2", "-k", "process", "-q"),),
)
DRAMATIQ = Peer(
    "dramatiq, Valkey, 2 processes of 8 threads",
    "dramatiq",
    "mail_dramatiq",
    (("dramatiq", "benchmarks.rivals.mail_dramatiq", "--processes", "2", "--threads", "8"),),
)
SAQ = Peer(
    "SAQ, Valkey, 2 processes of 16, each thread with an open connection",
    "saq",
    "mail_saq",
    (("saq", "benchmarks.rivals.mail_saq.settings"),) * 2,
)


def rate_of(peer: Peer, count: int) -> float:
    """Emails per second, from so many that wait already."""
    fill = [sys.executable, "-m", "benchmarks.rivals.mail_fill", peer.module, str(count)]
    subprocess.run(fill, cwd=ROOT, check=True)
    before = accepted(COUNTER)
    with ExitStack() as stack:
        workers = [stack.enter_context(running(*command, **SETTINGS)) for command in peer.commands]
        value = rate(count, before, workers)
        for worker in workers if peer.ends else ():
            worker.wait()
        return value


def rate_of_bare(count: int, connections: int = 20) -> float:
    """Two processes that share the emails, from the moment both are ready."""
    command = [sys.executable, "-m", "benchmarks.mail.bare", str(count // PROCESSES), str(connections)]
    before = accepted(COUNTER)
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(PROCESSES)
    ]
    try:
        for each in processes:
            assert each.stdin is not None and each.stdout is not None
            each.stdout.readline()
        for each in processes:
            assert each.stdin is not None
            each.stdin.write(b"go\n")
            each.stdin.flush()
        return rate(count // PROCESSES * PROCESSES, before, processes)
    finally:
        for each in processes:
            each.kill()
            each.communicate()
