"""The one place that writes outcomes and intents, and then tells the log, the history and the messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from uuid import UUID

from django.db import connections

from mailrail.backoff import chance
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


Note = Callable[[Sequence[Result]], None]
"""What is told of results that are saved."""


def write_together(
    outcomes: Sequence[tuple[OutcomeWriter, list[Result], Note | None]],
    intents: Collection[Email],
    using: str,
) -> set[UUID]:
    """Commit outcomes of several batches and intents at once. Return the ids of those that were changed meanwhile.

    As ``OutcomeWriter.write`` does, this empties the lists of results.
    """
    results = [result for _, of_batch, _ in outcomes for result in of_batch]
    if not results and not intents:
        return set()
    lost = store_outcomes(results, intents, using)
    known = [(writer, [*of_batch], note) for writer, of_batch, note in outcomes if of_batch]
    for _, of_batch, _ in outcomes:
        of_batch.clear()
    for writer, of_batch, note in known:
        writer.wrote(of_batch, lost, note)
    return lost


class OutcomeWriter:
    """Write what became of the emails of one batch."""

    def __init__(self, messages: ClaimedMessages, using: str) -> None:
        self._messages = messages
        self._using = using

    def write(
        self,
        results: list[Result],
        intents: Collection[Email] = (),
        note: Note | None = None,
    ) -> set[UUID]:
        """Commit outcomes and intents, settle the messages, and return the ids of those that were changed meanwhile.

        ``results`` is emptied by the commit. So a call that raised can be repeated, and repeats nothing. ``note`` is
        told what was saved.
        """
        return write_together([(self, results, note)], intents, self._using)

    def wrote(self, known: Sequence[Result], lost: Collection[UUID], note: Note | None) -> None:
        """Settle the messages of results that were to be stored, the ``lost`` ones among them."""
        if lost:
            self.changed(result.email for result in known if result.email.id in lost)
            known = [result for result in known if result.email.id not in lost]
        # What a mailer that is out has turned away waits for another one, and a part for the rest of its email.
        ended = [result for result in known if not result.mailer_out and not result.is_part]
        outcome_log.log(ended)
        outcome_log.count(ended)
        self._messages.settle(ended)
        if note is not None:
            note(known)

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
            self._messages.release(email.pk, chance.uniform(0, 1), "it was changed meanwhile")
