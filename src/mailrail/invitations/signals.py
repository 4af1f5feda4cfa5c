"""Signals of invitations. ``sender`` is the model, ``invitation`` the record.

``invitation_sent``
    it was handed to the mailer. Only tells: what a receiver raises is logged, for the mail is out.
``invitation_accepted``
    ``user``: who accepted it, or ``None`` (an open link). In the transaction of the acceptance: do here what the
    invitation is for. What a receiver raises takes the acceptance back.
``invitation_revoked``
    its link is dead. In the transaction, likewise.
"""

from __future__ import annotations

from django.dispatch import Signal

invitation_sent = Signal()
invitation_accepted = Signal()
invitation_revoked = Signal()
