"""``manage.py prunemail``: removes what is old, or what an address left, from the records of email."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import router

from mailrail.addresses import bare
from mailrail.conf import settings
from mailrail.errors import InvalidSettings
from mailrail.mail.models import Email
from mailrail.mail.queueing import files
from mailrail.mail.records import erasure, retention
from mailrail.moments import from_now
from mailrail.options import days_argument
from mailrail.piping import PipedCommand

MIN_AGE_OF_LEFT_BEHIND = timedelta(days=1)
"""Files younger than this may belong to a transaction that has not come to its end."""


class Command(PipedCommand):
    help = (
        "Remove the content and the records of emails that ended long ago, then the files that no email needs. "
        "The defaults are MAILRAIL['MAIL_KEEP_BODIES'] and ['MAIL_KEEP_RECORDS']."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--bodies-after",
            type=days_argument,
            metavar="DAYS",
            help="Remove content, headers and attachments of emails that ended so long ago.",
        )
        parser.add_argument(
            "--records-after",
            type=days_argument,
            metavar="DAYS",
            help="Delete emails that ended so long ago.",
        )
        parser.add_argument("--address", help="Erase this address instead, whatever the age.")
        parser.add_argument(
            "--forget-suppression",
            action="store_true",
            help="With --address: also remove it from the suppression list, where it would stay as a hash.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Only count.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._using = router.db_for_write(Email)
        self._is_dry = options["dry_run"]
        address = options["address"]
        if address is not None:
            if options["bodies_after"] is not None or options["records_after"] is not None:
                raise CommandError("--address erases whatever the age: give it without --…-after.")
            self._erase(_checked(address), options["forget_suppression"])
        elif options["forget_suppression"]:
            raise CommandError("--forget-suppression belongs to --address.")
        else:
            self._prune(*(_checked_days(name, options[name]) for name in ("bodies_after", "records_after")))

    def _prune(self, bodies_after: timedelta | None, records_after: timedelta | None) -> None:
        if bodies_after is None and records_after is None:
            bodies_after, records_after = _of_settings()
        if bodies_after is None and records_after is None:
            raise CommandError(
                "Say how long email is kept: --bodies-after DAYS, --records-after DAYS, or "
                "MAILRAIL['MAIL_KEEP_BODIES'] and MAILRAIL['MAIL_KEEP_RECORDS'] (seconds)."
            )
        if records_after is not None:  # first: what is deleted needs no emptying
            self._prune_records(from_now(-records_after.total_seconds()))
        if bodies_after is not None:
            self._prune_bodies(from_now(-bodies_after.total_seconds()))
        if not self._is_dry:
            self._drop_files(from_now(-MIN_AGE_OF_LEFT_BEHIND.total_seconds()))

    def _prune_records(self, before: datetime) -> None:
        if self._is_dry:
            self._say(f"{retention.ended(before, self._using).count():,} records would be deleted")
        else:
            self._report(retention.prune_records(before, self._using), "records deleted")

    def _prune_bodies(self, before: datetime) -> None:
        if self._is_dry:
            self._say(f"{retention.with_content(before, self._using).count():,} emails would be emptied")
        else:
            self._report(retention.prune_bodies(before, self._using), "emails emptied")

    def _drop_files(self, before: datetime) -> None:
        self._report(files.drop_all_unneeded(self._using), "more files deleted that no email needs")
        try:
            left_behind = files.drop_left_behind(self._using, before)
        except NotImplementedError:
            self.stderr.write(
                f"The storage {settings.mail_storage!r} cannot list its files or tell their age: what transactions "
                "that were rolled back have left there stays."
            )
        else:
            if settings.mail_storage is not None:
                self._say(f"{left_behind:,} files deleted that transactions have left behind")

    def _report(self, chunks: Iterable[int], done_to_them: str) -> None:
        done = 0
        try:
            for count in chunks:
                done += count
        finally:  # also how far it got
            self._say(f"{done:,} {done_to_them}")

    def _erase(self, address: str, forget_suppression: bool) -> None:
        if self._is_dry:
            count = sum(len(page) for page in erasure.find(address, self._using))
            self._say(f"{count:,} emails hold {address}")
            return
        erased = erasure.erase(address, self._using, forget_suppression=forget_suppression)
        self._say(
            f"{erased.deleted:,} emails deleted, {erased.emptied:,} emptied that others got, too, "
            f"{erased.removed:,} that others wait for will not be sent to {address}"
        )
        if erased.left:
            raise CommandError(
                f"{len(erased.left)} emails still hold the address, as they are being sent, or wait to be sent to "
                f"others. Erase it again when they are, or cancel them: {', '.join(map(str, erased.left[:20]))}"
            )

    def _say(self, text: str) -> None:
        self.stdout.write(text)


def _of_settings() -> tuple[timedelta | None, timedelta | None]:
    try:
        kept = settings.mail_keep_bodies, settings.mail_keep_records
        bodies, records = (None if seconds is None else timedelta(seconds=seconds) for seconds in kept)
    except (InvalidSettings, OverflowError) as error:
        raise CommandError(str(error)) from error
    return bodies, records


def _checked_days(name: str, value: Any) -> timedelta | None:
    """Return the time of a number of days or a ``timedelta``: code may give either, as on a command line."""
    if value is None:
        return None
    try:
        return days_argument(str(value / timedelta(days=1) if isinstance(value, timedelta) else value))
    except ArgumentTypeError as error:
        raise CommandError(f"--{name.replace('_', '-')} {error}.") from None


def _checked(address: str) -> str:
    normal_form = bare(address)
    if "@" not in normal_form.strip("@"):
        raise CommandError(f"--address must be an email address, not {address!r}.")
    return normal_form
