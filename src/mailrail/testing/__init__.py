"""Test consumers: list sent messages, run them, and move time forward.

    def test_invite(self):
        form.save()
        assert [m.content for m in sent("send-invite")] == [{"id": 1}]
        drain()
        assert len(mail.outbox) == 1

    @mail_queue()  # with "mailrail.mail": Django's mail is queued, as it is outside tests
    def test_reset(self):
        self.client.post("/password_reset/", {"email": "ada@example.com"})
        assert_queued(to="ada@example.com")
        [message] = deliver()

Everything runs on the calling thread and in its transaction, so it works inside ``TestCase``. There, some sends wait
for a commit that never comes; these count as sent.
"""

from __future__ import annotations

from .clock import advance
from .enqueued import eager_tasks, tasks
from .mail import assert_queued, deliver, mail_queue, queued_emails
from .messages import Ran, drain, sent

__all__ = [
    "Ran",
    "advance",
    "assert_queued",
    "deliver",
    "drain",
    "eager_tasks",
    "mail_queue",
    "queued_emails",
    "sent",
    "tasks",
]
