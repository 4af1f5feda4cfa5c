"""The demo: invitations from the web form through the mail queue to an SMTP server, all in a temporary folder.

    python demo/run.py [--layer database|redis] [--addresses 500] [--deadline 120] [--patience 30]

Starts an SMTP server, Daphne and a worker (with ``--layer redis``: a Valkey, and two worker processes), logs in,
submits the form for one invitation and the form for many, watches the mail arrive, accepts one invitation by the
link in its mail, stops everything, and counts. Each invitation is a message, whose consumer queues an email, which is
another message. Exits 0 only when every mail arrived exactly once, the queue says so, too, the acceptance is in the
database and the processes exited 0.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the folder that holds the package "demo"

from demo.browser import Browser, BrowserError  # noqa: E402
from demo.processes import Processes, ProcessFailed, free_port  # noqa: E402
from demo.progress import Progress  # noqa: E402
from demo.report import Report  # noqa: E402
from demo.smtp import Mailbox, MailServer  # noqa: E402
from demo.valkey import Valkey, ValkeyMissing  # noqa: E402

MANAGE = [sys.executable, "demo/manage.py"]
DAPHNE = [sys.executable, "-m", "daphne", "--bind", "127.0.0.1"]
APPLICATION = "demo.asgi:application"
USER = "demo"
FIRST_GUEST = "guest-0000@example.com"
LOOK_SECONDS = 0.2
INVITED = "SELECT email FROM mailrail_invitations_invitation"


class Demo:
    """One run, in a folder of its own."""

    def __init__(
        self, folder: Path, processes: Processes, server: MailServer, options: argparse.Namespace
    ) -> None:
        self._database = folder / "demo.sqlite3"
        self._processes = processes
        self._mailbox: Mailbox = server.mailbox
        self._options = options
        self._versions = {"SQLite": sqlite3.sqlite_version}
        self._deadline: float = time.monotonic() + options.deadline
        self._valkey = Valkey(folder) if options.layer == "redis" else None
        self._password = secrets.token_urlsafe(9)  # for this site, which nobody else reaches, while it runs
        self._port = str(free_port())
        self._site = f"http://127.0.0.1:{self._port}"
        self._environment = {
            "DJANGO_SETTINGS_MODULE": "demo.settings",
            "DJANGO_SUPERUSER_PASSWORD": self._password,
            "DEBUG": "",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DATABASE_URL": f"sqlite:///{self._database}",
            "EMAIL_URL": f"smtp://127.0.0.1:{server.port}",
            "BASE_URL": self._site,
            "REDIS_URL": self._valkey.url if self._valkey else "",
        }

    def run(self) -> Report:
        """Do everything, and report."""
        browser = self.start()
        say("Logging in, and submitting the forms")
        browser.submit("/login/", username=USER, password=self._password)
        self._processes.wait_until("worker", self.workers, self.left())
        submitted = invite(browser, self._options.addresses)
        self.watch(len(submitted))
        should_accept = accept_first(browser, self._mailbox)
        say("Stopping")
        self._processes.stop()
        return Report(
            submitted,
            self._mailbox.received(),
            self._processes.exit_codes,
            self.rows(f"{INVITED} WHERE accepted_at IS NOT NULL"),
            should_accept,
            len(self.rows(f"{INVITED} WHERE sent IS NOT NULL")),
            self.rows("SELECT status FROM mailrail_mail_email"),
            self._versions,
        )

    def start(self) -> Browser:
        """Set up the database, start Daphne and the worker, and return a browser for the site."""
        say("Setting up the database")
        self.manage("migrate", "-v0")
        self.manage("createsuperuser", "--noinput", "--username", USER, "--email", "demo@example.com")
        if self._valkey:
            say("Starting Valkey")
            self._processes.start("valkey", self._valkey.command, {}, last_to_stop=True)
            self._versions["Valkey"] = self._processes.wait_until("valkey", self._valkey.version, self.left())
        say(f"Starting Daphne and {'two worker processes' if self._valkey else 'a worker'}")
        self._processes.start("daphne", [*DAPHNE, "--port", self._port, APPLICATION], self._environment)
        self._processes.wait_for_line("daphne", "Listening on TCP address", self.left())
        print(f"  Is it well? {self._site}/live/ shows it while this runs:")
        print(f"  log in as {USER}, with the password {self._password}", flush=True)
        number = ["--processes", "2"] if self._valkey else []
        self._processes.start("worker", [*MANAGE, "runworker", "-v2", *number], self._environment)
        return Browser(self._site)

    def manage(self, command: str, *arguments: str) -> None:
        self._processes.run(command, [*MANAGE, command, *arguments], self._environment, self.left())

    def workers(self) -> list[str]:
        """Return the worker processes that have given a sign of life, if that is all of them."""
        if not self._valkey:
            return self.rows("SELECT id FROM mailrail_worker")
        output = self._processes.output(
            "channels", [*MANAGE, "channels", "--json", "workers"], self._environment
        )
        ids = [str(worker["id"]) for worker in json.loads(output)]
        return ids if len(ids) == 2 else []

    def watch(self, wanted: int) -> None:
        """Show the mail arriving, until all of it is there, none came for too long, or the deadline has come."""
        progress = Progress("mail accepted", wanted)
        arrived, give_up = 0, 0.0
        while arrived < wanted:
            before, arrived = arrived, self._mailbox.wait_for(wanted, LOOK_SECONDS)
            now = time.monotonic()
            if arrived > before or not give_up:
                give_up = min(now + self._options.patience, self._deadline)
            progress.show(arrived)
            self._processes.check()
            if now > give_up:
                break
        progress.end()

    def left(self) -> float:
        """Seconds until the deadline; not negative."""
        return max(0.0, self._deadline - time.monotonic())

    def rows(self, query: str) -> list[str]:
        """Return the first column of what the database holds."""
        with closing(sqlite3.connect(self._database)) as database:
            return [first for (first,) in database.execute(query)]


def invite(browser: Browser, addresses: int) -> dict[str, float]:
    """Submit the form for one and the form for many; return when each address was submitted."""
    submitted = {FIRST_GUEST: time.monotonic()}
    browser.submit("/invites/new/", email=FIRST_GUEST)
    many = [f"guest-{number:04}@example.com" for number in range(1, addresses + 1)]
    submitted.update(dict.fromkeys(many, time.monotonic()))
    preview = browser.submit("/invites/bulk/", addresses="\r\n".join(many))
    browser.submit(preview.url)
    return submitted


def accept_first(browser: Browser, mailbox: Mailbox) -> list[str]:
    """Accept the invitation in the mail that arrived first, by its link; return who that was, if any."""
    mails = mailbox.received()
    if not mails:
        return []
    mail = mails[0]
    say(f"Accepting the invitation of {mail.recipient} by the link in the mail")
    link = re.search(r"http://\S+/invites/accept/\S+/", mail.text)
    if not link:
        raise BrowserError(f"The mail to {mail.recipient} has no link in it: {mail.text!r}")
    browser_of_the_guest = Browser(browser.site)
    page = browser_of_the_guest.submit(link[0])
    if "was accepted" not in page.text:
        raise BrowserError(f"{page.url} does not say that the invitation was accepted.")
    return [mail.recipient]


def say(step: str) -> None:
    print(f"  {step} …", flush=True)


def show(options: argparse.Namespace, folder: Path) -> list[str]:
    """Run the demo in this folder, print its table, and return what went wrong."""
    with MailServer(options.refuse) as server, Processes(folder, ROOT) as processes:
        try:
            report = Demo(folder, processes, server, options).run()
            print(report.table())
            problems = report.problems()
        except (BrowserError, ProcessFailed, ValkeyMissing) as error:
            processes.stop()
            problems = [str(error)]
        if problems:
            print(processes.tails(), file=sys.stderr)
    return problems


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Invitations from the web form to an SMTP server.")
    add = parser.add_argument
    add(
        "--layer",
        choices=["database", "redis"],
        default="database",
        help="what carries messages (default: database)",
    )
    add("--addresses", type=int, default=500, help="addresses in the bulk form (default: 500)")
    add("--deadline", type=float, default=120, help="seconds everything may take (default: 120)")
    add("--patience", type=float, default=30, help="seconds without a mail before giving up (default: 30)")
    refuse = "an address that the SMTP server refuses, to see the demo fail"
    add("--refuse", action="append", default=[], metavar="ADDRESS", help=refuse)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return its exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    print("Mailrail: invitations by email, in the background")
    try:
        with tempfile.TemporaryDirectory(prefix="mailrail-demo-") as folder:
            problems = show(options, Path(folder))
    except KeyboardInterrupt:
        print("\nInterrupted; everything is stopped.", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"  ✗ {problem}", file=sys.stderr)
    if not problems:
        print("  ✓ every mail arrived exactly once")
    return 1 if problems else 0


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
