"""What the history keeps of mailers: how many emails they send, and what goes wrong, by reply and without names."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email
from mailrail.mail.records import flow
from mailrail.mail.smtp.log_recipients import without_details
from mailrail.monitoring import TroubleFacts
from mailrail.monitoring.sample import sample
from mailrail.testing import advance

from ..ports import free_port
from ..smtp_server import ScriptedServer
from .conftest import LOCMEM, MAILER, messages, work

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def _database(on: str, fresh_connections: None) -> None:
    """On each database."""


def history(mailer: str = MAILER) -> Any:
    return get_layer().recent(time.time() - 120).get(("mailer", mailer))


def troubles() -> dict[tuple[str, str], TroubleFacts]:
    found = [trouble for trouble in sample().troubles if trouble.kind == "mailer"]
    return {(trouble.where, trouble.what): trouble for trouble in found}


def test_emails_are_counted_once_by_the_mailer_that_sent_them(queueing: Configure) -> None:
    queueing(0, LOCMEM)
    mail.queue_many(messages(30))
    work()
    row = history()
    assert (row.sent, row.done, row.retried, row.buried) == (30, 30, 0, 0)
    rows = get_layer().history(("mailer", MAILER), time.time() - 120, time.time() + 60)
    assert sum(sum(row.runs) for row in rows) == 30, "how long each took"
    [facts] = [facts for facts in flow.mail_flow() if facts.mailer == MAILER]
    assert facts.sent_per_minute is not None and 15 <= facts.sent_per_minute <= 30 * 60
    assert troubles() == {}


def test_the_mailer_that_stands_in_has_what_it_sends(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    queueing(free_port())
    policy(FAILOVER=["backup"])
    second("backup", 0, LOCMEM)
    mail.queue_many(messages(4))
    work()
    assert (history("backup").done, history()) == (4, None)
    [(where, what)] = troubles()
    assert where == MAILER and what.startswith("# cannot be reached: ")


def test_failures_are_grouped_by_reply_and_name_no_recipient(queueing: Configure) -> None:
    refused = {
        f"to{n}@example.com": f"550 5.1.1 <to{n}@example.com>: to{n} unknown, id=a{n}" for n in range(3)
    } | {"to3@example.com": "450 4.2.1 mailbox busy 17"}
    with ScriptedServer(refused=refused) as server:
        queueing(server.port)
        mail.queue_many(messages(5))
        work()
        first = time.time()
        assert (history().sent, history().done, history().buried, history().retried) == (5, 1, 3, 1)
        found = troubles()
        assert set(found) == {
            (MAILER, "550 5.1.1 <…>: … unknown, #"),
            (MAILER, "450 4.2.1 mailbox busy #"),
        }
        failed = found[MAILER, "550 5.1.1 <…>: … unknown, #"]
        assert (failed.count, failed.buried) == (3, 3)
        assert failed.first_at == pytest.approx(first, abs=10) and failed.last_at >= failed.first_at
        advance(3600)
        work()
        assert (history().sent, history().retried) == (0, 1), "it was new once"
    busy = troubles()[MAILER, "450 4.2.1 mailbox busy #"]
    assert (busy.count, busy.buried) == (2, 0) and busy.last_at > busy.first_at + 3500
    assert Email.objects.filter(status="failed").count() == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 5.1.1 <bob@example.com>: Recipient rejected", "550 5.1.1 <…>: Recipient rejected"),
        (
            "550-5.1.1 No mailbox bob here, see https://example.net/help/550",
            "550-5.1.1 No mailbox … here, see #",
        ),
        ("550 User bobby unknown", "550 User bobby unknown"),
        ("421 4.7.0 Try later, 203.0.113.9 (id q9Xa)", "421 4.7.0 Try later, # (id #)"),
        ("4210 no code", "# no code"),
        ("ConnectionError: smtp1:25 is away", "ConnectionError: # is away"),
        ("", ""),
    ],
)
def test_a_reply_is_grouped_by_what_it_has_in_common_with_others(text: str, shown: str) -> None:
    assert without_details(text, ["bob@example.com", ""]) == shown
