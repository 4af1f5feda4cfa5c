"""The forms: record and message together, or neither; clear errors for whatever is typed or pasted."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from mailrail.invitations.bulk import confirm
from mailrail.invitations.forms import BulkInvitationForm, InvitationForm
from mailrail.invitations.models import Invitation
from mailrail.testing import sent


def sent_ids() -> list[int]:
    return sorted(message.content["id"] for message in sent("send-invite"))


def single(sender: User, email: str) -> InvitationForm:
    form = InvitationForm({"email": email})
    form.instance.sender = sender
    return form


def many(pasted: str) -> BulkInvitationForm:
    return BulkInvitationForm({"addresses": pasted})


def test_saving_the_form_saves_the_invitation_and_sends_its_id(sender: User) -> None:
    invitation = single(sender, "guest@example.com").save()
    assert Invitation.objects.get() == invitation
    assert [message.content for message in sent("send-invite")] == [{"id": invitation.pk}]


def test_without_commit_nothing_is_saved_and_nothing_is_sent(sender: User) -> None:
    invitation = single(sender, "guest@example.com").save(commit=False)
    assert invitation.pk is None
    assert not Invitation.objects.exists()
    assert sent_ids() == []


@pytest.mark.django_db(transaction=True)
def test_a_rollback_takes_back_the_invitation_and_its_message(sender: User) -> None:
    bulk = many("one@example.com\ntwo@example.com")
    assert bulk.is_valid()
    with transaction.atomic():
        single(sender, "guest@example.com").save()
        confirm(bulk.save(sender))
        assert len(sent_ids()) == 3
        transaction.set_rollback(True)
    assert not Invitation.objects.exists()
    assert sent_ids() == []


@pytest.mark.django_db(transaction=True)
def test_an_invitation_that_cannot_be_saved_is_not_sent(db: None) -> None:
    form = InvitationForm({"email": "guest@example.com"})  # nobody set the sender
    with pytest.raises(IntegrityError):
        form.save()
    assert sent_ids() == []


@pytest.mark.django_db(transaction=True)
def test_invitations_whose_messages_cannot_be_sent_are_not_saved(
    sender: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the layer is gone")

    monkeypatch.setattr("mailrail.Channel.send", refuse)
    monkeypatch.setattr("mailrail.Channel.send_many", refuse)
    form = many("one@example.com\ntwo@example.com")
    assert form.is_valid()
    with pytest.raises(ConnectionError):
        confirm(form.save(sender))
    with pytest.raises(ConnectionError):
        single(sender, "guest@example.com").save()
    assert not Invitation.objects.exists()


@pytest.mark.parametrize("pasted", ["", " ", "\n\r\n \t", ",;,;\n"])
def test_an_empty_list_says_that_the_field_is_required(pasted: str) -> None:
    assert many(pasted).errors["addresses"] == ["This field is required."]


def test_more_addresses_than_allowed_are_refused_with_both_numbers() -> None:
    errors = many("\n".join(f"guest-{number}@example.com" for number in range(10_001))).errors["addresses"]
    assert errors == ["There are 10001 addresses; 10000 can be invited at once."]


def test_the_limit_can_be_set_by_a_subclass() -> None:
    class Small(BulkInvitationForm):
        max_addresses = 2

    assert Small({"addresses": "one@example.com\ntwo@example.com"}).is_valid()
    assert not Small({"addresses": "one@example.com\ntwo@example.com\nthree@example.com"}).is_valid()
