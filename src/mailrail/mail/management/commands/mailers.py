"""``manage.py mailers``: the state of the mailers; pausing and resuming them; unholding mail of a refused sender."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router

from mailrail.errors import InvalidSettings
from mailrail.moments import for_people
from mailrail.pauses import os_user
from mailrail.piping import PipedCommand
from mailrail.terminal import counted, single_line

from ... import health
from ...mailers import circuit, throttle
from ...mailers.config import alias_of, backend_of, delivering, policy_of
from ...mailers.refused_senders import allow_sender, refused_senders
from ...models import Email, MailerState, MailerThrottle
from ...records import moving
from ..checking import add_check, check, is_check


class Command(PipedCommand):
    help = (
        "Show the state of the mailers; pause and resume them; unhold mail of a sender that a server has refused; "
        "move mail from one to another."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_check(parser, "Fail if a mailer has been out for too long.")
        verbs = parser.add_subparsers(dest="verb", title="verbs", metavar="{pause,resume,allow,move}")
        pause = verbs.add_parser("pause", help="Stop all mail of a mailer; it waits.")
        pause.add_argument("mailer", help='Its alias; "default" without MAILERS.')
        pause.add_argument("--reason", default="", help="Why it is paused, for others to read.")
        resume = verbs.add_parser("resume", help="End a pause or an outage, and send its mail at once.")
        resume.add_argument("mailer", help="Its alias.")
        allow = verbs.add_parser("allow", help="Unhold the mail that is held because its sender was refused.")
        allow.add_argument("mailer", help="Its alias.")
        allow.add_argument("sender", help="The address; '' for the null sender.")

        move = verbs.add_parser("move", help="Move the waiting mail of a mailer to another one.")
        move.add_argument("old", help="An alias, which may have been removed.")
        move.add_argument("new", help="The alias of the mailer that sends it.")
        move.add_argument(
            "--ambiguous",
            action="store_true",
            help="Also move email that may have been sent: some may get it twice.",
        )

    def handle(
        self, *, verb: str | None, mailer: str = "", reason: str = "", sender: str = "", **options: Any
    ) -> None:
        using = router.db_for_write(Email)
        if is_check(options):
            if verb is not None:
                raise CommandError(f"--check and {verb} do not go together.")
            self.stdout.write(check(health.mailers_out, options))
            return
        if verb is None:
            for alias in delivering():
                self.stdout.write(single_line(f"{alias or 'default'}: {_state_text(alias, using)}"))
            return
        if verb == "move":
            self._move(options["old"], options["new"], options["ambiguous"], using)
            return
        try:
            if verb != "resume" or not MailerState.objects.using(using).filter(pk=alias_of(mailer)).exists():
                backend_of(mailer)
            if verb == "pause":
                circuit.pause(mailer, using, reason, os_user())
            elif verb == "allow":
                self.stdout.write(
                    f"{counted(allow_sender(mailer, sender, using), 'held email')} taken off hold."
                )
            else:
                circuit.resume(mailer, using)
        except (InvalidSettings, ValueError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(single_line(f"{mailer}: {_state_text(alias_of(mailer), using)}"))

    def _move(self, old: str, new: str, ambiguous: bool, using: str) -> None:
        try:
            moved = moving.move(old, new, using, ambiguous=ambiguous)
        except (InvalidSettings, ValueError) as error:
            raise CommandError(single_line(str(error))) from None
        self.stdout.write(f"{counted(moved.moved, 'email')} moved to {new}.")
        if moved.left:
            raise CommandError(
                f"{counted(moved.left, 'email')} not moved from {old}: they may have been sent, and some recipients "
                "could get them twice (--ambiguous moves those that wait), or they are being sent just now."
            )


def _state_text(mailer: str, using: str) -> str:
    state = MailerState.objects.using(using).filter(pk=mailer).first()
    facts = [_working(mailer, using)] if state is None else [_stopped(state)]
    if state is not None and state.paused_by == circuit.OUTAGE and (others := policy_of(mailer).failover):
        facts.append(f"its mail goes by {', '.join(others)}")
    refused = (f"{row.sender or '<>'} ({row.reason})" for row in refused_senders(using, mailer))
    if named := ", ".join(refused):
        facts.append(f"holds mail from {named}")
    return "; ".join(filter(None, facts))


def _stopped(state: MailerState) -> str:
    since = f"since {for_people(state.since)}"
    state_label = "paused" if state.paused_by == circuit.PERSON else "out"
    since += f" by {state.person}" if state.person else ""
    return f"{state_label} {since}" + (f": {state.reason}" if state.reason else "")


def _working(mailer: str, using: str) -> str:
    throttle.slowed(mailer, using)  # credits what has passed since the last look
    slow = MailerThrottle.objects.using(using).filter(mailer=mailer, share__lt=1).order_by("domain")
    facts = [
        f"slowed down to {throttle.pace_of(row):.3g} emails a second{throttle.to(row.domain)}: {row.reason}"
        for row in slow
    ]
    return "; ".join(["works", *facts])
