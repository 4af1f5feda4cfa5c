"""Addresses: what is stored, what is refused and in which words, and how lists are read."""

from __future__ import annotations

from typing import Any

import django
import pytest
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailrail.addresses import spellings, with_ascii_domains
from mailrail.invitations.addresses import (
    Entry,
    LineProblem,
    Reading,
    clean,
    entries,
    normalise,
    read_list,
)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("guest@example.com", "guest@example.com"),
        ("  guest@example.com\t", "guest@example.com"),
        ("Guest@EXAMPLE.COM", "Guest@example.com"),
        ("guest@BÜCHER.example", "guest@bücher.example"),
        ("guest@bu\u0308cher.example", "guest@bücher.example"),
        ("guest@xn--bcher-kva.example", "guest@xn--bcher-kva.example"),
        ("guest@faß.example", "guest@faß.example"),
        ("guest@ＢÜcher。example", "guest@bücher.example"),
        ("guest+tag@example.com", "guest+tag@example.com"),
    ],
)
def test_good_addresses_are_stored_in_one_spelling(written: str, stored: str) -> None:
    assert clean(written) == stored


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("guest", "Enter a valid email address."),
        ("", "Enter a valid email address."),
        ("@", "Enter a valid email address."),
        ("guest@", "Enter a valid email address."),
        ("@example.com", "Enter a valid email address."),
        ("guest@example", "Enter a valid email address."),
        ("guest one@example.com", "Write the address alone"),
        ("guest@example.com@example.org", "Enter a valid email address."),
        ("guest@example.com\nBcc: all@example.com", "It holds a line break"),
        ("guest@example.com\r\n\r\nbody", "It holds a line break"),
        ("guest\0@example.com", "It holds a line break"),
        ("guest@exam\tple.com", "It holds a line break"),
        ("guest\u2028@example.com", "It holds a line break"),
        ("guest\u202e@example.com", "It holds a line break"),
        ("\ud800@example.com", "It holds a line break"),
        ("a@example.com <b@example.com>", "Write the address alone"),
        ("guest@qq.com张三", "Such a domain cannot exist."),
        ("gäst@example.com", "The part before the @"),
        ("gueſt@example.com", "The part before the @"),
        ('"a guest"@example.com', "The part before the @"),
        ("guest@[127.0.0.1]", "Its domain is one of a local network."),
        ("guest@[IPv6:::1]", "Enter a valid email address."),
        ("guest@[::1]", "Its domain is one of a local network."),
        ("guest@localhost", "Its domain is one of a local network."),
        ("guest@LocalHost", "Its domain is one of a local network."),
        ("guest@ｌocalhost", "Its domain is one of a local network."),
        ("guest@mail.localhost", "Its domain is one of a local network."),
        ("guest@printer.local", "Its domain is one of a local network."),
        ("guest@mail.corp.internal", "Its domain is one of a local network."),
        ("guest@router.home.arpa", "Its domain is one of a local network."),
        ("guest@localhost.localdomain", "Its domain is one of a local network."),
        ("guest@nowhere.invalid", "Its domain is one of a local network."),
        ("guest@hidden.onion", "Its domain is one of a local network."),
        ("guest@intranet", "Enter a valid email address."),
        ("guest@127.0.0.1", "Enter a valid email address."),
        ("guest@localhost.", "Its domain is one of a local network."),
        ("guest@evil＠example.com", "Enter a valid email address."),
        ("guest@i♥.ws", "Such a domain cannot exist."),
        ("guest@" + "ü" * 60 + ".example", "Such a domain cannot exist."),
        ("g" * 65 + "@example.com", "It is too long"),
        ("guest@" + "example." * 35 + "com", "It is too long"),
        ("guest@" + "bücher." * 20 + "example", "Such a domain cannot exist."),
        ("g" * 60 + "@" + "bücher." * 14 + "example", "It is too long"),
        ("guest@" + "e" * 400 + ".com", "Enter a valid email address."),
    ],
)
def test_bad_addresses_are_refused_with_a_reason(written: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        clean(written)
    assert caught.value.messages[0].startswith(reason)


LOCAL = ["guest@localhost", "guest@[127.0.0.1]", "guest@mail.corp.internal"]


@pytest.mark.parametrize("address", LOCAL)
def test_a_setting_allows_addresses_of_a_local_network(address: str, with_settings: Any) -> None:
    with_settings(INVITATION_DOMAINS="any")
    assert clean(address) == address


@pytest.mark.parametrize(
    "domain", ["notlocalhost.com", "local.example.com", "internal.example", "arpa.example", "mail.test"]
)
def test_a_public_domain_may_have_such_a_word_in_it(domain: str) -> None:
    assert clean(f"guest@{domain}") == f"guest@{domain}"


def envelope_and_header(address: str) -> tuple[list[str], str]:
    """What Django's own SMTP backend says to the server, and what stands in the header."""
    said: list[list[str]] = []

    class Connection:
        def sendmail(self, sender: str, recipients: list[str], message: bytes) -> None:
            said.append(recipients)

    options: dict[str, Any] = {"alias": "default", "host": "localhost"} if django.VERSION >= (6, 1) else {}
    backend: Any = smtp.EmailBackend(**options)
    backend.connection = Connection()
    mail = EmailMessage("subject", "body", "invites@example.com", [with_ascii_domains(address)])
    backend._send(mail)
    return said[0], str(mail.message()["To"])


LOCAL_PARTS = st.one_of(
    st.from_regex(r"[-!#$%&'*+/=?^_`{}|~0-9A-Za-z.]{1,20}", fullmatch=True),
    st.text(min_size=1, max_size=8),
    st.text(min_size=1, max_size=8).map('"{}"'.format),
)
DOMAINS = st.one_of(
    st.sampled_from(
        ["example.com", "localhost", "[127.0.0.1]", "[::1]", "BÜCHER.example", "example.xn--p1ai"]
    ),
    st.text(min_size=1, max_size=15).map("{}.example".format),
    st.text("abü-.·。ßſK١＠", min_size=1, max_size=70).map("{}.example".format),
)


# Threads that an earlier test has left draw their jitter meanwhile.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(max_examples=1000, deadline=None)
@given(LOCAL_PARTS, DOMAINS)
@example("guest", "evil＠example.com")
@example("gueſt", "example.com")
def test_django_can_mail_every_address_that_is_accepted_and_mails_no_other(local: str, domain: str) -> None:
    try:
        address = clean(f"{local}@{domain}")
    except ValidationError:
        return
    told = with_ascii_domains(address)
    assert told.isascii() and envelope_and_header(address) == ([told], told)


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_lists_are_split_at_lines_commas_and_semicolons_and_lines_are_counted_as_people_see_them() -> None:
    pasted = "\n a@example.com \r\n\r\nb@example.com; c@example.com,\rd@example.com,,\n"
    assert list(entries(pasted)) == [
        Entry(2, "a@example.com"),
        Entry(4, "b@example.com"),
        Entry(4, "c@example.com"),
        Entry(5, "d@example.com"),
    ]


@pytest.mark.parametrize(
    "again", ["guest@bücher.example", "GUEST@xn--bcher-kva.example", "Guest@BÜCHER.EXAMPLE"]
)
def test_an_address_in_another_spelling_is_a_duplicate_and_the_first_line_is_named(again: str) -> None:
    good, problems = read_list([Entry(3, "guest@bücher.example"), Entry(9, again)])
    assert good == [Reading(3, "guest@bücher.example")]
    assert problems == [LineProblem(9, again, "It is already on line 3.", "duplicate")]


@pytest.mark.parametrize("domain", ["xn--zz.example", "xn--0.example", "xn--a.example"])
def test_a_domain_that_has_no_other_spelling_here_has_its_own(domain: str) -> None:
    assert clean(f"guest@{domain}") == f"guest@{domain}"
    assert spellings(f"Guest@{domain}") == [f"guest@{domain}"]


def test_errors_show_neither_control_characters_nor_endless_lines() -> None:
    _, [problem] = read_list([Entry(1, "a\0\x1b[31m" + "x" * 10_000)])
    assert len(problem.text) < 100
    assert problem.text.startswith("a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m")
