"""The record: its address, its link, its acceptance."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.conf import LazySettings
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured

from mailrail.invitations.models import Invitation


def test_it_says_who_invited_whom(invitation: Invitation) -> None:
    assert str(invitation) == "sender invited guest@example.com"


def test_the_address_is_stored_without_spaces_and_with_its_domain_in_lower_case(sender: User) -> None:
    invitation = Invitation.objects.create(email=" Guest.One@EXAMPLE.Com ", sender=sender)
    invitation.refresh_from_db()
    assert invitation.email == "Guest.One@example.com"


def test_the_key_is_the_same_before_and_after_it_is_saved_and_loaded(sender: User) -> None:
    invitation = Invitation(email="guest@example.com", sender=sender)
    key = invitation.key
    invitation.save()
    assert Invitation.objects.get(pk=invitation.pk).key == key


def test_the_first_acceptance_is_the_one_that_counts(invitation: Invitation) -> None:
    again = Invitation.objects.get(pk=invitation.pk)
    assert invitation.accept() is True
    first = invitation.accepted_at
    assert first is not None
    assert again.accept() is False
    assert again.accepted_at == first
    assert invitation.accept() is False


def test_accepting_what_was_deleted_meanwhile_says_that_it_does_not_exist(invitation: Invitation) -> None:
    Invitation.objects.all().delete()
    invitation.pk = invitation.pk or 1
    with pytest.raises(Invitation.DoesNotExist):
        invitation.accept()


@pytest.mark.parametrize("base_url", ["https://example.org", "https://example.org/"])
def test_the_link_begins_with_the_base_url(
    invitation: Invitation, settings: LazySettings, base_url: str
) -> None:
    settings.MAILRAIL = {"BASE_URL": base_url}
    assert invitation.accept_url() == f"https://example.org/invites/accept/{invitation.key}/"


def test_the_base_url_may_hold_the_path_that_the_site_is_mounted_at(
    invitation: Invitation, settings: LazySettings
) -> None:
    settings.MAILRAIL = {"BASE_URL": "https://example.org/app"}
    assert invitation.accept_url() == f"https://example.org/app{invitation.accept_path()}"


def test_without_a_base_url_and_sites_the_error_names_both(
    invitation: Invitation, settings: LazySettings
) -> None:
    settings.MAILRAIL = {}
    with pytest.raises(ImproperlyConfigured, match=r'MAILRAIL\["BASE_URL"\].*django\.contrib\.sites'):
        invitation.accept_url()


def test_without_a_base_url_the_current_site_is_taken(invitation: Invitation, settings: LazySettings) -> None:
    settings.MAILRAIL = {}
    settings.SITE_ID = 1
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.sites"]
    sites = import_module("django.contrib.sites.models")  # cannot be imported before it is installed
    sites.SITE_CACHE[1] = sites.Site(pk=1, domain="example.net", name="example.net")
    try:
        assert invitation.accept_url() == f"https://example.net/invites/accept/{invitation.key}/"
    finally:
        sites.SITE_CACHE.clear()
        if admin.site.is_registered(
            sites.Site
        ):  # by what installs it; pages of later tests would look for its app
            admin.site.unregister(sites.Site)


def test_the_status_tells_how_far_it_got(invitation: Invitation) -> None:
    assert invitation.status == "waiting"
    invitation.sent = invitation.created
    assert invitation.status == "sent"
    invitation.accept()
    assert invitation.status == "accepted"
