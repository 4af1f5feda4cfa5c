"""Asks for the admin's pages, and prints the milliseconds of each.

``python -m benchmarks.admin_pages WHAT COUNT ROUNDS``
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from statistics import median
from typing import Any

import django

django.setup()

from django.contrib import admin  # noqa: E402 - models need Django to be set up
from django.contrib.admin.utils import quote  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

from mailrail.invitations.models import Invitation  # noqa: E402
from mailrail.mail.models import Email  # noqa: E402
from mailrail.mail.records import retention  # noqa: E402
from mailrail.models import BuriedMessage  # noqa: E402
from tests import many_invitations, many_messages  # noqa: E402
from tests.mail import many  # noqa: E402

from .admin import BASELINE  # noqa: E402

REQUESTS = 5
EMAILS = "/admin/mailrail_mail/email/"
DEAD, WAITING = "/admin/mailrail/buriedmessage/", "/admin/mailrail/storedmessage/"
INVITATIONS = "/admin/mailrail_invitations/invitation/"
PLAIN = "/plain/"

Actions = dict[str, Callable[[], object]]
Page = Callable[..., Callable[[], object]]

plain = admin.AdminSite("plain")


class PlainEmails(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for the type checker
    """As one would write it in a minute."""

    list_display = ("subject", "sender", "status", "mailer", "created_at", "sent_at")
    list_filter = ("status",)
    search_fields = ("subject", "message_id")


class PlainDead(admin.ModelAdmin):  # type: ignore[type-arg]  # likewise
    """Likewise."""

    list_display = ("channel", "buried_at", "error_class", "attempt")
    list_filter = ("channel", "error_class")
    ordering = ("-buried_at",)


class PlainInvitations(admin.ModelAdmin):  # type: ignore[type-arg]  # likewise
    """Likewise."""

    list_display = ("email", "sender", "role", "created", "sent")
    search_fields = ("email", "sender__username")


plain.register(Email, PlainEmails)
plain.register(BuriedMessage, PlainDead)
plain.register(Invitation, PlainInvitations)
urlpatterns = [path("admin/", admin.site.urls), path("plain/", plain.urls)]


def main(what: str, count: int, rounds: int) -> None:
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        measure = {"emails": _emails, "messages": _messages, "invitations": _invitations}[what]
        print(json.dumps(measure(cursor, count, rounds)))


def _emails(cursor: Any, count: int, rounds: int) -> dict[str, list[float]]:
    many.fill(cursor, count)
    try:
        cursor.execute("VACUUM ANALYZE mailrail_mail_email")
        return _measure(_of_emails(_page(), count, many.message_id_of(cursor, count // 2)), rounds)
    finally:
        many.empty(cursor)


def _messages(cursor: Any, count: int, rounds: int) -> dict[str, list[float]]:
    many_messages.fill(cursor, count)
    try:
        cursor.execute("VACUUM ANALYZE mailrail_message, mailrail_dead")
        return _measure(_of_messages(_page(), count), rounds)
    finally:
        many_messages.empty(cursor)


def _invitations(cursor: Any, count: int, rounds: int) -> dict[str, list[float]]:
    rare, common = (User.objects.create_user(f"{name}-sender") for name in ("rare", "common"))
    many_invitations.fill(cursor, count, rare.pk, common.pk)
    try:
        cursor.execute("VACUUM ANALYZE mailrail_invitations_invitation")
        return _measure(_of_invitations(_page(), count), rounds)
    finally:
        many_invitations.empty(cursor)
        User.objects.filter(pk__in=(rare.pk, common.pk)).delete()


def _page() -> Page:
    client = Client()
    client.force_login(User.objects.create_superuser(f"admin-{time.time()}"))

    def page(url: str, **query: str) -> Callable[[], object]:
        def get() -> None:
            response = client.get(url, query)
            assert response.status_code == 200, response.status_code

        return get

    return page


def _of_emails(page: Page, count: int, message_id: str) -> Actions:
    middle = str(many.id_of(count // 2))
    return {
        "first page": page(EMAILS),
        "a page in the middle": page(EMAILS, behind=middle),
        "by status": page(EMAILS, status="failed"),
        "by status, none": page(EMAILS, status="expired"),
        "by mailer, no hit in the window": page(EMAILS, mailer="rare"),
        "by tag, no hit in the window": page(EMAILS, tag="unique"),
        "about an object": page(EMAILS, about="shop.order:77"),
        "about a common object": page(EMAILS, about="shop.shop:1"),
        "search by Message-ID": page(EMAILS, q=message_id),
        "search by key": page(EMAILS, q="order-77"),
        "search by recipient, no hit in the window": page(EMAILS, q="customer77@"),
        "search by subject within a status": page(EMAILS, q="nothing like it", status="sent"),
        "one email": page(f"{EMAILS}{middle}/change/"),
        "its preview": page(f"{EMAILS}{middle}/preview/"),
        "suppressed addresses": page("/admin/mailrail_mail/suppression/", q="gone77@"),
        "mailq": lambda: call_command("mailq", stdout=StringIO()),
        "a chunk of prunemail": _chunk,
        BASELINE: page(f"{PLAIN}mailrail_mail/email/"),
    }


def _of_messages(page: Page, count: int) -> Actions:
    middle = f"{1700000000 + count // 6}.0_{many_messages.dead_id(count // 2)}"
    name = f"default/{many_messages.channel_of(77)}"
    dead, waits = (quote(f"{name}/{id(77)}") for id in (many_messages.dead_id, many_messages.waiting_id))
    return {
        "first page": page(DEAD),
        "dead, a page in the middle": page(DEAD, behind=middle),
        "dead, of a channel": page(DEAD, channel="c01"),
        "dead, of a rare error": page(DEAD, error=many_messages.RARE),
        "dead, of a common error, in the middle": page(DEAD, error=many_messages.COMMON, behind=middle),
        "dead, of an error in a channel": page(DEAD, error="shop.errors.E3", channel="c01"),
        "one dead message": page(f"{DEAD}{dead}/change/"),
        "waiting, with how the channels stand": page(WAITING),
        "waiting, ready": page(WAITING, state="ready"),
        "waiting, scheduled": page(WAITING, state="scheduled"),
        "waiting, claimed": page(WAITING, state="claimed"),
        "waiting, of a channel": page(WAITING, channel="c01"),
        "waiting, of a channel with a long lane": page(WAITING, channel="c00"),
        "one waiting message": page(f"{WAITING}{waits}/change/"),
        BASELINE: page(f"{PLAIN}mailrail/buriedmessage/"),
    }


def _of_invitations(page: Page, count: int) -> Actions:
    middle = str(Invitation.objects.order_by("pk")[count // 2].pk)
    statuses = ("waiting", "sent", "accepted", "revoked", "expired")
    return {
        "first page": page(INVITATIONS),
        "a page in the middle": page(INVITATIONS, behind=middle),
        **{f"by status: {status}": page(INVITATIONS, status=status) for status in statuses},
        "by role, no hit in the window": page(INVITATIONS, role="owner"),
        "search by address": page(INVITATIONS, q="guest-77@example.com"),
        "search by a sender of few": page(INVITATIONS, q="rare-sender"),
        "search by the sender of nearly all": page(INVITATIONS, q="common-sender"),
        "one invitation": page(f"{INVITATIONS}{middle}/change/"),
        BASELINE: page(f"{PLAIN}mailrail_invitations/invitation/"),
    }


def _chunk() -> None:
    before = datetime.fromtimestamp(1700000000, UTC) + timedelta(days=1)
    with transaction.atomic():
        assert next(retention.prune_bodies(before, "default")) == retention.CHUNK_SIZE
        transaction.set_rollback(True)


def _measure(actions: Actions, rounds: int) -> dict[str, list[float]]:
    for act in actions.values():
        act()
    return {
        name: [median(_milliseconds(act) for _ in range(REQUESTS)) for _ in range(rounds)]
        for name, act in actions.items()
    }


def _milliseconds(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
