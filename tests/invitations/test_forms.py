"""The forms: record and message together, or neither; clear errors for whatever is typed or pasted."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from pytest_django import DjangoAssertNumQueries

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
        bulk.save(sender)
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
        form.save(sender)
    with pytest.raises(ConnectionError):
        single(sender, "guest@example.com").save()
    assert not Invitation.objects.exists()


def test_a_pasted_list_is_saved_and_sent_in_order(sender: User) -> None:
    form = many("one@example.com\r\n\r\nTwo@EXAMPLE.com, three@example.com;\n")
    assert form.is_valid(), form.errors
    invitations = form.save(sender)
    assert [it.email for it in invitations] == ["one@example.com", "Two@example.com", "three@example.com"]
    assert {it.sender for it in invitations} == {sender}
    assert sent_ids() == sorted(it.pk for it in invitations)
    assert len({it.key for it in Invitation.objects.all()}) == 3


def test_every_wrong_line_is_named_with_its_number_and_what_is_wrong() -> None:
    form = many("\ngood@example.com\nbad\nGood@example.com\nA Guest <guest@example.com>")
    assert form.errors["addresses"] == [
        "Line 3, “bad”: Enter a valid email address.",
        "Line 4, “Good@example.com”: It is already on line 2.",
        "Line 5, “A Guest <guest@example.com>”: Write the address alone, without a name or angle brackets.",
    ]


@pytest.mark.parametrize("pasted", ["", " ", "\n\r\n \t", ",;,;\n"])
def test_an_empty_list_says_that_the_field_is_required(pasted: str) -> None:
    assert many(pasted).errors["addresses"] == ["This field is required."]


def test_of_10000_wrong_lines_20_are_shown_and_the_others_counted() -> None:
    errors = many("\n".join(f"wrong-{number}" for number in range(10_000))).errors["addresses"]
    assert len(errors) == 21
    assert errors[19] == "Line 20, “wrong-19”: Enter a valid email address."
    assert errors[20] == "…and 9980 more lines like these."


def test_more_addresses_than_allowed_are_refused_with_both_numbers() -> None:
    errors = many("\n".join(f"guest-{number}@example.com" for number in range(10_001))).errors["addresses"]
    assert errors == ["These are 10001 addresses; 10000 can be invited at once."]


def test_the_limit_can_be_set_by_a_subclass() -> None:
    class Small(BulkInvitationForm):
        max_addresses = 2

    assert Small({"addresses": "one@example.com\ntwo@example.com"}).is_valid()
    assert not Small({"addresses": "one@example.com\ntwo@example.com\nthree@example.com"}).is_valid()


def test_10000_lines_take_a_bounded_number_of_queries(
    sender: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    form = many("\n".join(f"guest-{number}@example.com" for number in range(10_000)))
    assert form.is_valid()
    with django_assert_max_num_queries(500):
        invitations = form.save(sender)
    assert len(invitations) == len(sent_ids()) == 10_000
