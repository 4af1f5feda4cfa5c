"""A record whose message is dead does not wait for ever: whatever happens around the burial, it is held in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail

from mailrail import Channel
from mailrail.layers import get_layer
from mailrail.mail import queue, unhold
from mailrail.mail.consumers import MAX_LOSSES, hold_what_was_buried
from mailrail.mail.models import Email, Status
from mailrail.mail.queueing.accept import content_for
from mailrail.messages import Message
from mailrail.reconciliation import reconcilers
from mailrail.routing import Routing
from mailrail.signals import message_buried
from mailrail.tracebacks import first_line

from ..listed import dead_on, waiting_on
from ..processes import Ledger, Manage, WorkerProcess, until
from .conftest import CHANNEL, messages, work

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture
def nobody_holds() -> Iterator[None]:
    """As if the process had died right after each burial."""
    message_buried.disconnect(hold_what_was_buried, dispatch_uid="mailrail.mail.buried")
    yield
    message_buried.connect(hold_what_was_buried, dispatch_uid="mailrail.mail.buried")


DEFAULT = "mailrail.mail.default"
"""Where email waits in the settings of these tests themselves."""


def lose(channel: str = CHANNEL, times: int = MAX_LOSSES) -> None:
    """Workers die over all messages that wait."""
    layer = get_layer()
    if layer.outbox:
        layer.outbox.relay()
    for _ in range(times):
        layer.renew(layer.claim("dying", {channel: 100}, 60.0).claims, 0.0)


def reconcile() -> None:
    Routing.of_layer()
    for each in reconcilers(get_layer()):
        if each.channel == "mailrail.mail.*":
            each.run()


def statuses() -> list[str]:
    return [each.status for each in Email.objects.order_by("pk")]


@pytest.mark.usefixtures("each_layer", "nobody_holds")
class TestReconciliationHolds:
    def test_what_was_buried_and_not_held(self) -> None:
        email, other = [queue(each) for each in messages(2)]
        Email.objects.filter(pk=other.pk).update(status=Status.SENDING)
        lose()
        work()
        assert statuses() == ["queued", "sending"] and len(dead_on(get_layer(), CHANNEL)) == 2
        reconcile()
        assert statuses() == ["held", "held"]
        email.refresh_from_db()
        assert email.events[-1]["what"] == "held: its message was buried" and email.events[-1]["why"]
        assert unhold(email).done == [email.pk]
        reconcile()  # the message that is dead is not the one that it has now
        assert statuses() == ["queued", "held"]
        lose(times=0)
        work()
        assert [str(each.subject) for each in mail.outbox] == ["Number 0"]

    def test_what_has_ended_and_what_has_a_message_again_is_left_alone(self) -> None:
        ended, again = [queue(each) for each in messages(2)]
        lose()
        work()
        Email.objects.filter(pk=ended.pk).update(status=Status.SENT)
        Channel(CHANNEL).send({"id": str(again.pk)}, unique=True)
        lose(times=0)
        reconcile()
        assert statuses() == ["sent", "queued"]

    def test_dead_messages_of_other_hands_change_nothing(self) -> None:
        email = queue(messages(1)[0])
        layer = get_layer()
        lose(times=0)
        get_layer().cancel(CHANNEL, [each.id for each in waiting_on(layer, CHANNEL)])
        odd: list[dict[str, Any]] = [
            {"id": "nothing"},
            {},
            {"id": [1]},
            {"id": str(uuid4()), "dispatch": "x"},
        ]
        layer.enqueue([Message(CHANNEL, each) for each in [*odd, {"id": str(email.pk)}]])
        for claim in layer.claim("w", {CHANNEL: 9}, 60.0).claims:
            layer.bury(claim, "boom \0")
        Email.objects.update(events={"not": "a list"})
        reconcile()
        email.refresh_from_db()
        assert email.status == Status.HELD and len(email.events) == 1


SETTINGS = """
import os, signal
from pathlib import Path
from mailrail.signals import message_buried

def killed(**facts):
    Path({once!r}).touch()
    os.kill(os.getpid(), signal.SIGKILL)

message_buried.connect(killed, weak=False)  # before the mail queue's own
MAILRAIL |= {{"LEASE": 1.0, "RECONCILE_EVERY": 1.0}}
CHANNEL_LAYERS = {layers!r}
"""


def test_a_worker_that_is_killed_between_burying_and_holding(settings: Any, tmp_path: Path) -> None:
    layers = {"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
    settings.CHANNEL_LAYERS = layers
    queue(messages(1)[0])
    lose(DEFAULT)
    ledger, once = Ledger(tmp_path / "ledger"), tmp_path / "once"
    manage = Manage(ledger)
    manage.use_settings(tmp_path, SETTINGS.format(once=str(once), layers=layers))
    worker = WorkerProcess(ledger, env=manage.environment)
    try:
        until(lambda: statuses() == [Status.HELD], what="the end")
    except BaseException:
        print(worker.log)
        raise
    finally:
        worker.kill_all()
    assert once.exists() and len(dead_on(get_layer(), DEFAULT)) == 1


def test_the_record_of_a_buried_message_keeps_what_raised_and_not_the_way_there() -> None:
    """An error of Django's, with the many frames that lead to it."""
    email = queue(next(iter(messages(1))))
    frames = "".join(f'  File "a.py", line {n}, in run\n    run()\n' for n in range(200))
    error = f"Traceback (most recent call last):\n{frames}OSError: gone\nIs it there?\n"
    buried: Any = Message(CHANNEL, content_for(email.pk, email.dispatch))
    hold_what_was_buried(sender=CHANNEL, message=buried, error=error)
    email.refresh_from_db()
    why = email.events[-1]["why"]
    assert why.endswith("OSError: gone\nIs it there?\n") and first_line(why) == "OSError: gone"
