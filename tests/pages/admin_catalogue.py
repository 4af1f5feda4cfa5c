"""Every page of the admin, with records as a real site has them: a function each, which goes there."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils import timezone
from playwright.sync_api import Page

from mailrail import Channel, mail
from mailrail.invitations import invite
from mailrail.invitations.models import Invitation
from mailrail.layers import get_layer
from mailrail.mail import Email
from mailrail.mail.delivery.answers import apply_outcome
from mailrail.mail.delivery.outcomes import fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers import circuit
from mailrail.mail.mailers.config import UNNAMED
from mailrail.mail.mailers.refused_senders import RefusedSenders
from mailrail.mail.models import Suppression
from mailrail.mail.smtp import DeliveryOutcome, Fate
from mailrail.mail.smtp.replies import Reply, Stage
from mailrail.messages import Message
from mailrail.schedule import pause, run_now, schedulable
from mailrail.schedule.models import ScheduleEntry
from mailrail.tasks import BatchRecord, TaskRecord

from ..chromium import Windows
from ..listed import dead_on, waiting_on

GREYLISTED = Reply(
    450, "Recipient address rejected: Greylisted, see https://postgrey.example/help.html", "4.2.0"
)
UNKNOWN = Reply(550, "The email account that you tried to reach does not exist.", "5.1.1")
SPAM = Reply(554, "Message rejected as spam by Content Filtering.", "5.7.1")
FINE = Reply(250, "OK  1764441600 4fb4d7f45d1cf-64750a8f9e5si1234567 - gsmtp", "2.0.0")
EMAILS = "/admin/mailrail_mail/email/"
ENTRIES = "/admin/mailrail_schedule/scheduleentry/"
TASKS = "/admin/mailrail_tasks/taskrecord/"
BATCHES = "/admin/mailrail_tasks/batchrecord/"
HTML = "<!doctype html><h1>Thank you</h1><p>Your order 4711 is on its way.</p>"


class Desk:
    """Somebody who looks at the admin, and the window that shows it."""

    page: Page

    def __init__(self, windows: Windows, boss: User, language: str) -> None:
        self.windows, self.boss, self.language = windows, boss, language

    def open(self, path: str) -> None:
        if not hasattr(self, "page"):
            self.page = self.windows.open(self.boss)
        response = self.page.goto(path)
        assert response is not None and response.status == 200, response


def message(subject: str, *to: str) -> EmailMessage:
    email = EmailMultiAlternatives(subject, "Your order 4711 is on its way.\n", "shop@example.com", list(to))
    email.attach_alternative(HTML, "text/html")
    email.attach("Invoice 2026-000471-customer-copy.pdf", b"%PDF-1.7", "application/pdf")
    return email


def by_smtp(email: Email, fate: Fate, stage: Stage, reply: Reply) -> Email:
    """As a worker notes it."""
    senders, outcome = RefusedSenders(email.mailer, "default"), DeliveryOutcome(fate, stage, reply)
    store_outcomes([apply_outcome(email, outcome, timezone.now(), email.mailer, senders)], (), "default")
    senders.save()
    return Email.objects.get(pk=email.pk)


def deferred() -> Email:
    subject = "Your order 4711 of 29 November has left our warehouse and will arrive on Tuesday"
    return by_smtp(
        mail.queue(message(subject, "ann.smith@example.com")), Fate.REFUSED, Stage.RCPT, GREYLISTED
    )


def failed() -> Email:
    email = mail.queue(message("Invoice 2026-000471", "bernadette.vanderwoodsen@mail.department.example.org"))
    return by_smtp(email, Fate.REFUSED, Stage.RCPT, UNKNOWN)


def fill() -> None:
    """Emails in every status, mailers, addresses, invitations, and messages that wait, run and died."""
    _emails()
    circuit.trip(UNNAMED if django.VERSION < (6, 1) else "out", "[Errno 111] Connection refused", "default")
    if django.VERSION >= (6, 1):
        circuit.pause("bulk", "default", "The provider asked us to wait until Monday.")
    for name, reason in (("gone", "550 5.1.1 The email account does not exist."), ("left", "complaint")):
        Suppression.objects.create(address=f"{name}.person@example.com", reason=reason[:50])
    _invitations()
    _messages()
    _tasks()
    _schedule()


def _emails() -> None:
    sent = mail.queue_many(
        [message(f"Welcome to the shop, {name}", f"{name}@example.com") for name in ("Bo", "Cy")]
    )
    for email in sent:
        by_smtp(email, Fate.ACCEPTED, Stage.DOT, FINE)
    several = (f"member-{n}@club.example.net" for n in range(14))
    mail.queue(message("Minutes of the general assembly", *several), send_at=timedelta(days=2))
    failed(), deferred()
    spam = mail.queue(
        message("Sale: everything at half price until Sunday!!!", "dora@example.com"), tags=["sale"]
    )
    by_smtp(spam, Fate.REFUSED, Stage.DOT, SPAM)
    newsletter = message("Newsletter of November", "gina@example.com")
    newsletter.from_email = "news@other.example"
    refused = Reply(550, "Sender address not allowed for this account", "5.7.1")
    by_smtp(mail.queue(newsletter), Fate.REFUSED, Stage.MAIL, refused)
    mail.hold(mail.queue(message("订单 4711 已发货，预计星期二送达", "zhang.wei@example.cn")))
    mail.cancel(mail.queue(message("", "eve@example.com")))
    secret = message("Password reset on shop.example", "admin@example.com")
    secret.mailrail_sensitive = True  # type: ignore[attr-defined]
    mail.queue(secret)
    cut = mail.queue(message("Attachment too large for them", "fred@example.com"))
    store_outcomes([fail(cut, timezone.now(), "the file is not in the storage", "out")], (), "default")


def _invitations() -> None:
    boss = User.objects.get(username="boss")
    for n in range(3):
        invite(f"guest-{n}@long-subdomain.example.com", boss, role="editor")
    Invitation.objects.filter(email__startswith="guest-1").update(sent=timezone.now())
    invite("accepted@example.com", boss).accept(boss)


def _messages() -> None:
    """On the channels of a shop. The layer is the database's."""
    layer = get_layer()
    Channel("resize-image").send({"image": 4711, "sizes": [320, 640, 1280], "formats": ["webp", "avif"]})
    Channel("resize-image").send({"image": 4712}, delay=3600)
    Channel("generate-monthly-report").send({"month": "2026-11"}, lane="reports")
    layer.pause("generate-monthly-report")
    for error in (
        ValueError("broken image file: 'product-photo-4713.jpeg' has no header"),
        KeyError("sizes"),
    ):
        layer.enqueue([Message("import-products", {"file": "products-2026-11-29.csv", "line": 1041})])
        [claimed] = layer.claim("worker-1@shop-7f9c:1", {"import-products": 1}, 15.0).claims
        layer.bury(claimed, _raised(error))
    layer.enqueue([Message("sync-stock", {"warehouse": "north"})])
    layer.claim("worker-1@shop-7f9c:1", {"sync-stock": 1}, 600.0)


def _tasks() -> None:
    path, now = "shop.warehouse.tasks.synchronise_stock_with_suppliers", timezone.now()
    text = _raised(
        ConnectionError("supplier-4.example.com: the connection was refused, three times in a row")
    )
    record = {"task": path, "queue": "suppliers", "args": [4711, "north"], "kwargs": {"is_complete": True}}
    failed = {"status": "FAILED", "errors": [{"class": "ConnectionError", "traceback": text}], "failures": 1}
    TaskRecord.objects.create(**record, **failed, worker_ids=["shop-7f9c-1-a1b2"], finished_at=now)
    TaskRecord.objects.create(**record, run_after=now + timedelta(hours=3))
    done = {"status": "SUCCESSFUL", "return_value": {"changed": 17}, "started_at": now, "finished_at": now}
    TaskRecord.objects.create(**record, **done, worker_ids=["shop-7f9c-1-a1b2"])
    BatchRecord.objects.create(related_object="shop.order:4710", finished_at=now, total=1200, failed=3)
    then = TaskRecord.objects.create(**{**record, "task": "shop.warehouse.tasks.report"}, held=1)
    batch = BatchRecord.objects.create(related_object="shop.order:4711", then_id=then.pk)
    TaskRecord.objects.update(batch_id=batch.pk)


def _schedule() -> None:
    """One entry that is on, and one that is paused."""
    schedulable(channel="index")(print)
    what = {
        "cron": "30 2 * * *",
        "channel": "index",
        "content": {"whole": True},
        "zone": "America/Argentina/Ushuaia",
    }
    for name in ("Search index of all warehouses, whole", "index"):
        ScheduleEntry.objects.create(name=name, missed_count=12, skipped_count=1, **what)
    run_now("index")
    pause("index", by="boss", reason="The partner's server moves to another data centre until Monday.")


def _raised(error: Exception) -> str:
    try:
        raise error
    except Exception:
        return traceback.format_exc()


# -- the pages --------------------------------------------------------------------------------------------------------


def emails(desk: Desk) -> None:
    desk.open(EMAILS)


def failed_emails(desk: Desk) -> None:
    desk.open(f"{EMAILS}?status=failed")


def a_failed_email(desk: Desk) -> None:
    desk.open(f"{EMAILS}{Email.objects.filter(subject__startswith='Invoice').get().pk}/change/")


def a_deferred_email(desk: Desk) -> None:
    desk.open(f"{EMAILS}{Email.objects.filter(subject__startswith='Your order').get().pk}/change/")


def a_sensitive_email(desk: Desk) -> None:
    desk.open(f"{EMAILS}{Email.objects.get(sensitive=True, subject__startswith='Pass').pk}/change/")


def mailers(desk: Desk) -> None:
    desk.open("/admin/mailrail_mail/mailerstate/")


def suppressions(desk: Desk) -> None:
    desk.open("/admin/mailrail_mail/suppression/")


def a_suppression(desk: Desk) -> None:
    desk.open(f"/admin/mailrail_mail/suppression/{quote('gone.person@example.com')}/change/")


def suppressing(desk: Desk) -> None:
    desk.open("/admin/mailrail_mail/suppression/add/")


def waiting_messages(desk: Desk) -> None:
    desk.open("/admin/mailrail/storedmessage/")


def a_waiting_message(desk: Desk) -> None:
    _message(desk, "storedmessage", "resize-image", waiting_on(get_layer(), "resize-image", 1)[0].id)


def dead_messages(desk: Desk) -> None:
    desk.open("/admin/mailrail/buriedmessage/")


def a_dead_message(desk: Desk) -> None:
    _message(
        desk, "buriedmessage", "import-products", dead_on(get_layer(), "import-products", 1)[0].message.id
    )


def discarding(desk: Desk) -> None:
    a_dead_message(desk)
    with desk.page.expect_navigation():
        desk.page.locator("button[value=discard]").click()


def _message(desk: Desk, model: str, channel: str, id: Any) -> None:
    desk.open(f"/admin/mailrail/{model}/{quote(f'default/{channel}/{id}')}/change/")


def invitations(desk: Desk) -> None:
    desk.open("/admin/mailrail_invitations/invitation/")


def an_invitation(desk: Desk) -> None:
    invitation = Invitation.objects.get(email__startswith="guest-1")
    desk.open(f"/admin/mailrail_invitations/invitation/{invitation.pk}/change/")


def inviting(desk: Desk) -> None:
    desk.open("/admin/mailrail_invitations/invitation/add/")


def tasks(desk: Desk) -> None:
    desk.open(TASKS)


def a_failed_task(desk: Desk) -> None:
    desk.open(f"{TASKS}{TaskRecord.objects.get(status='FAILED').pk}/change/")


def batches(desk: Desk) -> None:
    desk.open(BATCHES)


def an_open_batch(desk: Desk) -> None:
    desk.open(f"{BATCHES}{BatchRecord.objects.get(finished_at=None).pk}/change/")


def schedule(desk: Desk) -> None:
    desk.open(ENTRIES)


def an_entry_of_the_schedule(desk: Desk) -> None:
    desk.open(f"{ENTRIES}{ScheduleEntry.objects.get(paused_at=None).pk}/change/")


def a_paused_entry_of_the_schedule(desk: Desk) -> None:
    desk.open(f"{ENTRIES}{ScheduleEntry.objects.exclude(paused_at=None).get().pk}/change/")


PAGES: tuple[Callable[[Desk], None], ...] = (
    *(emails, failed_emails, a_failed_email, a_deferred_email, a_sensitive_email),
    *(mailers, suppressions, a_suppression, suppressing),
    *(waiting_messages, a_waiting_message, dead_messages, a_dead_message, discarding),
    *(invitations, an_invitation, inviting),
    *(tasks, a_failed_task, batches, an_open_batch),
    *(schedule, an_entry_of_the_schedule, a_paused_entry_of_the_schedule),
)
