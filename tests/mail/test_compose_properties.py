"""At random: what is composed reads as what Django sends, is valid on the wire, and fails where Django fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.mail import EmailMessage
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from mailrail.addresses import InvalidDomain
from mailrail.mail.compose import compose, dialect
from mailrail.mail.compose.common import write
from mailrail.mail.compose.headers import Uncommon

from .messages import any_message, common
from .reading import by_django, check_wire, expected, read

thorough = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


@thorough
@given(common())
def test_a_common_message_is_written_fast_and_reads_as_what_django_sends(message: EmailMessage) -> None:
    note(repr(vars(message)))
    data = write(message, None, None)
    assert read(data) == expected(message)
    check_wire(data)


@thorough
@given(common())
def test_without_8bitmime_a_common_message_is_ascii_and_reads_the_same(message: EmailMessage) -> None:
    note(repr(vars(message)))
    data = write(message, None, None, eight_bit=False)
    assert data.isascii()
    assert read(data) == expected(message)
    check_wire(data)


@thorough
@given(any_message())
def test_any_message_reads_as_what_django_sends_or_fails_as_it_does(message: EmailMessage) -> None:
    note(repr(vars(message)))
    failure = _failure_of(by_django, message)
    try:
        data = write(message, None, None)
    except Uncommon as reason:
        event(f"Django writes: {reason}")
        ours = _failure_of(
            compose, message
        )  # and if there is none it is what Django wrote, see test_compose.py
        # Django writes what is no domain by IDNA 2008, see test_domains.py.
        assert isinstance(ours, InvalidDomain) or _told(ours) == _told(failure)
    else:
        event("fast")
        assert failure is None
        assert read(data) == expected(message)
        check_wire(data)


@thorough
@given(st.lists(st.text("a =.\t\x01~", max_size=90) | st.text("ab ", min_size=60, max_size=300), max_size=12))
def test_base64_is_ruled_out_only_where_it_is_longer(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines).encode()
    quick = dialect.base64_is_shorter(text, eight_bit=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "_are_short_when_quoted", lambda lines: False)
        assert dialect.base64_is_shorter(text, eight_bit=False) == quick


def _failure_of(action: Callable[[EmailMessage], object], message: EmailMessage) -> Exception | None:
    try:
        action(message)
    except Exception as failure:
        return failure
    return None


def _told(failure: Exception | None) -> object:
    return failure and (type(failure), str(failure))
