"""The pages, through the test client: whose they are, what they change, what they never do."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailrail.invitations.models import Invitation
from mailrail.testing import sent

LIST, NEW, BULK, PROGRESS = "/invites/", "/invites/new/", "/invites/bulk/", "/invites/progress/"


@pytest.mark.parametrize("url", [LIST, NEW, BULK, PROGRESS])
@pytest.mark.django_db
def test_who_is_not_logged_in_is_asked_to(client: Client, url: str) -> None:
    for response in (client.get(url), client.post(url, {"email": "guest@example.com"})):
        assert response.status_code == 302
        assert response["Location"] == f"/accounts/login/?next={url}"
    assert not Invitation.objects.exists()


def test_the_form_invites_in_the_name_of_the_logged_in_user(browser: Client, sender: User) -> None:
    response = browser.post(NEW, {"email": "guest@example.com", "sender": "999"}, follow=True)
    assert response.redirect_chain == [(LIST, 302)]
    assert "The invitation for guest@example.com is on its way." in response.text
    assert Invitation.objects.get().sender == sender
    assert len(sent("send-invite")) == 1


ADDRESSES = st.one_of(
    st.text(),
    st.binary().map(lambda raw: raw.decode("latin-1")),
    st.text("a@.,;\r\n\0 <>\"'é\u2028", max_size=40),
    st.emails(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ADDRESSES)
@example("guest@example.com\r\nBcc: all@example.com")
@example("guest@example.com\0")
@example("gäst@bücher.example")
@example("\N{KELVIN SIGN}@example.com")
@example("guest@" + "a" * 70_000)
@example("x" * 100_000)
@example("a@b.c" * 2_000)
def test_whatever_is_typed_into_the_forms_is_accepted_or_explained(browser: Client, typed: str) -> None:
    typed = typed.encode("utf-8", "replace").decode()  # what a browser can send
    for url, field in ((NEW, "email"), (BULK, "addresses")):
        response = browser.post(url, {field: typed})
        explained = response.status_code == 200 and "errorlist" in response.text
        assert explained or response.status_code == 302


def test_bytes_that_are_no_text_are_explained_too(browser: Client) -> None:
    for url, field in ((NEW, "email"), (BULK, "addresses")):
        body = f"{field}=%ff%fe%00guest@example.com%0d%0aBcc:%20x"
        kind = "application/x-www-form-urlencoded"
        response = browser.post(url, body, content_type=kind, follow=True)
        assert response.status_code == 200
        assert "errorlist" in response.text or "left out" in response.text
    assert browser.post(BULK, {}).status_code == browser.post(NEW, {}).status_code == 200


def test_the_list_shows_only_the_users_own(browser: Client, invitation: Invitation) -> None:
    other = User.objects.create_user("other")
    Invitation.objects.create(email="secret@example.com", sender=other)
    response = browser.get(LIST)
    assert "guest@example.com" in response.text
    assert "secret@example.com" not in response.text
    assert "0 / 1 sent" in response.text


def test_no_page_of_the_sender_shows_a_key(browser: Client, invitation: Invitation) -> None:
    for url in (LIST, NEW, BULK, PROGRESS):
        text = browser.get(url).text
        assert invitation.key not in text
        assert invitation.public_id not in text
        assert invitation.salt not in text


def test_the_list_is_shown_in_pages_each_row_once_newest_first(browser: Client, sender: User) -> None:
    Invitation.objects.bulk_create(
        Invitation(email=f"guest-{number:03}@example.com", sender=sender) for number in range(120)
    )
    shown: list[str] = []
    for page in (1, 2, 3):
        shown += re.findall(r"<td[^>]*>(guest-\d+)@example.com", browser.get(LIST, {"page": page}).text)
    assert shown == [f"guest-{number:03}" for number in reversed(range(120))]


@pytest.mark.parametrize(
    ("page", "shown"), [("99", 2), ("0", 2), ("-1", 2), ("x", 1), ("", 1), ("1e9", 1), ("٣", 2)]
)
def test_a_page_that_does_not_exist_shows_the_nearest(
    browser: Client, sender: User, page: str, shown: int
) -> None:
    Invitation.objects.bulk_create(
        Invitation(email=f"guest-{number:03}@example.com", sender=sender) for number in range(60)
    )
    response = browser.get(LIST, {"page": page})
    assert response.status_code == 200
    assert f"Page {shown} of 2" in response.text


def test_the_list_takes_as_many_queries_for_fifty_as_for_one(
    browser: Client, invitation: Invitation, sender: User
) -> None:
    with CaptureQueriesContext(connection) as for_one:
        browser.get(LIST)
    Invitation.objects.bulk_create(Invitation(email=f"{n}@example.com", sender=sender) for n in range(49))
    with CaptureQueriesContext(connection) as for_fifty:
        browser.get(LIST)
    assert len(for_one) == len(for_fifty)


def test_the_progress_counts_the_users_own(browser: Client, sender: User) -> None:
    other = User.objects.create_user("other")
    for who, when in ((sender, None), (sender, timezone.now()), (other, timezone.now())):
        Invitation.objects.create(email="guest@example.com", sender=who, sent=when)
    response = browser.get(PROGRESS)
    assert response.json() == {"total": 2, "sent": 1}
    assert "no-store" in response["Cache-Control"]


@pytest.fixture
def open_links(settings: LazySettings) -> None:
    """Whoever has the link accepts."""
    settings.MAILRAIL = {**settings.MAILRAIL, "INVITATION_ACCEPT": "link"}


@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_opening_the_link_changes_nothing(client: Client, invitation: Invitation, method: str) -> None:
    before = Invitation.objects.values().get()
    response = getattr(client, method)(invitation.accept_path())
    assert response.status_code == 200
    assert Invitation.objects.values().get() == before


def test_the_page_says_who_invited_whom_and_offers_to_accept(client: Client, invitation: Invitation) -> None:
    text = client.get(invitation.accept_path()).text
    assert "sender has invited guest@example.com." in text
    assert "<form" in text
    assert '<html lang="en-us"' in text


def test_submitting_the_form_of_the_page_accepts_and_once_more_is_no_harm(
    invitation: Invitation, open_links: None
) -> None:
    browser = Client(enforce_csrf_checks=True)
    url = invitation.accept_path()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(url).text)
    assert token
    times = set()
    for _ in range(2):
        response = browser.post(
            url, {"csrfmiddlewaretoken": token[1]}, follow=True, HTTP_ORIGIN="http://testserver"
        )
        assert response.redirect_chain == [(url, 302)]
        assert "The invitation was accepted on" in response.text
        assert "<form" not in response.text
        times.add(Invitation.objects.get().accepted_at)
    assert len(times) == 1
    assert None not in times


def test_without_the_token_nothing_is_accepted(invitation: Invitation) -> None:
    browser = Client(enforce_csrf_checks=True)
    assert browser.post(invitation.accept_path()).status_code == 403
    assert Invitation.objects.get().accepted_at is None


def test_the_token_is_asked_for_even_where_the_middleware_is_missing(
    invitation: Invitation, settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "Csrf" not in name]
    browser = Client(enforce_csrf_checks=True)
    assert browser.post(invitation.accept_path()).status_code == 403


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_address_of_the_page_is_kept_from_other_sites_and_from_caches(
    client: Client, invitation: Invitation, method: str
) -> None:
    for url in (invitation.accept_path(), "/invites/accept/forged/"):
        response = getattr(client, method)(url)
        assert response["Referrer-Policy"] == "same-origin"
        assert "no-store" in response["Cache-Control"]
        assert "http://" not in response.text
        assert "https://" not in response.text


@pytest.mark.parametrize("method", ["get", "head", "post"])
@pytest.mark.parametrize(
    "key", ["x", "A" * 48, "A" * 5000, "ключ", "a b", "\0", "..", "%", "A" * 47 + "\n", "'\""]
)
@pytest.mark.django_db
def test_links_that_open_nothing_get_a_friendly_page(client: Client, key: str, method: str) -> None:
    response = getattr(client, method)(f"/invites/accept/{quote(key, safe='')}/")
    assert response.status_code == 404
    if method != "head":
        assert "No such invitation" in response.text


def test_an_invitation_that_is_gone_gets_the_same_page(client: Client, invitation: Invitation) -> None:
    url = invitation.accept_path()
    invitation.delete()
    assert client.get(url).status_code == client.post(url).status_code == 404


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(min_size=1).map(lambda text: text.encode("utf-8", "replace").decode()))
@pytest.mark.django_db
def test_no_link_whatsoever_is_an_error(client: Client, key: str) -> None:
    url = "/invites/accept/" + quote(key, safe="") + "/"
    assert client.get(url).status_code == client.post(url).status_code == 404


def test_every_field_has_a_label_and_every_page_a_language_and_nothing_from_elsewhere(
    browser: Client, invitation: Invitation
) -> None:
    for url in (LIST, NEW, BULK, invitation.accept_path(), "/invites/accept/forged/"):
        text = browser.get(url).text
        assert re.search(r'<html lang="[a-z-]+" dir="ltr">', text)
        assert "<title>" in text
        assert "style=" not in text
        assert not re.search(r'(src|href)="(https?:)?//', text)
        labels = set(re.findall(r'<label[^>]* for="([^"]+)"', text))
        fields = re.findall(r'<(?:input|textarea|progress)(?![^>]*type="hidden")[^>]* id="([^"]+)"', text)
        assert set(fields) <= labels


def test_the_urls_have_names() -> None:
    names = ("list", "create", "bulk", "progress")
    assert [reverse(f"mailrail_invitations:{name}") for name in names] == [LIST, NEW, BULK, PROGRESS]
