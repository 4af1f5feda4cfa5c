"""The claimed messages of one batch, and what the layer is told about each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from mailrail import MailrailError
from mailrail.backoff import chance
from mailrail.log import logger_of
from mailrail.worker import IncomingMessage, finish_all

from ..models import Email
from .outcomes import Result
from .retries import MAX_UNFORESEEN_ATTEMPTS, delay_after

logger = logger_of("mailrail.mail")

FINISH_INTERVAL_S = 1.0
"""Seconds between two settlements of messages whose emails are final, while other emails of the batch go on. The last
messages end with the batch. Each settlement is a call to the layer, which costs as much as several emails. A crash in
between loses nothing: the records say what became of the emails."""


class ClaimedMessages:
    """Settle the messages of a batch, each by the id of its email, and each once."""

    def __init__(self, messages: Sequence[IncomingMessage]) -> None:
        self._all = messages
        self._of: dict[int, IncomingMessage] = {}  # by the number of an id: to hash a UUID is Python
        self._final: list[IncomingMessage] = []  # to be finished
        self._not_before: dict[UUID, float] = {}  # seconds
        self._finished_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, id: UUID) -> IncomingMessage:
        return self._of[id.int]

    def deduplicate(self) -> list[UUID]:
        """Return the ids of the emails, each once. Messages that name none, or are void, are finished."""
        ids = []
        for message in self._all:
            id = id_of(message.content)
            if id is None:
                logger.warning("%r names no email: %r", message, message.content)
                _say(message, message.finish)
                continue
            twin = self._of.setdefault(id.int, message)
            if twin is message:
                ids.append(id)
            else:  # the later one's record is committed, and makes the other one void
                older, self._of[id.int] = sorted(
                    (twin, message), key=lambda claimed: dispatch_of(claimed.content)
                )
                _say(older, older.finish)
        return ids

    def undecided(self, ids: Iterable[UUID]) -> list[UUID]:
        """Return those whose message is neither settled nor about to be finished."""
        final = {id(message) for message in self._final}
        return [
            email_id
            for email_id in ids
            if self._of[email_id.int].outcome is None and id(self._of[email_id.int]) not in final
        ]

    def finish(self, id: UUID) -> None:
        _say(self[id], self[id].finish)

    def settle(self, results: Iterable[Result]) -> None:
        """Settle the messages of results that are committed and logged: those of final emails together, when due."""
        for result in results:
            if result.again is None:
                self._final.append(self._of[result.email.id.int])
            else:
                self.release(result.email.id, result.again, "it is sent later")
        if time.monotonic() - self._finished_at >= FINISH_INTERVAL_S:
            self.finish_final()

    def finish_final(self) -> None:
        finish_all(self._final, is_logged=True)
        self._final.clear()
        self._finished_at = time.monotonic()

    def release(self, id: UUID, delay: float, reason: str) -> None:
        _release(self[id], delay, reason)

    def release_all(self, emails: Iterable[Email], delay: float, reason: str) -> None:
        """Release the messages of these together, and none before its own time."""
        delay *= chance.uniform(1, 1.1)  # the same for all: one statement releases them
        for email in emails:
            self.release(email.pk, max(delay, self._not_before.get(email.pk, 0.0)), reason)

    def keep_until(self, id: UUID, delay: float) -> None:
        """Note the seconds before which ``release_all`` may not give the message back."""
        self._not_before[id] = delay

    def settle_by_itself(self, id: UUID, error: Exception) -> None:
        """Retry or bury a message by its own attempts, where the record cannot be used. A dead one's record is held."""
        message, error_text = self[id], "".join(traceback.format_exception(error))
        if message.attempt < MAX_UNFORESEEN_ATTEMPTS:
            _say(message, lambda: message.retry(delay_after(message.attempt), error_text))
        else:
            _say(message, lambda: message.bury(error_text))

    def close(self, delay: float) -> None:
        """Finish what is final, and release the rest: returning would finish them."""
        self.finish_final()
        for message in self._all:
            if message.outcome is None:
                _release(message, delay, "it could not leave yet")


def _release(message: IncomingMessage, delay: float, reason: str) -> None:
    _say(message, lambda: message.release(delay, reason, is_logged=True))


def _say(message: IncomingMessage, settle: Callable[[], None]) -> None:
    """Settle a message, unless it is settled already: by us, or by a worker that had to stop."""
    if message.outcome is None:
        try:
            settle()
        except MailrailError:
            pass  # in that very moment


def dispatch_of(content: Mapping[str, object]) -> int:
    dispatch = content.get("dispatch", 0)
    return dispatch if isinstance(dispatch, int) else 0


def id_of(content: Mapping[str, object]) -> UUID | None:
    try:
        return UUID(str(content.get("id")))
    except ValueError:
        return None
