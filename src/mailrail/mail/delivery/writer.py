"""The one place that writes outcomes and intents, and then tells the messages and the log."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from uuid import UUID

from django.db import connections

from mailrail.log import logger_of
from mailrail.transient import is_transient

from ..models import Email
from . import outcome_log
from .messages import ClaimedMessages
from .outcomes import Result
from .store import store_outcomes

logger = logger_of("mailrail.mail")

DATABASE_TIMEOUT_S = 20.0
"""Seconds in which outcomes that are known wait for a database that is away: each one that is lost is a second copy."""


class OutcomeWriter:
    """Write what became of the emails of one batch."""

    def __init__(self, messages: ClaimedMessages, using: str) -> None:
        self._messages = messages
        self._using = using

    def write(
        self,
        results: list[Result],
        intents: Collection[Email] = (),
        note: Callable[[Sequence[Result]], None] | None = None,
    ) -> set[UUID]:
        """Commit outcomes and intents, settle the messages, and return the ids of all that were written.

        ``results`` is emptied by the commit. So a call that raised can be repeated, and repeats nothing. ``note`` is
        told what was saved.
        """
        if not results and not intents:
            return set()
        written = store_outcomes(results, intents, self._using)
        known = [*results]
        results.clear()
        if len(written.saved) < len(known):
            self.changed(result.email for result in known if result.email.id not in written.saved)
            known = [result for result in known if result.email.id in written.saved]
        self._settle(known)
        if note is not None:
            note(known)
        return written.saved | written.claimed

    def patiently(self, write: Callable[[], object]) -> None:
        """Write outcomes that are known, and wait for a database that is being restarted."""
        until, is_logged = time.monotonic() + DATABASE_TIMEOUT_S, False
        while True:
            try:
                write()
                return
            except Exception as error:
                if not is_transient(error) or time.monotonic() > until or not self.reconnects():
                    raise
                if not is_logged:
                    logger.warning("outcomes of emails wait for the database: %s", error)
                is_logged = True
                time.sleep(0.2)

    def reconnects(self) -> bool:
        """Close the connection, so that the next query opens a new one. Not inside a caller's transaction, as in a
        test: that one is over."""
        connection = connections[self._using]
        if connection.in_atomic_block:
            return False
        connection.close()
        return True

    def changed(self, emails: Iterable[Email]) -> None:
        """Release emails that were changed meanwhile: by a person, or by another worker whose message this one has
        become."""
        for email in emails:
            logger.info("email %s was changed while it was about to be sent", email.pk)
            self._messages.release(email.pk, random.uniform(0, 1), "it was changed meanwhile")

    def _settle(self, results: Sequence[Result]) -> None:
        """Settle the messages of results that are committed. What a mailer that is out has turned away waits for
        another one, and a part for the rest of its email."""
        ended = [result for result in results if not result.mailer_out and not result.is_part]
        for result in ended:
            if result.again is None:
                self._messages.finish_soon(result.email.id)
            else:
                self._messages.release(result.email.id, result.again, "it is sent later")
        outcome_log.log(ended)
        self._messages.finish_if_due()
