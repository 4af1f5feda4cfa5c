"""What a record keeps of a message comes back the same: through JSON, on its own and at random."""

from __future__ import annotations

import email
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from email import policy
from email.charset import QP, Charset
from email.headerregistry import Address
from email.message import EmailMessage as MimeMessage
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.text import MIMEText
from typing import Any
from uuid import UUID

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from mailrail.mail.compose import compose, compose_fields, style
from mailrail.mail.queueing.serialize import FinishedMessage, common_fields, dump, load
from mailrail.mail.queueing.values import CannotBeStored, pack, unpack

from .messages import any_message, common
from .reading import by_django, read
from .test_compose import FAST, MODERN, UNCOMMON, Signed, WithTags, attached, changed, mail


def stored(message: EmailMessage) -> EmailMessage:
    content, files = dump(message)
    return load(json.loads(json.dumps(content, allow_nan=False)), dict(files))


def outcome(message: EmailMessage) -> Any:
    try:
        return read(compose(message).data)
    except Exception as failure:
        return type(failure), str(failure)


BUILD = {**FAST, **UNCOMMON}


@pytest.mark.parametrize("name", BUILD)
def test_it_composes_as_before(name: str) -> None:
    message = BUILD[name]()
    again = stored(message)
    assert outcome(again) == outcome(message)
    assert again.recipients() == message.recipients()


def test_a_content_leaves_out_what_every_new_message_has() -> None:
    message = EmailMessage("Hi", "Text", "ann@example.com", ["bob@example.com"])
    short, _ = dump(message)
    said = {"subject": "Hi", "body": "Text", "from_email": "ann@example.com", "to": ["bob@example.com"]}
    assert short == {"v": 1, "kind": "message", "fields": said}
    unsaid: dict[str, Any] = {"cc": [], "bcc": [], "reply_to": [], "extra_headers": {}, "encoding": None}
    fields = {**said, **unsaid, "content_subtype": "plain"}
    whole = {**short, "fields": fields, "attachments": [], "attributes": {}, "files": {}, "large": []}
    assert common_fields(whole, {}) == common_fields(short, {}) is not None
    assert outcome(load(whole, {})) == outcome(load(short, {})) == outcome(message)


def by_both_roads(message: EmailMessage, eight_bit: bool) -> tuple[bytes | None, bytes]:
    """Return the bytes from the stored fields, if they are plain, and from the stored message."""
    content, files = dump(message)
    content = json.loads(json.dumps(content, allow_nan=False))
    written: Any = {"message_id": "<one@example.com>", "date": datetime(2026, 11, 30, 3, 9, tzinfo=UTC)}
    fields = common_fields(content, dict(files))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.urandom", lambda size: b"x" * size)  # boundaries
        of_fields = fields and compose_fields(
            fields, **written, style=style(), eight_bit=eight_bit, smtputf8=True
        )
        of_message = compose(load(content, dict(files)), **written, eight_bit=eight_bit, smtputf8=True)
    assert of_fields is None or of_fields == of_message
    return of_fields and of_fields.data, of_message.data


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(common(), st.booleans())
def test_a_common_content_is_written_without_a_message_octet_for_octet(
    message: EmailMessage, eight_bit: bool
) -> None:
    note(repr(vars(message)))
    straight, _ = by_both_roads(message, eight_bit)
    assert straight is not None


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(any_message(), st.booleans())
def test_any_content_is_written_the_same_on_both_roads_or_on_one(
    message: EmailMessage, eight_bit: bool
) -> None:
    note(repr(vars(message)))
    try:
        by_both_roads(message, eight_bit)
    except AssertionError:
        raise
    except Exception as failure:  # what cannot be stored or written fails on the usual road, too
        note(repr(failure))


@pytest.mark.parametrize("name", FAST)
def test_what_is_written_fast_needs_no_message(name: str) -> None:
    straight, _ = by_both_roads(FAST[name](), eight_bit=True)
    assert straight is not None


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(any_message())
def test_any_message_composes_as_before(message: EmailMessage) -> None:
    note(repr(vars(message)))
    again = stored(message)
    assert outcome(again) == outcome(message)
    assert again.recipients() == message.recipients()
    assert type(again) is type(message)


def test_the_message_is_left_as_it_was_and_comes_back_field_by_field() -> None:
    message = FAST["everything"]()
    before = repr(vars(message))
    again = stored(message)
    assert repr(vars(message)) == before
    assert {name: getattr(again, name) for name in vars(message)} == vars(message)


def test_same_bytes_are_the_same_file() -> None:
    _, files = dump(attached(("a.pdf", b"x", "a/b"), ("b.pdf", b"x", "a/b")))
    assert len(files) == 2
    assert len(dict(files)) == 1


def test_same_named_attachments_stay_apart() -> None:
    again = stored(attached(("a.txt", "1", "text/plain"), ("a.txt", "2", "text/plain")))
    assert [tuple(each) for each in again.attachments] == [
        ("a.txt", "1", "text/plain"),
        ("a.txt", "2", "text/plain"),
    ]


ANYMAIL: dict[str, Any] = {
    "tags": ["invitation", "first"],
    "metadata": {"user": 7},
    "merge_data": {"ann@example.com": {"name": "Ann"}},
    "merge_global_data": {"shop": gettext_lazy("Shop")},
    "esp_extra": {"MessageStream": "outbound", "nested": [{"a": None}]},
    "template_id": 12345,
    "send_at": datetime(2026, 11, 24, 15, 5, tzinfo=UTC),
    "envelope_sender": "bounces@example.com",
    "track_opens": True,
    "track_clicks": False,
}


@pytest.mark.parametrize("kind", [WithTags, Signed])
def test_the_attributes_of_anymail_survive(kind: type[EmailMessage]) -> None:
    message = kind("Hi", "Hello", "shop@example.com", ["ann@example.com"])
    for name, value in ANYMAIL.items():
        setattr(message, name, value)
    again = stored(message)
    assert {name: getattr(again, name) for name in ANYMAIL} == ANYMAIL


def test_a_class_that_only_adds_attributes_comes_back_as_djangos_with_them() -> None:
    again = stored(WithTags("Hi", tags=["x"]))
    assert type(again) is EmailMultiAlternatives
    assert vars(again)["tags"] == ["x"]


class HTMLByClass(EmailMessage):
    content_subtype = "html"


def test_what_a_class_says_for_all_its_messages_survives() -> None:
    assert stored(HTMLByClass("Hi", "<p>")).content_subtype == "html"


def test_a_class_with_its_own_message_is_kept_as_its_bytes() -> None:
    message = Signed("Hi", "Größe", "shop@example.com", ["ann@example.com"], bcc=["secret@example.com"])
    again = stored(message)
    first, second = compose(again), compose(again)
    assert isinstance(again, FinishedMessage)
    assert first == second
    assert b"X-Signature: abc" in first.data
    assert b"secret" not in first.data
    assert again.recipients() == ["ann@example.com", "secret@example.com"]
    assert (again.from_email, again.subject) == ("shop@example.com", "Hi")
    assert by_django(again) == first.data
    assert again.message()["X-Signature"] == "abc"


class ToAll(EmailMessage):
    def recipients(self) -> list[str]:
        return ["everybody@example.com"]


def test_a_class_with_its_own_recipients_keeps_them() -> None:
    assert stored(ToAll(to=["ann@example.com"])).recipients() == ["everybody@example.com"]


def modern_part() -> Any:
    part = MimeMessage()
    part.set_content(b"\x89PNG\0", "image", "png", cid="<logo>", disposition="inline", filename="größe.png")
    return part


def legacy_image() -> Any:
    part = MIMEImage(b"\x89PNG\0", "png")
    part.add_header("Content-ID", "<logo>")
    part.add_header("Content-Disposition", "inline", filename="logo.png")
    return part


def legacy_text() -> Any:
    return MIMEText("From me\n.\nGröße\n", "plain", "iso-8859-1")


@pytest.mark.parametrize("build", [legacy_image, legacy_text, *([modern_part] if MODERN else [])])
def test_mime_parts_survive(build: Any) -> None:
    message = attached(build(), ("a.txt", "x", "text/plain"))
    again = stored(message)
    assert isinstance(again.attachments[0], MIMEBase if build is not modern_part else MimeMessage)
    assert read(by_django(again)) == read(by_django(message))


@pytest.mark.parametrize(
    "inner",
    [
        lambda: mail("Größe", "Inside", headers={"X-One": "1"}),
        lambda: "Subject: Inner\n\nInside",
        lambda: b"Subject: Inner\n\nInside",
        lambda: email.message_from_bytes(b"Subject: Inner\n\nFrom me"),
        lambda: email.message_from_bytes(b"Subject: =?utf-8?q?Gr=C3=B6?=\n\nInside", policy=policy.default),
    ],
)
def test_attached_messages_survive(inner: Any) -> None:
    message = attached(("a.eml", inner(), "message/rfc822"))
    assert read(by_django(stored(message))) == read(by_django(message))


def test_a_charset_of_its_own_making_survives() -> None:
    charset = Charset("utf-8")
    charset.body_encoding = QP
    again = stored(changed(encoding=charset))
    assert vars(again.encoding) == vars(charset)


VALUES: list[Any] = [
    None, True, 1, 1.5, "", [], {}, (), ("a", [1, (2,)]), {"a": {"$b": 1}}, {1: "a"}, {"$tuple": 1}, {"$": ""},
    b"\0\xff",
    datetime(2026, 11, 24, tzinfo=UTC), date(2026, 11, 24), time(1, 2, 3, 4), timedelta(days=-1, microseconds=5),
    Decimal("1.10"), UUID(int=7), {"$x": 1, "y": 2},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_values_survive_with_their_types(value: Any) -> None:
    again = unpack(json.loads(json.dumps(pack(value, "x"))))
    assert (again, type(again)) == (value, type(value))


aware = st.datetimes(timezones=st.just(UTC)).map(lambda each: each.replace(fold=0))
any_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | aware
    | st.decimals(allow_nan=False),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner)
    ),
)


@settings(deadline=None)
@given(any_value)
def test_any_value_survives(value: Any) -> None:
    assert repr(unpack(json.loads(json.dumps(pack(value, "x"))))) == repr(value)


def test_texts_that_are_worked_out_late_are_worked_out_when_stored() -> None:
    assert pack(gettext_lazy("Hi"), "x") == "Hi"
    assert pack(Address("Ann", "ann", "example.com"), "x") == "Ann <ann@example.com>"


class AllNeeded(EmailMultiAlternatives):
    """What delivers it needs these attributes: one of the object, one of the class, one that is worked out."""

    mailrail_attributes = ("callback", "region", "greeting", "never_set")
    region = "eu"

    def __init__(self, *args: Any, callback: Any = len, **more: Any) -> None:
        super().__init__(*args, **more)
        self.callback = callback

    @property
    def greeting(self) -> str:
        return f"Dear {self.region}"


class AllNeededAndSigned(AllNeeded, Signed):
    pass


def endless() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize("kind", [AllNeeded, AllNeededAndSigned])
def test_attributes_that_a_class_names_survive(kind: type[AllNeeded]) -> None:
    message = kind("Hi", "Hello", "shop@example.com", ["ann@example.com"], callback={"id": 7})
    again = vars(stored(message))
    assert (again["callback"], again["region"], again["greeting"]) == ({"id": 7}, "eu", "Dear eu")


def test_a_name_in_place_of_a_list_of_names_is_told() -> None:
    class OneName(EmailMessage):
        mailrail_attributes = "region"

    with pytest.raises(TypeError, match=r"OneName\.mailrail_attributes must be a list of names.*'region'"):
        dump(OneName("Hi"))


def look_up() -> Any:
    raise RuntimeError("nobody is there")


LEFT_OUT = {
    "an object": (object(), "a builtins.object"),
    "an object in a dict": ({"user": {"profile": object()}}, "['user']['profile'] is a builtins.object"),
    "what contains itself": (endless(), "contains itself"),
    "a NUL": ({"note": "a\0b"}, "NUL"),
    "half a character": ("\ud800", "surrogate"),
    "what cannot be looked at": (SimpleLazyObject(look_up), "RuntimeError: nobody is there"),
    "no number": (float("nan"), "a builtins.float"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_an_attribute_that_cannot_be_stored_is_left_out_and_logged_once(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    value, why = LEFT_OUT[case]

    class Templated(EmailMultiAlternatives):
        pass

    Templated.__qualname__ = f"Templated with {case}"
    message = Templated("Hi", "Hello", "shop@example.com", ["ann@example.com"])
    vars(message).update(request=value, order=7)
    for _ in range(2):
        again = vars(stored(message))
        assert "request" not in again and again["order"] == 7
    [record] = caplog.records
    assert record.levelname == "WARNING" and record.name == "mailrail.mail"
    assert f"Templated with {case}" in record.getMessage() and "'request'" in record.getMessage()
    assert why in record.getMessage() and "mailrail_attributes" in record.getMessage()


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: changed(metadata={"user": object()}), r"metadata\['user'\] is a builtins\.object"),
        (lambda: AllNeeded("Hi"), r"callback is a builtins\.builtin_function_or_method"),
        (lambda: AllNeeded("Hi", callback=endless()), r"callback contains itself"),
        (lambda: mail(headers={"X-One": {1, 2}}), r"extra_headers\['X-One'\] is a builtins\.set"),
        (lambda: attached(("a", open, "a/b")), r"attachments\[0\]\.content is a"),
        (lambda: attached(("a", b"x", "a/b"), 7), r"attachments\[1\] is neither"),
        (lambda: changed(metadata={"n": float("nan")}), r"metadata\['n'\] is a builtins\.float"),
        (lambda: changed(tags=[float]), r"tags\[0\] is a builtins\.type"),
    ],
)
def test_what_cannot_be_stored_is_named(build: Any, named: str) -> None:
    with pytest.raises(CannotBeStored, match=named):
        dump(build())


def test_content_of_a_newer_format_says_what_to_do() -> None:
    content, files = dump(mail())
    with pytest.raises(ValueError, match=r"version 2 of the format.*Upgrade the workers"):
        load({**content, "v": 2}, dict(files))


def test_no_connection_is_stored() -> None:
    if django.VERSION < (6, 1):
        assert stored(mail(connection=object())).connection is None
    else:
        assert vars(stored(changed(_connection=object())))["_connection"] is None
