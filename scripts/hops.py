"""Count the functions and files of ``src/mailrail`` that a message passes through: how hard is it to follow?

    python -m scripts.hops            a line for each walk
    python -m scripts.hops --list     and the functions, in the order in which they are first called

Counted are distinct functions, by ``sys.setprofile``, on the threads that carry the message: the caller's, the worker's
own and the pool's. A worker's walk begins with the layer's ``claim`` and ends with the line of the worker's log that
tells the outcome. For an email, the log of mail has that line, and earlier. So the walk of an email ends where its
message is settled in the layer: as the ``claim`` returns that was given it as ``finished``. The layer is SQLite, the
SMTP server a real one.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple, TypeAlias

import django
from aiosmtpd.controller import Controller
from django.conf import settings
from django.core.mail import send_mail
from django.core.management import call_command

import mailrail

PACKAGE = str(Path(mailrail.__file__).parent)
ASIDE = ("mailrail-leases", "mailrail-maintenance")
"""Threads that carry no message."""

Until: TypeAlias = Literal["logged", "settled"]
"""The end of a worker's walk: the line of the log, or the layer has settled the message."""


class Walk(logging.Handler):
    """The functions of the package that were called, in order.

    ``until``: of a worker, from the first ``claim`` of a layer until this has happened. Else all is counted.
    """

    def __init__(self, until: Until | None) -> None:
        super().__init__()
        self.calls: dict[CodeType, None] = {}
        self._until = until
        self._has_begun = until is None
        self._is_over = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if self._is_over or not code.co_filename.startswith(PACKAGE):
            return
        is_claim = code.co_name == "claim" and "/layers/" in code.co_filename
        if event == "call" and _is_function(code):
            self._has_begun = self._has_begun or is_claim
            if self._has_begun and not threading.current_thread().name.startswith(ASIDE):
                self.calls.setdefault(code)
        elif event == "return" and is_claim and self._until == "settled":
            self._is_over = bool(frame.f_locals.get("finished"))

    def emit(self, record: logging.LogRecord) -> None:
        if self._until == "logged" and hasattr(record, "outcome"):
            self._is_over = True

    @property
    def files(self) -> set[str]:
        return {code.co_filename for code in self.calls}


def _is_function(code: CodeType) -> bool:
    """A lambda or a comprehension is part of the function around it."""
    return not code.co_name.startswith("<")


@contextmanager
def counted(until: Until | None) -> Iterator[Walk]:
    """Count what this thread, and those that it starts, call inside the block."""
    walk = Walk(until)
    logging.getLogger("mailrail.worker").addHandler(walk)
    threading.setprofile(walk)
    sys.setprofile(walk)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        logging.getLogger("mailrail.worker").removeHandler(walk)


def configure(folder: Path, port: int) -> None:
    """Set up Django with a database layer on SQLite, and a mailer that queues for an SMTP server at this port."""
    smtp, queue = "django.core.mail.backends.smtp.EmailBackend", "mailrail.mail.backend.EmailBackend"
    mail: dict[str, Any] = {"EMAIL_BACKEND": queue, "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}
    if django.VERSION >= (6, 1):
        server = {"BACKEND": smtp, "OPTIONS": {"host": "127.0.0.1", "port": port}}
        mail = {
            "MAILERS": {"default": {"BACKEND": queue, "OPTIONS": {"deliver_with": "smtp"}}, "smtp": server}
        }
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "hops.sqlite3"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["mailrail", "mailrail.mail"],
        SECRET_KEY="hops",
        USE_TZ=True,
        **mail,
    )
    django.setup()
    log = logging.getLogger("mailrail")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    log.setLevel(logging.INFO)
    call_command("migrate", verbosity=0)


def work(routing: Any) -> None:
    """Run what is due as ``runworker --drain`` does."""
    from mailrail.layers import get_layer
    from mailrail.worker import Worker

    Worker(get_layer(), routing, threads=1, drain=True).run()


def nothing() -> None:
    """Prepare a walk that needs nothing."""


class Step(NamedTuple):
    name: str
    before: Callable[[], object]  # what has to be done first, and is not counted
    walk: Callable[[], object]
    until: Until | None = None


def steps() -> list[Step]:
    """Return what is walked, in order."""
    from mailrail import Channel
    from mailrail.layers import get_layer
    from mailrail.routing import Routing, route

    def fail(message: Any) -> None:
        raise RuntimeError("This message cannot be consumed.")

    healthy = Routing([route("hops", lambda message: None)])
    failing = Routing([route("hops", fail, attempts=1)])
    mail = Routing.of_layer()

    def send() -> None:
        Channel("hops").send({"n": 1})

    def die() -> None:
        send()
        work(failing)

    def requeue() -> None:
        [dead] = get_layer().list_messages(["hops"], 1, "dead")
        get_layer().requeue("hops", [dead.id])

    def post() -> None:
        send_mail("Hello", "Read this.", "ann@example.com", ["bob@example.net"])

    return [
        Step("send -> row", nothing, send),
        Step("claim -> consumer -> settled", send, lambda: work(healthy), "logged"),
        Step("claim -> failure -> dead", send, lambda: work(failing), "logged"),
        Step("dead -> requeue", die, requeue),
        Step("send_mail -> row", nothing, post),
        Step("email: claim -> SMTP reply -> settled", post, lambda: work(mail), "settled"),
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the functions, too")
    shows = parser.parse_args(arguments).list
    with tempfile.TemporaryDirectory() as folder:
        controller = Controller(_Sink(), hostname="127.0.0.1", port=_free_port())
        controller.start()
        try:
            configure(Path(folder), controller.port)
            for step in steps():
                show(step.name, measure(step), shows)
        finally:
            controller.stop()


def measure(step: Step) -> Walk:
    """Walk twice, and count the second time: by then, caches are filled and modules imported."""
    step.before()
    step.walk()
    step.before()
    with counted(step.until) as walk:
        step.walk()
    return walk


def show(name: str, walk: Walk, shows: bool) -> None:
    print(f"{name}: {len(walk.calls)} functions in {len(walk.files)} files")
    for code in walk.calls if shows else ():
        print(f"    {Path(code.co_filename).relative_to(PACKAGE)}:{code.co_firstlineno} {code.co_qualname}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class _Sink:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        return "250 2.0.0 Ok"


if __name__ == "__main__":
    main(sys.argv[1:])
