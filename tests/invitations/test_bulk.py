"""Lists: read, sorted out, shown, confirmed, watched."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, RequestFactory
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from mailrail.invitations import SenderRefused, invite, revoke
from mailrail.invitations.addresses import Entry
from mailrail.invitations.bulk import MAX_DRAFTS, MAX_FILE_BYTES, confirm, draft, sort_out
from mailrail.invitations.models import Invitation, InvitationBatch
from mailrail.invitations.tables import file_entries
from mailrail.invitations.views import InvitationBulkPreview
from mailrail.mail.models import Suppression
from mailrail.testing import drain, sent

from ..project.models import TeamInvitation

BULK = "/invites/bulk/"


def lines(*texts: str) -> list[Entry]:
    return [Entry(number, text) for number, text in enumerate(texts, start=1)]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"a@example.com\nb@example.com\n", [(1, "a@example.com"), (2, "b@example.com")]),
        (b"Name;E-Mail\r\nAda;a@example.com\r\n;\r\nBob; b@example.com ", [(2, "a@example.com"), (4, "b@example.com")]),
        (b"\xef\xbb\xbfemail,name\na@example.com,Ada\n", [(2, "a@example.com")]),
        (b'name\temail\n"A\tda"\ta@example.com\n', [(2, "a@example.com")]),
        (b'email,name\n"a@example.com","Ada\nL."\nb@example.com\n', [(3, "a@example.com"), (4, "b@example.com")]),
        ("email\ngäst@bücher.example\n".encode(), [(2, "gäst@bücher.example")]),
        ("姓名,邮箱\n小明,a@example.com\n".encode(), [(2, "a@example.com")]),
        (b"name\nAda\n", [(1, "name"), (2, "Ada")]),
        ("姓名,电子邮箱地址（必填）\n张三,a@qq.com\n".encode("gb18030"), [(2, "a@qq.com")]),
        ("邮箱列表,,\n2026年,,\n姓名,邮箱,电话\n张三,a@qq.com,1\n".encode("gb18030"), [(4, "a@qq.com")]),
        ("员工邮件;\n姓名;E-Mail address\n张三;a@qq.com\n".encode(), [(3, "a@qq.com")]),
        ("邮件主题,联系邮箱\n通知,a@qq.com\n".encode(), [(2, "a@qq.com")]),
        ("邮件主题,联系人\n通知,a@qq.com\n".encode(), [(1, "联系人"), (2, "a@qq.com")]),
        (b"Ada,7,a@example.com\nb@example.com,8,c@example.com\n", [(1, "a@example.com"), (2, "c@example.com")]),
        ("Name\tEmail\r\nAda\ta@example.com\r\n".encode("utf-16"), [(2, "a@example.com")]),
        (b"sep=;\nname;email\nAda;a@example.com\n", [(3, "a@example.com")]),
        ("email\n\"a@example.com; 张三 <b@qq.com>\"\n".encode(), [(2, "a@example.com"), (2, "张三 <b@qq.com>")]),
        (b"email\n", []),
        (b"", []),
    ],
)  # fmt: skip
def test_a_csv_file_is_read_by_its_heading_or_its_first_column(
    raw: bytes, found: list[tuple[int, str]]
) -> None:
    assert list(file_entries(raw)) == found


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("email,name\na@example.com,Zoé\n".encode("latin-1"), "The file is not in UTF-8."),
        (b"email\n" + b"x" * 200_000, "Line 2 of the file is no CSV"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained(raw: bytes, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        list(file_entries(raw))
    assert caught.value.messages[0].startswith(said)


def test_every_line_that_invites_nobody_is_named_with_the_reason(
    sender: User, settings: LazySettings
) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "INVITATIONS_PER_RECIPIENT": 2}
    other = User.objects.create_user("other")
    invite("waiting@example.com", sender)
    invite("accepted@example.com", sender).accept()
    revoke(invite("revoked@example.com", sender))
    Invitation.objects.filter(pk=invite("expired@example.com", sender).pk).update(expires_at=timezone.now())
    invite("others@example.com", other)
    invite("worn@example.com", other), invite("worn@example.com", other)
    Suppression.objects.create(address="gone@example.com", reason="bounce")
    names = ["new", "WAITING", "accepted", "revoked", "expired", "others", "worn", "gone", "New"]
    good, problems = sort_out(lines(*[f"{name}@example.com" for name in names], "bad"), sender)
    assert good == [f"{name}@example.com" for name in ("new", "revoked", "expired", "others")]
    assert [(problem.line, problem.kind, problem.why) for problem in problems] == [
        (2, "invited", "You have invited this address already: waiting."),
        (3, "invited", "You have invited this address already: accepted."),
        (7, "limit", "This address has received many invitations recently. Try again tomorrow."),
        (8, "suppressed", "This address gets no email from this site."),
        (9, "duplicate", "It is already on line 1."),
        (10, "wrong", "Enter a valid email address."),
    ]


def test_a_list_is_pasted_looked_through_confirmed_and_watched(browser: Client, sender: User) -> None:
    pasted = {"addresses": "one@example.com\r\n<script>\r\nTwo@EXAMPLE.com", "message": "Come & see"}
    response = browser.post(BULK, pasted, follow=True)
    [(preview, status)] = response.redirect_chain
    assert status == 302 and "2 addresses will be invited." in response.text
    assert re.search(
        r"<td[^>]*>2</td><td[^>]*>&lt;script&gt;</td><td[^>]*>Enter a valid email address", response.text
    )
    assert not Invitation.objects.exists() and sent("send-invite") == []
    response = browser.post(preview, follow=True)
    assert response.redirect_chain == [(f"{preview}progress/", 302)]
    assert "0 of 2" in response.text and "2 waiting" in response.text
    assert [(invitation.email, invitation.message) for invitation in Invitation.objects.order_by("pk")] == [
        ("one@example.com", "Come & see"),
        ("Two@example.com", "Come & see"),
    ]
    drain()
    response = browser.get(f"{preview}progress/")
    assert "2 of 2" in response.text and 'data-state="over"' in response.text
    assert "no-store" in response["Cache-Control"]


def test_a_csv_file_goes_the_same_way(browser: Client) -> None:
    file = SimpleUploadedFile("list.csv", b"name,email\nAda,ada@example.com\n")
    response = browser.post(BULK, {"file": file}, follow=True)
    assert "1 address will be invited." in response.text


def test_confirmed_twice_it_invites_once(browser: Client, sender: User) -> None:
    batch = draft(lines("one@example.com"), sender)
    for _ in range(2):
        assert browser.post(f"{BULK}{batch.pk}/").status_code == 302
    assert Invitation.objects.count() == len(sent("send-invite")) == 1
    assert browser.get(f"{BULK}{batch.pk}/")["Location"] == f"{BULK}{batch.pk}/progress/"
    assert InvitationBatch.objects.get().addresses == []


@pytest.mark.django_db(databases=["default", "postgres"])
def test_a_replica_that_is_behind_hides_no_list(browser: Client, settings: LazySettings) -> None:
    settings.DATABASE_ROUTERS = ["tests.routers.ReadsOnPostgres"]
    page = browser.post(BULK, {"addresses": "one@example.com"})["Location"]
    assert "0 of 1" in browser.post(page, follow=True).text
    again = browser.post(BULK, {"addresses": "one@example.com"}, follow=True).text
    assert "You have invited this address already" in again


def test_looking_invites_nobody_and_there_is_no_progress_before(browser: Client, sender: User) -> None:
    batch = draft(lines("one@example.com"), sender)
    browser.get(f"{BULK}{batch.pk}/")
    assert browser.get(f"{BULK}{batch.pk}/progress/")["Location"] == f"{BULK}{batch.pk}/"
    assert not Invitation.objects.exists()


def test_the_lists_of_others_are_not_there(browser: Client) -> None:
    batch = draft(lines("one@example.com"), User.objects.create_user("other"))
    url = f"{BULK}{batch.pk}/"
    assert browser.get(url).status_code == browser.post(url).status_code == 404
    assert browser.get(f"{url}progress/").status_code == 404
    assert not Invitation.objects.exists()


def test_who_was_invited_between_preview_and_confirmation_is_left_out(sender: User) -> None:
    batch = draft(lines("one@example.com", "two@example.com", "three@example.com"), sender)
    invite("two@example.com", sender)
    Suppression.objects.create(address="three@example.com", reason="complaint")
    assert confirm(batch) is True
    batch.refresh_from_db()
    assert [invitation.email for invitation in Invitation.objects.filter(batch=batch)] == ["one@example.com"]
    assert batch.total == 1


def test_a_list_fills_the_fields_of_a_model_of_your_own(
    sender: User, with_settings: Any, rf: RequestFactory
) -> None:
    class OfTheTeam(InvitationBulkPreview):
        def get_fields(self, batch: InvitationBatch) -> dict[str, Any]:
            return {"team": f"of {batch.sender}"}

    with_settings(INVITATION_MODEL="project.TeamInvitation")
    batch = draft(lines("one@example.com", "two@example.com"), sender)
    request = rf.post("/")
    request.user = sender
    assert OfTheTeam.as_view()(request, pk=batch.pk).status_code == 302
    assert list(TeamInvitation.objects.values_list("team", flat=True)) == ["of sender"] * 2


def test_a_quota_that_is_used_up_is_explained_and_the_list_can_be_confirmed_later(
    browser: Client, sender: User, settings: LazySettings
) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "INVITATIONS_PER_SENDER": 1}
    batch = draft(lines("one@example.com", "two@example.com"), sender)
    response = browser.post(f"{BULK}{batch.pk}/")
    assert "You can send 1 invitations within 24 hours; 1 are left." in response.text
    with pytest.raises(SenderRefused):
        confirm(batch)
    assert not Invitation.objects.exists()
    settings.MAILRAIL = {**settings.MAILRAIL, "INVITATIONS_PER_SENDER": 2}
    assert confirm(batch) is True


def test_a_sender_has_few_lists_that_wait(sender: User) -> None:
    other = draft(lines("a@example.com"), User.objects.create_user("other"))
    confirmed = draft(lines("a@example.com"), sender)
    confirm(confirmed)
    made = [draft(lines(f"{n}@example.com"), sender) for n in range(MAX_DRAFTS + 2)]
    kept = set(InvitationBatch.objects.values_list("pk", flat=True))
    assert kept == {other.pk, confirmed.pk, *(record.pk for record in made[2:])}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "This field is required."),
        ({"addresses": "a@example.com", "file": b"email\nb@example.com"}, "not both"),
        ({"file": b"\xff\xff"}, "The file is not in UTF-8."),
        ({"file": b"email\n"}, "This field is required."),
        ({"file": b""}, "The submitted file is empty."),
        ({"file": b"x" * (MAX_FILE_BYTES + 1)}, "The file is larger than 2.0\xa0MB."),
        ({"file": b"a@example.com\n" * 10_001}, "There are 10001 addresses; 10000 can be invited at once."),
        ({"addresses": "a@example.com", "message": "x" * 2001}, "at most 2000 characters"),
    ],
)
def test_a_list_that_cannot_be_read_is_explained(browser: Client, fields: dict[str, Any], said: str) -> None:
    if "file" in fields:
        fields = {**fields, "file": SimpleUploadedFile("list.csv", fields["file"])}
    response = browser.post(BULK, fields)
    assert response.status_code == 200 and said in response.text and "errorlist" in response.text
    assert not InvitationBatch.objects.exists()


def test_10000_lines_take_a_bounded_number_of_queries(
    browser: Client, sender: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    pasted = "\n".join(f"guest-{number}@example.com" for number in range(10_000))
    with django_assert_max_num_queries(250):
        preview = browser.post(BULK, {"addresses": pasted})["Location"]
    with django_assert_max_num_queries(700):
        browser.post(preview)
    assert Invitation.objects.count() == len(sent("send-invite")) == 10_000
    assert "10,000 waiting" in browser.get(f"{preview}progress/").text


def test_10000_wrong_lines_make_a_page_that_can_be_read(browser: Client) -> None:
    text = browser.post(BULK, {"addresses": "\r\n".join(["wrong"] * 10_000)}, follow=True).text
    assert text.count("Enter a valid email address.") == 200
    assert "10,000 lines are left out" in text.replace("10000", "10,000")
    assert re.search(r"…and 9,?800 more lines\.", text)


def test_what_expired_or_was_revoked_before_it_was_mailed_is_not_waited_for(
    browser: Client, sender: User
) -> None:
    batch = draft(lines("one@example.com", "two@example.com", "three@example.com"), sender)
    confirm(batch)
    one, two, _three = Invitation.objects.order_by("pk")
    revoke(one)
    Invitation.objects.filter(pk=two.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert "0 of 1" in browser.get(f"{BULK}{batch.pk}/progress/").text


def test_without_a_script_the_page_reloads_itself_until_it_is_done(browser: Client, sender: User) -> None:
    batch = draft(lines("one@example.com"), sender)
    confirm(batch)
    url = f"{BULK}{batch.pk}/progress/"
    page = browser.get(url).text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert 'src="/static/mailrail/progress.js"' in page and "<script>" not in page
    drain()
    page = browser.get(url).text
    assert "http-equiv" not in page and "It has ended." in page and "Look again" not in page
