"""``manage.py mailq``: how the mail queue stands."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, router
from django.utils import timezone

from mailrail.errors import InvalidSettings
from mailrail.mail import health
from mailrail.mail.mailers.config import alias_of, delivering
from mailrail.mail.mailers.refused_senders import refused_senders
from mailrail.mail.management.checking import add_check, check, is_check
from mailrail.mail.models import NOT_FOR_ALL, Email, MailerState, RefusedSender, Status
from mailrail.mail.records import overview
from mailrail.moments import for_machines, for_people, seconds_between
from mailrail.piping import PipedCommand
from mailrail.terminal import as_json, single_line

MAX_REASONS = 10
"""Reasons why email is deferred that are printed."""


class Command(PipedCommand):
    help = "Show waiting email and why it is deferred, what has ended, which mailers are paused, and what failed last."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        add_check(parser, "Fail if an email has been due for too long.")
        parser.add_argument("--status", choices=Status.values, help="Only emails of this status.")
        parser.add_argument("--mailer", help="Only emails of this mailer (an alias in MAILERS).")

    def handle(self, *args: Any, **options: Any) -> None:
        using = router.db_for_read(Email) or DEFAULT_DB_ALIAS
        status, mailer = options["status"], options["mailer"]
        mailer = None if mailer is None else alias_of(mailer)
        if is_check(options):
            if options["json"] or status is not None or mailer is not None:
                raise CommandError(
                    "--check looks at all email: give it without --json, --status and --mailer."
                )
            self.stdout.write(check(health.mail_in_time, options))
            return
        report = self._report(using, status, mailer)
        if mailer is not None and not any(report.values()):
            _check_mailer(mailer)
        if options["json"]:
            self.stdout.write(as_json(report, for_machines))
        else:
            self._print(report, is_all=status is None and mailer is None)

    def _report(self, using: str, status: str | None, mailer: str | None) -> dict[str, list[dict[str, Any]]]:
        queued, failed = status in (None, Status.QUEUED), status in (None, *NOT_FOR_ALL)
        return {
            "waiting": [asdict(entry) for entry in overview.waiting(using, status, mailer)],
            # nobody can tell those of one mailer without reading them all
            "ended": [] if mailer is not None else _ended(using, status),
            "mailers": [_state_facts(state) for state in overview.states(using, mailer)],
            "refused_senders": [_refused(row) for row in refused_senders(using, mailer)],
            "deferrals": [asdict(entry) for entry in overview.deferrals(using, mailer)] if queued else [],
            "failures": [asdict(entry) for entry in overview.failures(using, mailer, status=status)]
            if failed
            else [],
        }

    def _print(self, report: dict[str, list[dict[str, Any]]], *, is_all: bool) -> None:
        head = ("status", "mailer", "emails", "due", "deferred", "later", "oldest due")
        self.print_table(
            head,
            [_row(entry) for entry in report["waiting"]],
            "The queue is empty." if is_all else "No such email is waiting.",
        )
        if report["ended"]:
            counts = (
                f"{entry['status']} {_count(entry['count'], entry['more'])}" for entry in report["ended"]
            )
            self.stdout.write(f"\nEnded: {', '.join(counts)}.")
        for entry in report["mailers"]:
            self.stdout.write("")
            probe = f", next try {_until(entry['next_try'])}" if entry["next_try"] else ""
            person = f" ({entry['person']})" if entry["person"] else ""
            self._say(
                f"Mailer {entry['mailer'] or 'default'} is paused by {entry['paused_by'] or 'nobody'}{person} since "
                f"{for_people(entry['since'])}{probe}: {entry['reason'] or 'no reason given'}"
            )
        for entry in report["refused_senders"]:
            name, sender = entry["mailer"] or "default", entry["sender"] or "<>"
            self.stdout.write("")
            self._say(
                f"Mailer {name} holds mail from {sender} since {for_people(entry['since'])}, as its server refuses "
                f"that sender: {entry['reason']}"
            )
            self._say(f"To allow the sender: manage.py mailers allow {name} '{entry['sender']}'")
        self._print_deferrals(report["deferrals"])
        self._print_failures(report["failures"])

    def _print_deferrals(self, deferrals: list[dict[str, Any]]) -> None:
        if deferrals:
            self.stdout.write("\nDeferred, by reason:")
        for entry in deferrals[:MAX_REASONS]:
            name = entry["mailer"] or "default"
            next_try = _until(entry["next_try"])
            self._say(f"{entry['count']:,} of mailer {name}, next try {next_try}: {entry['summary'][:200]}")
        if (others := len(deferrals) - MAX_REASONS) > 0:
            self.stdout.write(f"… and {others:,} other reasons: --json has them all.")

    def _print_failures(self, failures: list[dict[str, Any]]) -> None:
        if failures:
            self.stdout.write("\nFailed last:")
        for entry in failures:
            to = ", ".join(entry["recipients"])[:60]
            have_it = f" ({_share(entry['sent'], len(entry['recipients']))})" if entry["sent"] else ""
            self._say(f"{for_people(entry['at'])}  {entry['id']}  {to}{have_it}  {entry['summary'][:200]}")

    def _say(self, text: str) -> None:
        """Write one line, whatever others have said."""
        self.stdout.write(single_line(text))


def _share(sent: int, failed: int) -> str:
    return f"{sent:,} of {sent + failed:,} have it"


def _check_mailer(mailer: str) -> None:
    """Refuse a name that is spelt wrong: "No such email is waiting." would be believed."""
    try:
        known = [name or "default" for name in delivering()]
    except InvalidSettings as error:
        raise CommandError(single_line(str(error))) from None
    if (mailer or "default") not in known:
        raise CommandError(
            f"No setting defines a mailer {mailer!r}, and nothing of it waits or has failed. There are: "
            f"{', '.join(known) or 'none'}."
        )


def _row(waiting: dict[str, Any]) -> tuple[str, ...]:
    numbers = (f"{waiting[name]:,}" for name in ("due", "deferred", "later"))
    count = _count(waiting["count"], waiting["more"])
    return (waiting["status"], waiting["mailer"] or "default", count, *numbers, _age(waiting["oldest"]))


def _ended(using: str, status: str | None) -> list[dict[str, Any]]:
    counts = overview.ended(using, status)
    return [{"status": name, "count": count, "more": more} for name, (count, more) in counts.items()]


def _refused(row: RefusedSender) -> dict[str, Any]:
    return {"mailer": row.mailer, "sender": row.sender, "reason": row.reason, "since": row.since}


def _state_facts(state: MailerState) -> dict[str, Any]:
    return {
        "mailer": state.mailer,
        "paused_by": state.paused_by,
        "person": state.person,
        "reason": state.reason,
        "since": state.since,
        "next_try": state.probe_at,
        "tries": state.probes,
    }


def _count(count: int, more: bool) -> str:
    return f"{count:,}{'+' if more else ''}"


def _age(moment: datetime | None) -> str:
    return "-" if moment is None else f"{max(0, seconds_between(moment, timezone.now())):,.0f} s"


def _until(moment: datetime) -> str:
    return f"in {max(0, seconds_between(timezone.now(), moment)):,.0f} s"
