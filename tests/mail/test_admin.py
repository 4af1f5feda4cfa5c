"""The admin of email: what it shows, to whom, and what it lets people decide."""

from __future__ import annotations

import re
from collections.abc import Callable
from email import message_from_bytes
from email.mime.image import MIMEImage
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from mailrail import keyset_admin, mail
from mailrail.mail import Email, Status
from mailrail.mail.admin import translations
from mailrail.mail.admin.contents import ShownPart
from mailrail.mail.delivery.answers import apply_outcome
from mailrail.mail.delivery.outcomes import fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers.refused_senders import RefusedSenders
from mailrail.mail.models import MailerState, Suppression
from mailrail.mail.records.suppressions import hash_address, keep_hashed
from mailrail.mail.smtp import DeliveryOutcome, Fate
from mailrail.mail.smtp.replies import Reply, Stage
from mailrail.testing import sent

LIST = "/admin/mailrail_mail/email/"
EVIL = "<script>alert(1)</script>"
PNG = b"\x89PNG\r\n\x1a\n-not-really"


@pytest.fixture(autouse=True)
def queues(queueing: Callable[..., None], on: str) -> None:
    queueing(1)


@pytest.fixture
def staff(admin_client: Client) -> Client:
    return admin_client


def message(subject: str = "Hello", *to: str, **options: Any) -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", to or ["you@example.com"], **options)


def page(email: Email, name: str = "change") -> str:
    return reverse(f"admin:mailrail_mail_email_{name}", args=(email.pk,))


def ended(email: Email, why: str = "nobody there") -> Email:
    """Failed, as a worker notes it."""
    store_outcomes([fail(email, timezone.now(), why, "out")], (), email._state.db or "default")
    return Email.objects.get(pk=email.pk)


def colleague(client: Client, *permissions: str) -> Client:
    user = User.objects.create_user("colleague", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def subjects(response: Any) -> list[str]:
    return [email.subject for email in response.context["cl"].result_list]


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_shows_what_there_is_newest_first_and_counts_nothing(
    staff: Client, on: str, django_assert_max_num_queries: Any
) -> None:
    mail.queue_many([message("First"), message(EVIL, "a@example.com", "b@example.com")])
    with django_assert_max_num_queries(4, connection=connections[on]) as asked:
        response = staff.get(LIST)
    assert subjects(response) == [EVIL, "First"]
    assert (
        EVIL not in response.text
        and "a@<wbr>example.<wbr>com (+1)" in response.text
        and "queued" in response.text
    )
    assert not [query for query in asked.captured_queries if "COUNT(" in query["sql"].upper()]


def test_pages_follow_by_key(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from mailrail.mail.admin import EmailAdmin

    monkeypatch.setattr(EmailAdmin, "list_per_page", 2)
    mail.queue_many([message(str(n)) for n in range(5)])
    seen, url = [], LIST
    while True:
        response = staff.get(url)
        seen.append(subjects(response))
        if response.context["cl"].next_page is None:
            break
        url = LIST + response.context["cl"].next_page
    assert seen == [["4", "3"], ["2", "1"], ["0"]]
    assert subjects(staff.get(LIST + response.context["cl"].first_page)) == ["4", "3"]
    assert subjects(staff.get(LIST, {"behind": "nonsense", "o": "1", "p": "7", "all": ""})) == ["4", "3"]


def test_filters(staff: Client) -> None:
    about = User.objects.get()
    mail.queue(message("tagged"), tags=["receipt", 'ünï"code'], about=about)
    mail.queue(message("other"), tags=["receipts"])
    ended(mail.queue(message("failed")))
    paused = mail.queue(message("elsewhere"))
    Email.objects.filter(pk=paused.pk).update(mailer="bulk")
    MailerState.objects.create(mailer="bulk", paused_by="person")
    found = {
        "tagged": [{"tag": "receipt"}, {"tag": 'ünï"code'}, {"about": f"auth.user:{about.pk}"}],
        "failed": [{"status": "failed"}],
        "elsewhere": [{"mailer": "bulk"}],
    }
    for subject, queries in found.items():
        for query in queries:
            assert subjects(staff.get(LIST, query)) == [subject], query
    assert subjects(staff.get(LIST, {"status": "failed", "tag": "receipt"})) == []
    assert subjects(staff.get(LIST, {"about": "auth.user:0"})) == []


def test_an_email_is_found_by_its_names_and_by_a_part_of_what_people_see(staff: Client) -> None:
    mail.queue_many([message("Nothing of it")])
    email = ended(mail.queue(message("Your Größe", "Jo Doe <jo%_doe@example.com>"), key="receipt-7"))
    id, key, bare = str(email.pk), "receipt-7", email.message_id.strip("<>")
    for term in (id, key, email.message_id, bare, "größe"[2:], "jo%_DOE@", "jo doe", bare[3:]):
        assert subjects(staff.get(LIST, {"q": term})) == ["Your Größe"], term
    assert subjects(staff.get(LIST, {"q": "jo__doe@"})) == []
    shown = subjects(staff.get(LIST, {"q": "nobody\x00"}, follow=True))  # a zero byte is in no text
    assert sorted(shown) == ["Nothing of it", "Your Größe"]


def test_a_search_goes_on_where_its_window_ended(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset_admin, "SCAN_WINDOW_ROWS", 10)
    mail.queue_many([message("The needle"), *(message(f"Hay {n}") for n in range(25))])
    looks, url = [], LIST + "?q=needle"
    while True:
        response = staff.get(url)
        looks.append(subjects(response))
        if response.context["cl"].next_page is None:
            break
        assert "Searched back to" in response.text
        url = LIST + response.context["cl"].next_page
    assert looks == [[], [], ["The needle"]]
    assert subjects(staff.get(LIST, {"q": "Hay 24"})) == ["Hay 24"]
    assert subjects(staff.get(LIST, {"q": "needle", "status": "failed"})) == []


def test_a_list_says_why_an_email_is_not_sent_and_when_it_is_tried_next(staff: Client, on: str) -> None:
    greylisted, unknown = Reply(450, "Greylisted", "4.2.0"), Reply(554, "Unknown", "5.1.1")
    first, second, _ = mail.queue_many([message("Later"), message("Never"), message("New")])
    now, senders = timezone.now(), RefusedSenders("out", on)
    for email, reply in ((first, greylisted), (second, unknown)):
        store_outcomes(
            [apply_outcome(email, DeliveryOutcome(Fate.REFUSED, Stage.RCPT, reply), now, "out", senders)],
            (),
            on,
        )
    rows = {row.subject: row for row in staff.get(LIST).context["cl"].result_list}
    shown = {}
    for subject, row in rows.items():
        shown[subject] = (
            translations.status_label(row),
            translations.reason(row),
            translations.next_try(row) is not None,
        )
    assert shown == {
        "Later": ("deferred", "450 4.2.0 Greylisted", True),
        "Never": ("failed", "554 5.1.1 Unknown", False),
        "New": ("queued", "", False),
    }
    text = staff.get(LIST, {"status": "failed"}).text
    assert "554 5.<wbr>1.<wbr>1 Unknown" in text and 'data-label="Next try"' in text
    assert subjects(staff.get(LIST, {"status": "deferred"})) == ["Later"]
    told = {
        subject: staff.get(page(row)).context["events"][-1]["what"]
        for subject, row in rows.items()
        if row.events
    }
    assert told == {"Later": "refused for now", "Never": "refused"}


def test_what_is_partly_sent_is_told_with_how_many_have_it(staff: Client, on: str) -> None:
    email, other = mail.queue_many([message("Both", "ann@example.com", "gone@example.com"), message("Other")])
    accepted, unknown = Reply(250, "Ok"), Reply(550, "Unknown", "5.1.1")
    outcome = DeliveryOutcome(Fate.ACCEPTED, Stage.DOT, accepted, {"ann@example.com": unknown})
    store_outcomes([apply_outcome(email, outcome, timezone.now(), "out", RefusedSenders("out", on))], (), on)
    email.refresh_from_db()
    assert (email.status, email.failed_recipients) == (Status.PARTIAL, ["ann@example.com"])
    shown = staff.get(LIST, {"status": "partial"})
    assert subjects(shown) == ["Both"]
    assert "partly sent: 1 of 2 recipients" in shown.text and "550 5.<wbr>1.<wbr>1 Unknown" in shown.text
    assert "partly sent: 1 of 2 recipients" in staff.get(page(email)).text
    assert mail.cancel(email).refused == {email.pk: "it is sent to some of its recipients"}
    assert mail.resend([email, other]).done == [email.pk]
    email.refresh_from_db()
    assert [each["status"] for each in email.recipients] == ["queued", "sent"]


def test_a_deferred_email_is_sent_now_by_a_button_and_from_the_list(staff: Client, on: str) -> None:
    emails = mail.queue_many([message("One"), message("Two"), message("Three")])
    outcome = DeliveryOutcome(Fate.REFUSED, Stage.RCPT, Reply(450, "Greylisted", "4.2.0"))
    senders = RefusedSenders("out", on)
    store_outcomes(
        [apply_outcome(email, outcome, timezone.now(), "out", senders) for email in emails[:2]], (), on
    )
    assert "Send now" in staff.get(page(emails[0])).text and "Send now" not in staff.get(page(emails[2])).text
    assert (
        "Send now: 1 email."
        in staff.post(page(emails[0], "decide"), {"decision": "send_now"}, follow=True).text
    )
    chosen = {"action": "send_now", "_selected_action": [str(email.pk) for email in emails[1:]]}
    response = staff.post(LIST, chosen, follow=True)
    assert "Send now: 1 email." in response.text and "it does not wait for a next attempt" in response.text
    assert list(Email.objects.filter(next_try_at=None).values_list("dispatch", flat=True).order_by("pk")) == [
        1,
        1,
        0,
    ]


def test_a_message_leads_to_its_record_for_those_who_may_see_it(staff: Client, on: str) -> None:
    email = mail.queue(message())
    [waiting] = sent("mailrail.mail")
    its_page = f"/admin/mailrail/storedmessage/{quote(f'default/{waiting.channel}/{waiting.id}')}/change/"
    assert f'href="{page(email)}"' in staff.get(its_page).text
    assert "Record:" not in colleague(Client(), "view_storedmessage").get(its_page).text
    Email.objects.all().delete()
    assert "Record:" not in staff.get(its_page).text


# -- one email --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rich() -> Email:
    rich = EmailMultiAlternatives(
        EVIL, f"Plain {EVIL}\n", "me@example.com", ["Ann <ann@example.com>"], bcc=["b@c.de"]
    )
    html = (
        '<!DOCTYPE html><img src="cid:logo"><img src="cid:none"><img src="https://tracker.example/x.png">'
        f"<b>Hello</b>{EVIL}"
    )
    rich.attach_alternative(html, "text/html")
    logo = MIMEImage(PNG, "png")
    logo["Content-ID"] = "<logo>"
    rich.attachments.append(logo)
    rich.attach("../../evil\r\n\u202egpj.exe".replace("\r\n", ""), b"MZ" * 30_000, "application/x-msdownload")
    rich.attach("größe.txt", "Größe", "text/plain")
    return mail.queue(rich)


def test_the_page_of_an_email_tells_everything_and_runs_nothing(staff: Client, rich: Email) -> None:
    email = ended(rich, f"550 {EVIL}")
    text = staff.get(page(email)).text.replace("<wbr>", "")
    assert EVIL not in text
    for shown in (
        "ann@example.com",
        "b@c.de",
        "failed",
        "550 &lt;script&gt;",
        email.message_id.strip("<>"),
        "größe.txt",
    ):
        assert shown in text, shown
    [frame] = re.findall(r"<iframe[^>]*>", text)
    assert 'sandbox=""' in frame and page(email, "preview") in frame
    headers = dict(staff.get(page(email)).context["contents"].headers)
    assert headers["To"] == "Ann <ann@example.com>" and headers["Subject"] == EVIL and "Bcc" not in headers


def test_the_page_shows_an_exception_of_several_lines_by_the_first_and_the_rest_on_demand(
    staff: Client,
) -> None:
    text = staff.get(page(ended(mail.queue(message()), "OSError: no <b>\n\tIs it running?"))).text
    listed = staff.get(reverse("admin:mailrail_mail_email_changelist")).text
    assert "OSError: no &lt;b&gt;" in listed and "Is it running?" not in listed
    assert text.count("<summary>OSError: no &lt;b&gt;</summary>") == 2, "of the recipient, and of the event"
    assert text.count("OSError: no &lt;b&gt;\n\tIs it running?</pre>") == 2
    assert (
        "<details>"
        not in staff.get(page(ended(mail.queue(message()), "OSError: no")))
        .text.partition("What happened")[2]
        .partition("mailrail-content")[0]
    )


def test_the_preview_shows_the_emails_own_images_and_may_do_nothing(staff: Client, rich: Email) -> None:
    response = staff.get(page(rich, "preview"))
    policy = {rule.split()[0]: rule.split()[1:] for rule in response["Content-Security-Policy"].split("; ")}
    assert policy["default-src"] == ["'none'"] and policy["img-src"] == ["data:"] and policy["sandbox"] == []
    assert policy.keys() == {
        "default-src",
        "img-src",
        "style-src",
        "base-uri",
        "form-action",
        "frame-ancestors",
        "sandbox",
    }
    assert response["X-Frame-Options"] == "SAMEORIGIN" and response["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in response["Cache-Control"]
    assert response.text.startswith(
        '<!DOCTYPE html><base target="_blank"><img src="data:image/png;base64,iVBOR'
    )
    assert '"cid:none"' in response.text
    plain = staff.get(page(rich, "preview"), {"text": ""}).text
    assert EVIL not in plain and "Plain &lt;script&gt;" in plain


def test_the_preview_opens_no_connection(staff: Client) -> None:
    """Chromium connects to these hosts whatever the policy of the page says."""
    email = EmailMultiAlternatives("Hello", "A body.", "me@example.com", ["you@example.com"])
    html = "<LINK rel=preconnect href=//t.example><iframe\tsrc=//t.example></iframe><frame src=//t.example><linked>"
    email.attach_alternative(f"{html}<svg><link/rel=preconnect href=//t.example></svg>", "text/html")
    shown = staff.get(page(mail.queue(email), "preview")).text
    assert re.findall(r"<([\w-]+)", shown) == [
        *("base", "x-LINK", "x-iframe", "x-frame", "linked", "svg", "x-link")
    ]


def test_the_source_is_what_is_sent(staff: Client, rich: Email) -> None:
    response = staff.get(page(rich, "source"))
    assert response["Content-Type"] == "message/rfc822" and response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Disposition"] == f'attachment; filename="{rich.pk}.eml"'
    parsed = message_from_bytes(response.content)
    assert parsed["Message-ID"] == rich.message_id and parsed["Bcc"] is None
    assert response.content.count(b"Content-Disposition: attachment") == 2


def test_attachments_are_downloaded_under_harmless_names(staff: Client, rich: Email) -> None:
    contents = staff.get(page(rich)).context["contents"]
    got = {}
    for part in contents.attachments:
        response = staff.get(reverse("admin:mailrail_mail_email_part", args=(rich.pk, part.number)))
        assert response["Content-Type"] == "application/octet-stream"
        assert (
            response["X-Content-Type-Options"] == "nosniff"
            and "sandbox" in response["Content-Security-Policy"]
        )
        got[response["Content-Disposition"]] = response.content.rstrip()
    assert got == {
        f'attachment; filename="part-{contents.attachments[0].number}"': PNG,
        'attachment; filename="_.._evil_gpj.exe"': b"MZ" * 30_000,
        "attachment; filename*=utf-8''gr%C3%B6%C3%9Fe.txt": "Größe".encode(),
    }
    assert staff.get(reverse("admin:mailrail_mail_email_part", args=(rich.pk, 99))).status_code == 404


def test_a_large_email_is_read_on_demand(staff: Client) -> None:
    big = message()
    big.attach("big.bin", b"\0" * 2_000_000, "application/octet-stream")
    email = mail.queue(big)
    assert staff.get(page(email)).context["contents"] is None
    assert "big.bin" in staff.get(page(email), {"contents": ""}).text


@pytest.mark.parametrize(
    "content", [{}, {"v": 99, "kind": "message"}, {"v": 1, "kind": "finished", "data": "00"}, []]
)
def test_what_cannot_be_read_is_said(staff: Client, content: Any) -> None:
    email = mail.queue(message())
    Email.objects.filter(pk=email.pk).update(
        content=content, events=["x", {"at": 7}], recipients=[3, {"at": "x"}]
    )
    assert "It cannot be read" in staff.get(page(email)).text
    assert staff.get(page(email, "preview")).status_code == 404
    assert subjects(staff.get(LIST)) == ["Hello"]


# -- permissions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["change", "preview", "source"])
def test_who_may_not_view_sees_nothing(client: Client, name: str) -> None:
    email = mail.queue(message())
    assert client.get(page(email, name)).status_code == 302  # to log in
    colleague(client, "resend_email", "delete_email")
    assert client.get(page(email, name)).status_code == 403
    assert client.get(LIST).status_code == 403
    assert client.get(reverse("admin:mailrail_mail_email_part", args=(email.pk, 0))).status_code == 403


@pytest.mark.parametrize("decision", ["resend", "cancel", "hold", "unhold"])
def test_each_decision_needs_its_permission_and_a_post(client: Client, decision: str) -> None:
    email = mail.queue(message())
    colleague(client, "view_email", *({"resend_email", "cancel_email", "hold_email"} - {f"{decision}_email"}))
    if decision == "unhold":
        User.objects.get().user_permissions.remove(Permission.objects.get(codename="hold_email"))
    assert client.get(page(email, "decide")).status_code == 405
    assert client.post(page(email, "decide"), {"decision": decision}).status_code == 403
    assert f'value="{decision}"' not in client.get(LIST).text
    client.post(LIST, {"action": decision, "_selected_action": [str(email.pk)]})
    assert Email.objects.get().status == Status.QUEUED


def test_nobody_makes_or_changes_emails(staff: Client) -> None:
    email = mail.queue(message())
    assert staff.get(LIST + "add/").status_code == 403
    assert staff.post(page(email), {"subject": "Changed"}).status_code == 403
    assert Email.objects.get().subject == "Hello"


def test_a_post_from_another_site_decides_nothing(admin_user: User) -> None:
    email = mail.queue(message())
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(page(email, "decide"), {"decision": "cancel"}).status_code == 403
    assert (
        client.post("/admin/mailrail_mail/mailerstate/switch/", {"mailer": "", "what": "pause"}).status_code
        == 403
    )
    assert Email.objects.get().status == Status.QUEUED


# -- decisions --------------------------------------------------------------------------------------------------------


def test_buttons_decide_and_say_what_was_done(staff: Client) -> None:
    email = mail.queue(message("Dear Ann"))
    for decision, status in (
        ("hold", "held"),
        ("unhold", "queued"),
        ("cancel", "cancelled"),
        ("resend", "queued"),
    ):
        assert f'value="{decision}"' in staff.get(page(email)).text
        response = staff.post(page(email, "decide"), {"decision": decision}, follow=True)
        assert Email.objects.get().status == status
        assert "1 email." in response.text
    assert LogEntry.objects.count() == 4
    assert not LogEntry.objects.filter(object_repr__contains="Ann").exists()
    assert len(sent("mailrail.mail")) >= 2
    response = staff.post(page(email, "decide"), {"decision": "unhold"}, follow=True)
    assert "Refused for 1 email: it waits to be sent already." in response.text
    assert staff.post(page(email, "decide"), {"decision": "burn"}).status_code == 404


def test_actions_decide_for_those_selected(staff: Client) -> None:
    emails = mail.queue_many([message(), message(), message()])
    mail.hold(emails[1])
    chosen = [str(email.pk) for email in emails[:2]]
    response = staff.post(LIST, {"action": "hold", "_selected_action": chosen}, follow=True)
    assert (
        "Hold: 1 email." in response.text and "Refused for 1 email: it is held: unhold it." in response.text
    )
    assert [email.status for email in Email.objects.order_by("pk")] == ["held", "held", "queued"]
    response = staff.post(
        LIST, {"action": "cancel", "_selected_action": chosen, "select_across": "1"}, follow=True
    )
    assert "Select rows of this page." in response.text
    assert not Email.objects.filter(status=Status.CANCELLED).exists()


def test_what_is_queued_cannot_be_deleted(staff: Client) -> None:
    email = mail.queue(message())
    assert "cancel it first" in staff.get(page(email)).text
    assert staff.post(page(email, "delete"), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [str(email.pk)]}
    assert "cancel it first" in staff.post(LIST, chosen).text
    staff.post(LIST, {**chosen, "post": "yes"})
    assert Email.objects.exists()
    mail.cancel(email)
    assert staff.get(page(email, "delete")).status_code == 200
    assert staff.post(page(email, "delete"), {"post": "yes"}).status_code == 302
    assert not Email.objects.exists()
    assert [entry.object_repr for entry in LogEntry.objects.all()] == [str(email.pk)]


def test_ended_emails_are_deleted_from_the_list(staff: Client) -> None:
    emails = mail.queue_many([message(), message()])
    mail.cancel(emails)
    chosen = [str(email.pk) for email in emails]
    assert (
        staff.post(LIST, {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}).status_code
        == 302
    )
    assert not Email.objects.exists()


def test_deleting_needs_djangos_permission(client: Client) -> None:
    email = mail.queue(message())
    mail.cancel(email)
    colleague(client, "view_email")
    assert client.post(page(email, "delete"), {"post": "yes"}).status_code == 403
    assert Email.objects.exists()


# -- mailers and suppressed addresses ---------------------------------------------------------------------------------

MAILERS = "/admin/mailrail_mail/mailerstate/"


def test_a_mailer_is_paused_and_resumed(staff: Client, on: str) -> None:
    from mailrail.mail.mailers.config import delivering

    [mailer] = delivering()
    assert "works" in staff.get(MAILERS).text
    asked = {"mailer": mailer, "what": "pause", "reason": EVIL}
    assert "is paused" in staff.post(MAILERS + "switch/", asked, follow=True).text
    state = MailerState.objects.get()
    assert (state.mailer, state.paused_by, state.reason) == (mailer, "person", EVIL)
    text = staff.get(MAILERS).text
    assert EVIL not in text and "paused by admin; its email waits" in text
    staff.post(MAILERS + "switch/", {"mailer": mailer, "what": "resume"})
    assert not MailerState.objects.exists()
    assert staff.post(MAILERS + "switch/", {"mailer": "nowhere", "what": "pause"}).status_code == 404
    MailerState.objects.create(mailer="removed", paused_by="outage", reason="nobody answers")
    assert staff.post(MAILERS + "switch/", {"mailer": "removed", "what": "pause"}).status_code == 404
    staff.post(MAILERS + "switch/", {"mailer": "removed", "what": "resume"})
    assert not MailerState.objects.exists()
    assert staff.get(MAILERS + "switch/").status_code == 405


def test_pausing_needs_its_permission(client: Client, on: str) -> None:
    MailerState.objects.create(mailer="", paused_by="person", reason="because")
    colleague(client, "view_mailerstate", "delete_mailerstate", "change_mailerstate")
    assert client.post(MAILERS + "switch/", {"mailer": "", "what": "resume"}).status_code == 403
    assert "because" in client.get(MAILERS).text and "Resume" not in client.get(MAILERS).text
    assert MailerState.objects.exists()


SUPPRESSIONS = "/admin/mailrail_mail/suppression/"


def test_addresses_are_found_taken_off_the_list_and_put_on_it(staff: Client, on: str) -> None:
    for address in ("ann@example.com", "bob@example.com", "gone@example.com"):
        Suppression.objects.create(address=address)
    keep_hashed("gone@example.com", on)

    def found(term: str) -> list[str]:
        return [row.pk for row in staff.get(SUPPRESSIONS, {"q": term}).context["cl"].result_list]

    assert found("") == ["ann@example.com", "bob@example.com", hash_address("gone@example.com")]
    assert found("ANN@") == ["ann@example.com"] and found("nobody") == []
    assert found("Gone@example.com") == [hash_address("gone@example.com")]
    assert staff.get(SUPPRESSIONS + "ann_40example.com/delete/").status_code == 200
    assert Suppression.objects.count() == 3
    staff.post(SUPPRESSIONS + "ann_40example.com/delete/", {"post": "yes"})
    assert found("ann") == []
    added = {"address": "Cy <CY@example.com>", "reason": "asked", "note": ""}
    assert staff.post(SUPPRESSIONS + "add/", added).status_code == 302
    assert found("cy") == ["cy@example.com"]
    assert staff.post(SUPPRESSIONS + "add/", {**added, "address": "nothing"}).status_code == 200


def test_taking_an_address_off_the_list_needs_djangos_permission(client: Client) -> None:
    Suppression.objects.create(address="ann@example.com")
    colleague(client, "view_suppression")
    assert client.post(SUPPRESSIONS + "ann_40example.com/delete/", {"post": "yes"}).status_code == 403
    assert Suppression.objects.exists()


def test_ids_of_other_hands_do_no_harm(staff: Client) -> None:
    assert staff.get(f"{LIST}{UUID(int=1)}/preview/").status_code == 404
    assert staff.get(f"{LIST}nonsense/source/").status_code == 404
    assert staff.get(f"{LIST}nonsense/change/").status_code == 302


@pytest.mark.parametrize("name", ["tag", "mailer", "about", "behind", "status", "q", "subject__contains"])
def test_filters_of_other_hands_do_no_harm(staff: Client, name: str) -> None:
    mail.queue(message())
    for url in (LIST, SUPPRESSIONS):
        assert staff.get(url, {name: "\0"}, follow=True).status_code == 200


@pytest.mark.parametrize("name", ["change", "delete", "history"])
def test_names_that_no_database_stores_are_found_nowhere(staff: Client, name: str) -> None:
    assert staff.get(f"{SUPPRESSIONS}a_00/{name}/").status_code in (302, 404)
    assert staff.get(f"{LIST}a_00/{name}/").status_code in (302, 403, 404)
    assert staff.post(MAILERS + "switch/", {"mailer": "\0", "what": "pause"}).status_code == 404


@pytest.mark.parametrize("charset", ["idna", "undefined", "hex", "nonsense"])
def test_a_body_in_a_charset_that_cannot_be_is_shown(charset: str) -> None:
    part = ShownPart(
        0, message_from_bytes(f"Content-Type: text/plain; charset={charset}\n\nHall\xf6\n".encode("latin-1"))
    )
    assert part.text == "Hall\N{REPLACEMENT CHARACTER}\n"


def test_what_others_have_said_is_shown_escaped(staff: Client, on: str) -> None:
    raw, written = "no \x1b[2J\u202eevil", "no \\x1b[2J\\u202eevil"
    email = ended(mail.queue(message()), raw)
    MailerState.objects.create(mailer="bulk", paused_by="outage", reason=raw)
    Suppression.objects.create(address="gone@example.com", note=raw)
    suppressed = reverse("admin:mailrail_mail_suppression_change", args=("gone@example.com",))
    for url in (page(email), reverse("admin:mailrail_mail_mailerstate_changelist"), suppressed):
        text = staff.get(url).text
        assert written in text and raw not in text and "\u202e" not in text, url


def test_what_nobody_sees_of_an_email_is_written_out(staff: Client, rich: Email) -> None:
    Email.objects.filter(pk=rich.pk).update(subject="invoice \u202egpj.exe", key="")
    for url in (LIST, page(rich)):
        text = staff.get(url).content.decode()
        assert "invoice \\u202egpj.exe" in text and "\u202e" not in text, url
