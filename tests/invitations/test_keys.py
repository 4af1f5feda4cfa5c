"""Keys: who holds one gets in, and nobody else, whatever they know or try."""

from __future__ import annotations

import string
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailrail.invitations import keys
from mailrail.invitations.models import Invitation

ALPHABET = string.ascii_letters + string.digits + "-_"


def refused(key: object) -> bool:
    try:
        Invitation.objects.get_by_key(key)
    except Invitation.DoesNotExist:
        return True
    return False


def test_the_key_finds_its_invitation(invitation: Invitation) -> None:
    assert Invitation.objects.get_by_key(invitation.key) == invitation


def test_keys_have_one_width_and_need_no_quoting_in_a_url(sender: User) -> None:
    for number in range(50):
        key = Invitation(email=f"guest-{number}@example.com", sender=sender).key
        assert len(key) == keys.KEY_LENGTH == 48
        assert set(key) <= set(ALPHABET)


def test_ids_salts_and_keys_are_never_the_same_twice(sender: User) -> None:
    made = [Invitation(email="guest@example.com", sender=sender) for _ in range(200)]
    assert (
        len({record.public_id for record in made})
        == len({record.salt for record in made})
        == len({record.key for record in made})
        == 200
    )


def test_the_parts_are_as_long_as_promised() -> None:
    assert keys.PUBLIC_ID_BYTES * 8 >= 64
    assert keys.MAC_BYTES * 8 >= 128
    assert keys.SALT_BYTES * 8 >= 128


@pytest.mark.parametrize("place", range(keys.KEY_LENGTH))
def test_a_key_with_one_letter_changed_opens_nothing(invitation: Invitation, place: int) -> None:
    letter = "A" if invitation.key[place] != "A" else "B"
    assert refused(invitation.key[:place] + letter + invitation.key[place + 1 :])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "other@example.com"),
        ("generation", 2),
        ("salt", "A" * keys.SALT_LENGTH),
        ("public_id", "A" * keys.PUBLIC_ID_LENGTH),
    ],
)
def test_changing_any_field_of_the_row_makes_its_key_useless(
    invitation: Invitation, field: str, value: Any
) -> None:
    key = invitation.key
    Invitation.objects.filter(pk=invitation.pk).update(**{field: value})
    assert refused(key)


def test_the_mac_of_one_invitation_does_not_open_another(invitation: Invitation, sender: User) -> None:
    other = Invitation.objects.create(email=invitation.email, sender=sender)
    at = keys.PUBLIC_ID_LENGTH
    assert refused(other.key[:at] + invitation.key[at:])


def test_the_mac_covers_the_id_too() -> None:
    made = [keys.make_key(id * 16, 1, "guest@example.com", "salt") for id in "ab"]
    assert len({key[keys.PUBLIC_ID_LENGTH :] for key in made}) == 2


def test_fields_that_read_alike_when_joined_have_different_keys() -> None:
    assert keys.make_key("a" * 16, 1, "1@example.com", "s") != keys.make_key(
        "a" * 16, 11, "@example.com", "s"
    )
    assert keys.make_key("a" * 16, 1, 'x", "y', "s") != keys.make_key("a" * 16, 1, "x", 'y", "s')


def test_a_key_from_before_a_change_of_the_secret_is_good_while_the_old_one_is_a_fallback(
    invitation: Invitation, settings: LazySettings
) -> None:
    key, old = invitation.key, settings.SECRET_KEY
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new secret", ["an even older one", old]
    assert Invitation.objects.get_by_key(key) == invitation
    assert Invitation.objects.get_by_key(invitation.key) == invitation
    assert invitation.key != key
    settings.SECRET_KEY_FALLBACKS = []
    assert refused(key)


def test_a_leaked_table_opens_nothing_without_the_secret(invitation: Invitation) -> None:
    """Everything that is stored, and the code, and a wrong guess of the secret: not enough."""
    row = Invitation.objects.values("public_id", "generation", "email", "salt").get()
    for guess in ("", "guess", row["salt"], row["public_id"]):
        assert refused(keys.make_key(**row, secret=guess))
    stored = [str(value) for value in Invitation.objects.values_list().get()]
    assert not any(invitation.key[keys.PUBLIC_ID_LENGTH :] in value for value in stored)


def test_an_unknown_id_costs_the_same_work_as_a_forged_key(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query and as many MACs, so that the time it takes does not tell which ids there are."""
    macs: list[str] = []
    make_key = keys.make_key

    def counted(public_id: str, *fields: Any) -> str:
        macs.append(public_id)
        return make_key(public_id, *fields)

    monkeypatch.setattr(keys, "make_key", counted)
    work = []
    for key in (invitation.public_id + "A" * 32, "A" * 48):
        macs.clear()
        with CaptureQueriesContext(connection) as queries:
            assert refused(key)
        work.append((len(queries), len(macs)))
    assert work == [(1, 1), (1, 1)]


@pytest.mark.parametrize("key", [None, 7, 1.5, b"A" * 48, [], {}, object(), True])
def test_what_is_no_string_is_no_key(invitation: Invitation, key: object) -> None:
    assert refused(key)


@pytest.mark.parametrize("extra", ["\n", "\0", " ", "=", "A", "/", "é", "\ud800"])
def test_nothing_may_be_added_to_a_key(invitation: Invitation, extra: str) -> None:
    assert refused(invitation.key + extra)
    assert refused(extra + invitation.key)
    assert refused(invitation.key[:-1] + extra) or extra == invitation.key[-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text(min_size=48, max_size=48),
        st.text(ALPHABET, min_size=48, max_size=48),
        st.binary(max_size=60),
        st.integers(),
        st.none(),
    )
)
@example("\ud800" * 48)
@example("\uff21" * 48)
@example("٣" * 48)
def test_whatever_is_tried_is_either_the_key_or_does_not_exist(invitation: Invitation, key: object) -> None:
    assert refused(key) or key == invitation.key
