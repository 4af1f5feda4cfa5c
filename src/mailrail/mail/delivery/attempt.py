"""One mailer's attempt at some emails of a batch: what it may use, and what it learns of the mailer on the way."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from uuid import UUID

from ..mailers import circuit, throttle
from ..mailers.logins import Login
from ..mailers.refused_senders import RefusedSenders
from ..mailers.throttle import Admission
from ..models import Email, Status
from ..smtp import SmtpError
from ..smtp.errors import AuthenticationRefused
from .answers import asks_for_less
from .messages import ClaimedMessages
from .outcomes import Result
from .writer import OutcomeWriter

ACCEPTED = {Status.SENT, Status.PARTIAL}
"""The server has accepted it, for some recipients at least."""
MIN_PACE_PER_S = 10.0
"""Emails a second, half of which remain at first of a mailer that sends few and is asked for less."""


class Attempt:
    """Hold what an attempt knows. Its transport writes by ``write``, which learns from each outcome.

    ``is_probe``: one tries the mailer for all, as it was out. ``is_alone``: it shares no connection with other batches.
    ``answered``: the server has decided over an email. ``broke``: how a connection did, the last time.
    ``turned_away``: emails that the server would not take, as it takes none of this mailer.
    """

    def __init__(
        self, mailer: str, is_probe: bool, messages: ClaimedMessages, writer: OutcomeWriter, using: str
    ) -> None:
        self.mailer = mailer
        self.is_probe = is_probe
        self.is_alone = is_probe
        self.using = using
        self.senders = RefusedSenders(mailer, using)
        self.admission = Admission([])
        self.login: Login | None = None
        self.answered = False
        self.broke = ""
        self.turned_away: list[Email] = []
        self._messages = messages
        self.writer = writer
        self._slow_down: dict[str, str] = {}
        self._ended = 0
        self._begun_at = time.monotonic()

    def write(self, results: list[Result], intents: Collection[Email] = ()) -> set[UUID]:
        """Commit outcomes and intents. Return the ids of those that were changed meanwhile."""
        return self.writer.write(results, intents, self.learn)

    def learn(self, results: Sequence[Result]) -> None:
        """Take in what results that are written say of the mailer."""
        self._ended += len(results)
        for result in results:
            if result.slow_down:
                self._slow_down.update(result.slow_down)
            self.answered, self.broke = self.answered or result.is_answer, result.broke or self.broke
            if result.mailer_out and not result.is_part:
                self.turned_away.append(result.email)
                self._messages.keep_until(result.email.id, result.again or 0.0)
        if self.is_probe and any(result.status in ACCEPTED for result in results):
            circuit.reset(self.mailer, self.using)  # nobody has to wait for the rest of this batch
            self.is_probe = False

    def heard(self, errors: Sequence[SmtpError]) -> None:
        """Apply the replies to connections: a server that refuses connections wants less mail, too."""
        for error in errors:
            if isinstance(error, AuthenticationRefused) and self.login is not None:
                self.login.refused()
            if asks_for_less(error.reply, error.stage, self.mailer):
                self._slow_down[""] = str(error.reply)

    def end(self, left: Sequence[Email], outage: str, stands_in: str) -> str:
        """Write down what the attempt has shown. Return why the mailer is out, if it is.

        ``left``: the emails that were not sent. ``stands_in``: as ``circuit.trip`` takes it.
        """
        self.senders.save()
        if self._slow_down and self._ended:  # a server that took nothing is out, which is more than slow
            self._slow_down_mailer()
        if left:
            self.admission.give_back(left)
        if self.is_probe and self.broke and not self.answered:
            outage = outage or self.broke
        if outage:
            circuit.trip(self.mailer, outage, self.using, stands_in)
        elif self.is_probe:
            (circuit.reset if self.answered else circuit.half_open)(self.mailer, self.using)
        return outage

    def _slow_down_mailer(self) -> None:
        """Slow down as the server asks. A few emails say little of the pace that it bears: the pace has a minimum."""
        pace = max(MIN_PACE_PER_S, self._ended / max(time.monotonic() - self._begun_at, 0.001))
        for domain, reply in self._slow_down.items():
            throttle.slow_down(self.mailer, domain, pace, reply, self.using)

    def give_login_back(self) -> None:
        """Give the login back, last of all: whoever tries it next has to see that the mailer is out, if it is."""
        if self.login is not None:
            self.login.give_back()
            self.login = None
