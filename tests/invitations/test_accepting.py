"""Acceptance: who may, what everybody else is told, and what no page ever tells."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.dispatch import receiver
from django.test import Client
from django.utils import timezone

from mailrail.invitations import invitation_accepted, resend, revoke
from mailrail.invitations.accepting import STASHED
from mailrail.invitations.models import Invitation
from mailrail.invitations.signup import sign_up_form

CONTINUE, SIGN_UP = "/invites/accept/", "/invites/sign-up/"


@pytest.fixture
def guest(db: None, client: Client) -> User:
    """The invited one, logged in."""
    user = User.objects.create_user("guest", "Guest@Example.com", "a long word")
    client.force_login(user)
    return user


def accepted() -> bool:
    return Invitation.objects.get().accepted_at is not None


def test_who_has_the_invited_address_accepts(client: Client, guest: User, invitation: Invitation) -> None:
    url = invitation.accept_path()
    assert "Accept the invitation" in client.get(url).text
    response = client.post(url, follow=True)
    assert response.redirect_chain == [(url, 302)] and response.status_code == 200
    assert "The invitation was accepted on" in response.text
    assert Invitation.objects.get().accepted_by == guest


@pytest.mark.parametrize(
    "email",
    [
        "other@example.com",
        "",
        "not an address",
        "x@" + "ü" * 70,
        "\N{KELVIN SIGN}ing@example.com",
        "guest+1@example.com",
        "g.uest@example.com",
    ],
)
def test_who_has_another_address_may_not_and_is_told_so(
    client: Client, guest: User, invitation: Invitation, email: str
) -> None:
    User.objects.filter(pk=guest.pk).update(email=email)
    invitation.email = "king@example.com" if "ing" in email else invitation.email
    invitation.save()
    for response in (client.get(invitation.accept_path()), client.post(invitation.accept_path())):
        assert response.status_code == 403
        assert "You are logged in as guest, whose address is another one." in response.text
    assert not accepted()


def test_whose_account_has_no_address_has_another_one(
    client: Client, guest: User, invitation: Invitation, with_settings: Any
) -> None:
    with_settings(INVITATION_EMAILS_OF=f"{__name__}.no_addresses")
    assert client.get(invitation.accept_path()).status_code == 403


def no_addresses(user: Any) -> list[Any]:
    """As of a user model whose address may be NULL."""
    return [None]


def test_who_is_not_logged_in_is_asked_to_and_comes_back(client: Client, invitation: Invitation) -> None:
    guest = User.objects.create_user("guest", "guest@example.com", "a long word")
    url = invitation.accept_path()
    page = client.get(url)
    assert page.status_code == 200 and "Accept the invitation" not in page.text
    for go in ({"go": "log-in"}, {}):
        assert client.post(url, go)["Location"] == "/accounts/login/?next=/invites/accept/"
    client.force_login(guest)
    response = client.get(CONTINUE, follow=True)
    assert response.redirect_chain == [(url, 302)]
    assert "Accept the invitation" in response.text
    assert not accepted()


def test_who_is_logged_in_as_somebody_else_can_change_that(browser: Client, invitation: Invitation) -> None:
    response = browser.post(invitation.accept_path(), {"go": "log-in"})
    assert response["Location"] == "/accounts/login/?next=/invites/accept/"
    assert "_auth_user_id" not in browser.session and browser.session[STASHED] == invitation.key


@pytest.mark.parametrize("registered", [False, True])
def test_no_page_tells_whether_the_address_is_registered(
    client: Client, invitation: Invitation, registered: bool
) -> None:
    def all_pages() -> list[str]:
        url = invitation.accept_path()
        responses = [
            client.get(url),
            client.post(url),
            client.post(url, {"go": "sign-up"}),
            client.get(SIGN_UP),
        ]
        pages = [
            f"{response.status_code} {response.headers.get('Location')} {response.text}"
            for response in responses
        ]
        return [re.sub(r'value="\w{64}"|nonce="[^"]+"', "", page) for page in pages]

    before = all_pages()
    if registered:
        User.objects.create_user("guest", "guest@example.com")
    assert all_pages() == before


def test_the_key_stands_in_the_address_of_no_other_page(client: Client, invitation: Invitation) -> None:
    for go in ("log-in", "sign-up"):
        assert invitation.key not in client.post(invitation.accept_path(), {"go": go})["Location"]


def close(how: str, invitation: Invitation) -> None:
    if how == "revoked":
        revoke(invitation)
    elif how == "expired":
        Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    elif how == "replaced":
        resend(Invitation.objects.get())
    elif how == "used":
        invitation.accept(User.objects.create_user("quicker"))
    else:
        User.objects.filter(username="sender").update(is_active=False)


@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize("mode", ["email", "link"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("revoked", "It was withdrawn."),
        ("expired", "Its time has run out."),
        ("replaced", "It was sent again since, with a new link."),
        ("used", "It was accepted already."),
        ("withdrawn", "It was withdrawn."),
    ],
)
def test_what_is_over_is_gone_and_says_why(
    client: Client,
    invitation: Invitation,
    with_settings: Any,
    how: str,
    said: str,
    mode: str,
    logged_in: bool,
) -> None:
    with_settings(INVITATION_ACCEPT=mode)
    if logged_in:
        client.force_login(User.objects.create_user("guest", "guest@example.com"))
    url = invitation.accept_path()
    close(how, invitation)
    before = Invitation.objects.values().get()
    for response in (client.get(url), client.post(url)):
        assert response.status_code == 410
        assert said in response.text
        assert "guest@example.com" not in response.text and "quicker" not in response.text
        assert response["Referrer-Policy"] == "same-origin" and "no-store" in response["Cache-Control"]
    assert client.head(url).status_code == 410
    assert Invitation.objects.values().get() == before


def test_the_senders_rights_are_asked_again_at_acceptance(
    client: Client, guest: User, invitation: Invitation, with_settings: Any
) -> None:
    with_settings(INVITATION_MAY_INVITE=f"{__name__}.only_readers")
    assert client.post(invitation.accept_path()).status_code == 410
    assert not accepted()
    Invitation.objects.update(role="reader")
    assert client.post(invitation.accept_path()).status_code == 302
    assert accepted()


def only_readers(sender: Any, invitation: Any) -> bool:
    assert sender.username == "sender"
    return bool(invitation.role == "reader")


def test_with_open_links_whoever_has_the_link_accepts_and_sees_it_again(
    client: Client, invitation: Invitation, with_settings: Any
) -> None:
    with_settings(INVITATION_ACCEPT="link")
    url = invitation.accept_path()
    assert client.post(url).status_code == 302
    assert client.get(url).status_code == 200
    assert client.post(url)["Location"] == url
    assert Invitation.objects.get().accepted_by is None
    assert Client().get(url).status_code == 410


def test_of_two_people_with_the_link_the_first_one_accepts(
    client: Client, invitation: Invitation, with_settings: Any
) -> None:
    """The second one opened the page before the first one accepted, and is told what happened."""
    with_settings(INVITATION_ACCEPT="link")
    first = Client()

    @receiver(invitation_accepted)
    def count(**said: Any) -> None:
        calls.append(said["invitation"])

    calls: list[Any] = []
    assert client.get(invitation.accept_path()).status_code == 200
    assert first.post(invitation.accept_path()).status_code == 302
    assert client.post(invitation.accept_path()).status_code == 410
    invitation_accepted.disconnect(count)
    assert calls == [invitation]


@pytest.mark.parametrize(
    ("url", "to"),
    [
        ("/projects/7/", "/projects/7/"),
        ("http://testserver/projects/", "http://testserver/projects/"),
        ("https://evil.example/", None),
        ("//evil.example/", None),
        ("/\\evil.example", None),
        ("javascript:alert(1)", None),
        ("", None),
        ("?tab=7", "?tab=7"),
        ("no:such:view", None),
        ("login", "login"),
        ("/" + "long" * 5000, None),
    ],
)
def test_next_leads_to_pages_of_this_site_only(
    client: Client, guest: User, invitation: Invitation, url: str, to: str | None
) -> None:
    page = client.get(invitation.accept_path(), {"next": url})
    assert (f'name="next" value="{url}"' in page.text) == (to is not None)
    assert client.post(invitation.accept_path(), {"next": url})["Location"] == (
        to or invitation.accept_path()
    )


def test_next_is_kept_while_somebody_logs_in(client: Client, invitation: Invitation) -> None:
    response = client.post(invitation.accept_path(), {"next": "/projects/7/", "go": "log-in"})
    assert response["Location"] == "/accounts/login/?next=/invites/accept/%3Fnext%3D%252Fprojects%252F7%252F"
    response = client.get(CONTINUE, {"next": "/projects/7/"})
    assert response["Location"] == f"{invitation.accept_path()}?next=%2Fprojects%2F7%2F"


@pytest.mark.parametrize(
    ("url", "to"), [("/projects/7/", "/projects/7/"), ("//evil.example/", None), ("", None)]
)
def test_next_is_kept_while_somebody_signs_up(
    client: Client, invitation: Invitation, url: str, to: str | None
) -> None:
    page = client.post(invitation.accept_path(), {"next": url, "go": "sign-up"})["Location"]
    response = client.post(page, NEW, follow=True)
    assert accepted() and response.redirect_chain[-1] == (to or invitation.accept_path(), 302)


@pytest.mark.parametrize("url", [CONTINUE, SIGN_UP])
@pytest.mark.django_db
def test_who_comes_from_no_invitation_gets_a_friendly_page(client: Client, url: str) -> None:
    response = client.get(url)
    assert response.status_code == 404 and "No such invitation" in response.text


NEW = {"username": "newcomer", "password1": "a long word 17", "password2": "a long word 17"}


def test_who_signs_up_has_the_invited_address_and_has_accepted(
    client: Client, invitation: Invitation
) -> None:
    response = client.post(invitation.accept_path(), {"go": "sign-up"}, follow=True)
    assert response.redirect_chain == [(f"{SIGN_UP}?next=/invites/accept/", 302)]
    assert 'name="email"' not in response.text
    response = client.post(SIGN_UP, {**NEW, "email": "other@example.com"}, follow=True)
    assert response.redirect_chain == [(invitation.accept_path(), 302)]
    assert "The invitation was accepted on" in response.text
    user = User.objects.get(username="newcomer")
    assert user.email == "guest@example.com" and user.check_password("a long word 17")
    assert Invitation.objects.get().accepted_by == user
    assert client.session["_auth_user_id"] == str(user.pk)


def test_a_sign_up_that_cannot_be_is_explained_and_accepts_nothing(
    client: Client, invitation: Invitation
) -> None:
    client.post(invitation.accept_path(), {"go": "sign-up"})
    for wrong in ({**NEW, "password2": "another"}, {**NEW, "username": "sender"}, {}):
        response = client.post(SIGN_UP, wrong)
        assert response.status_code == 200 and "errorlist" in response.text
    assert User.objects.count() == 1 and not accepted()


def test_a_link_that_dies_while_somebody_signs_up_makes_no_account(
    client: Client, invitation: Invitation
) -> None:
    client.post(invitation.accept_path(), {"go": "sign-up"})
    revoke(invitation)
    assert client.post(SIGN_UP, NEW).status_code == 410
    assert User.objects.count() == 1


def test_one_that_is_accepted_just_then_makes_no_account_either(
    client: Client, invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post(invitation.accept_path(), {"go": "sign-up"})
    save = User.save

    def overtaken(self: User, *args: Any, **named: Any) -> None:
        Invitation.objects.update(accepted_at=timezone.now())
        save(self, *args, **named)

    monkeypatch.setattr(User, "save", overtaken)
    response = client.post(SIGN_UP, NEW)
    assert response.status_code == 200 and "No account could be made of this." in response.text
    assert not User.objects.filter(username="newcomer").exists()


def test_the_form_asks_for_no_address() -> None:
    assert "email" not in sign_up_form().base_fields


def test_a_project_without_sign_up_offers_none(
    client: Client, invitation: Invitation, with_settings: Any
) -> None:
    assert "Sign up" in client.get(invitation.accept_path()).text
    with_settings(INVITATION_SIGNUP=None)
    assert "Sign up" not in client.get(invitation.accept_path()).text
    response = client.post(invitation.accept_path(), {"go": "sign-up"})
    assert response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("page", [None, "/accounts/join/"])
def test_nobody_signs_up_where_the_project_does_not_have_them_sign_up(
    client: Client, invitation: Invitation, with_settings: Any, page: str | None
) -> None:
    with_settings(INVITATION_SIGNUP=page)
    client.post(invitation.accept_path(), {"go": "log-in"})
    for response in (client.get(SIGN_UP), client.post(SIGN_UP, NEW)):
        assert response.status_code == 302 and response["Location"] == invitation.accept_path()
    assert User.objects.count() == 1 and not accepted()


def test_a_scanner_that_opens_every_link_burns_nothing(client: Client, invitation: Invitation) -> None:
    before = Invitation.objects.values().get()
    text = client.get(invitation.accept_path()).text
    for url in {invitation.accept_path(), *re.findall(r'href="([^"]+)"', text), CONTINUE, SIGN_UP}:
        client.get(url)
    assert Invitation.objects.values().get() == before
    assert User.objects.count() == 1
