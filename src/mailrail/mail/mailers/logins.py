"""One login before all others: a server is told a wrong password once, and not by every connection of every worker.

Servers and programs such as fail2ban lock out an account or an address after a few refused logins. So one worker of all
tries a login that nobody has proven, over one connection, and the others wait for what comes of it. A process that has
logged in asks no more. Where none of its connections is open, it opens one before the others.
"""

from __future__ import annotations

import os
from datetime import timedelta

from django.core.mail.backends import smtp as djangos
from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from ..models import MailerLogin

LEASE_DURATION = timedelta(seconds=60)
"""For which others wait for the worker that logs in; then another one may."""
MAX_LOGIN_AGE = timedelta(minutes=10)
"""For which a process that starts believes the login of another one. A password may have been changed since."""

_proven: set[tuple[str, str]] = set()
"""Mailers and logins by which this process has logged in."""


def key_of(backend: BaseEmailBackend) -> str:
    """Return what stands for the server and the login of a backend; nothing, where nobody logs in.

    It tells nothing of the password to whoever reads it without SECRET_KEY.
    """
    if not isinstance(backend, djangos.EmailBackend) or not backend.username:
        return ""
    credentials = (
        backend.host,
        backend.port,
        backend.username,
        backend.password,
        backend.use_tls,
        backend.use_ssl,
    )
    return salted_hmac("mailrail.mail.logins", repr(credentials), algorithm="sha256").hexdigest()


class Login:
    """The login of one mailer, as one batch sees it. ``key``: of ``key_of``. Without one, all of it does nothing."""

    def __init__(self, mailer: str, key: str, using: str) -> None:
        self._mailer = mailer
        self.key = key
        self._using = using
        self.is_first = False
        """Does this batch try for all?"""

    @property
    def _rows(self) -> QuerySet[MailerLogin]:
        return MailerLogin.objects.using(self._using).filter(pk=self._mailer)

    def may_begin(self) -> bool:
        """Tell whether this batch may log in: the login is proven, or this batch is the one that tries."""
        if not self.key or (self._mailer, self.key) in _proven:
            return True
        now = timezone.now()
        row, self.is_first = MailerLogin.objects.using(self._using).get_or_create(
            mailer=self._mailer, defaults={"key": self.key, "until": now + LEASE_DURATION}
        )
        if self.is_first:
            return True
        accepted_at = row.accepted_at if row.key == self.key else None
        if accepted_at is not None and now - accepted_at < MAX_LOGIN_AGE:
            return True
        # Of two that see the same row, the second one finds it changed.
        is_free = Q(until__lte=now) | ~Q(key=self.key)
        taken = self._rows.filter(is_free, key=row.key, until=row.until)
        self.is_first = bool(taken.update(key=self.key, accepted_at=None, until=now + LEASE_DURATION))
        return self.is_first

    def accepted(self) -> None:
        """Note that the server has accepted the login: others may begin."""
        if self.key and (self._mailer, self.key) not in _proven:
            _proven.add((self._mailer, self.key))
            self._rows.filter(key=self.key).update(accepted_at=timezone.now())
            self.is_first = False

    def refused(self) -> None:
        """Note that the server has refused the login: it has to be proven again."""
        if self.key:
            _proven.discard((self._mailer, self.key))
            self._rows.filter(key=self.key).update(accepted_at=None)

    def give_back(self) -> None:
        """Let another batch try, if this one has not come to an answer."""
        if self.is_first:
            self._rows.filter(key=self.key, accepted_at=None).update(until=timezone.now())
            self.is_first = False


def forget() -> None:
    """Drop what this process believes; for tests, and for a forked child, whose connections are not its parent's."""
    _proven.clear()


os.register_at_fork(after_in_child=forget)
