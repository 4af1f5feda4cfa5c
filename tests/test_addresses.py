"""The normal form of an address, and domains as servers are told them."""

from __future__ import annotations

import idna
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailrail.addresses import (
    InvalidDomain,
    ascii_domain,
    bare,
    normal_domain,
    normal_form,
    spellings,
    unicode_domain,
    with_ascii_domains,
)

ONE_MAILBOX = [
    "gone@xn--exmple-cua.com",
    "gone@exämple.com",
    "Gone@EXÄMPLE.COM",
    "gone@exa\u0308mple.com",  # decomposed
    "gone@ｅｘämple．com",  # of full width
    "gone@exämple。com",
    "GONE@XN--EXMPLE-CUA.com.",
    " gone@exämple.com ",
]


@pytest.mark.parametrize("address", ONE_MAILBOX)
def test_all_spellings_of_a_mailbox_have_one_normal_form(address: str) -> None:
    assert normal_form(address) == bare(address) == bare(f"張三 <{address.strip()}>") == ONE_MAILBOX[0]
    assert spellings(address) == ["gone@xn--exmple-cua.com", "gone@exämple.com"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x@faß.de", "x@fass.de"),  # one domain for IDNA 2003
        ("\N{KELVIN SIGN}ing@example.com", "king@example.com"),
        ("a.b@example.com", "ab@example.com"),
        ("a+b@example.com", "a@example.com"),
        ("x@i♥.ws", "x@i.ws"),
    ],
)
def test_other_mailboxes_have_other_normal_forms(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


@given(
    st.text(max_size=20) | st.builds("{}@{}".format, st.text(max_size=9), st.text("abß.Ä-。xn", max_size=12))
)
def test_a_normal_form_is_its_own_and_there_is_one_for_whatever_text(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text) == normal_form(text.strip())
    assert bare(bare(text)) == bare(text)


@pytest.mark.parametrize(
    ("domain", "told"),
    [
        ("example.com", "example.com"),
        ("under_score.example", "under_score.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("例子.公司", "xn--fsqu00a.xn--55qx5d"),
        ("qq。com", "qq.com"),
        ("xn--fa-hia.de", "xn--fa-hia.de"),
    ],
)
def test_a_server_is_told_a_domain_by_idna_2008(domain: str, told: str) -> None:
    assert ascii_domain(domain) == told


@pytest.mark.parametrize(
    "domain",
    ["i♥.ws", "evil＠example.com", "a_b.bücher.de", "ü..de", "ü" * 64 + ".de", "\u200dx.de", "ü٣.de"],
)
def test_a_domain_that_idna_2008_does_not_know_is_refused_and_still_compared(domain: str) -> None:
    with pytest.raises(InvalidDomain, match=r"write it as xn--"):
        ascii_domain(domain)
    assert normal_domain(domain.upper()) == normal_domain(domain)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("x@faß.de", "x@xn--fa-hia.de"),
        ("張三 <x@faß.de>", "張三 <x@xn--fa-hia.de>"),
        ("Ä <a@example.com>, x@faß.de", "Ä <a@example.com>, x@xn--fa-hia.de"),
        ('"x@faß.de" <x@example.com>', '"x@faß.de" <x@example.com>'),
        ("x@example.com (x@faß.de)", "x@example.com (x@faß.de)"),
        ("grün@example.com", "grün@example.com"),
        ("A Name <x@example.com>", "A Name <x@example.com>"),
    ],
)
def test_of_a_header_the_domains_alone_are_encoded(text: str, written: str) -> None:
    assert with_ascii_domains(text) == written


def encoded(domain: str) -> str | None:
    try:
        return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except UnicodeError:
        return None


def told(domain: str) -> str | None:
    try:
        return ascii_domain(domain)
    except InvalidDomain:
        return None


LABELS = st.text(max_size=9) | st.text("aBz1-ßäÄ\u0308\u00ad\u200dﾞ٣مو域ªⅷ⒈…_", max_size=9)
LABELS |= st.sampled_from(
    ["com", "xn--fa-hia", "XN--FA-HIA", "xn--", "xn--a", "ü" * 57, "ü" * 58, "e" * 63, "e" * 64]
)


@given(
    st.lists(st.tuples(LABELS, st.sampled_from(".。．｡")), min_size=1, max_size=6),
    st.sampled_from(["", ".", "ü", "。"]),
)
@example([("ä" * 40, ".")] * 5 + [("e" * 21, ".")], "")
@example([("\u00ad", "."), ("ü", ".")], "\u00ad")
def test_a_domain_of_converted_labels_is_the_domain_converted_as_a_whole(
    labels: list[tuple[str, str]], end: str
) -> None:
    domain = "".join(label + dot for label, dot in labels).removesuffix(".") + end
    expected = domain if domain.isascii() else encoded(domain)
    assert told(domain) == expected
    if expected is not None and not domain.isascii():
        assert unicode_domain(domain) == unicode_domain(expected) == idna.decode(expected)
