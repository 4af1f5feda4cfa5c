"""Declare the signals of invitations. ``sender`` is the model, ``invitation`` the record.

``invitation_sent``
    it was handed to the mailer. An exception of a receiver is only logged, because the mail is sent.
``invitation_accepted``
    ``user``: who accepted it, or ``None`` (an open link). In the transaction of the acceptance: do here what the
    invitation is for. An exception of a receiver rolls the acceptance back.
``invitation_revoked``
    its link no longer works. Sent in the transaction, likewise.
"""

from __future__ import annotations

from django.dispatch import Signal

invitation_sent = Signal()
invitation_accepted = Signal()
invitation_revoked = Signal()
