"""Seconds, moments and whole numbers are checked alike by all who take them, and mistakes are told all at once."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage

from mailrail import Channel, InvalidSettings, Retry
from mailrail.checks import check_settings
from mailrail.conf import build
from mailrail.conf import settings as ours
from mailrail.invitations import invite
from mailrail.invitations.checks import check_base_url
from mailrail.invitations.checks import check_names as check_invitation_names
from mailrail.layers import DatabaseChannelLayer, RedisChannelLayer, get_layer
from mailrail.mail import queue
from mailrail.mail.checks import check_mail, check_policies, check_sensitive
from mailrail.mail.checks import check_storage as check_mail_storage
from mailrail.mail.mailers.config import build as build_policies
from mailrail.mail.smtp import EmailBackend
from mailrail.options import days_argument, related_object, seconds_argument, whole_number_argument
from mailrail.reconciliation import reconcile
from mailrail.routing import Routing, route

from .routes import first

CENTURY = 100 * 365 * 86400
SENDER = SimpleNamespace(pk=1)


def message() -> EmailMessage:
    return EmailMessage("Hello", "", "a@example.com", ["b@example.com"])


ZERO_OR_MORE: dict[str, Callable[[Any], Any]] = {
    "delay": lambda value: Channel("c").send({}, delay=value),
    "expires": lambda value: Channel("c").send_many([{}], expires=value),
    "send_at": lambda value: queue(message(), send_at=value),
    "expires_at": lambda value: queue(message(), expires_at=value),
    "expires of an invitation": lambda value: invite("a@example.com", SENDER, expires=value),
    "after": lambda value: Retry(after=value),
    "older_than": lambda value: reconcile("c", older_than=value),
    "MAILRAIL['BACKOFF']": lambda value: build({"BACKOFF": value}),
    "max_age": lambda value: EmailBackend(alias="smtp", host="a", max_age=value),
}
ABOVE_ZERO: dict[str, Callable[[Any], Any]] = {
    "timeout": lambda value: route("c", first, timeout=value),
    "lease": lambda value: route("c", first, lease=value),
    "MAILRAIL['LEASE']": lambda value: build({"LEASE": value}),
    "MAILRAIL['MAIL_KEEP_BODIES']": lambda value: build({"MAIL_KEEP_BODIES": value}),
    "MAILRAIL['MAILERS']['smtp']['LIFETIME']": lambda value: build_policies({"smtp": {"LIFETIME": value}}),
}
WHOLE: dict[str, Callable[[Any], Any]] = {
    "attempts": lambda value: route("c", first, attempts=value),
    "MAILRAIL['THREADS']": lambda value: build({"THREADS": value}),
    "MAILRAIL['MAX_MEMORY']": lambda value: build({"MAX_MEMORY": value}),
    "MAILRAIL['MAILERS']['smtp']['CONNECTIONS']": lambda value: build_policies(
        {"smtp": {"CONNECTIONS": value}}
    ),
    "pool_size": lambda value: EmailBackend(alias="smtp", host="a", pool_size=value),
}
REFUSED = (TypeError, ValueError, InvalidSettings)


@pytest.mark.parametrize("taker", [*ZERO_OR_MORE, *ABOVE_ZERO])
@pytest.mark.parametrize(
    "value",
    [-1, float("nan"), float("inf"), "5", True, [], timedelta(-1), CENTURY + 1, timedelta(days=36501)],
)
def test_whoever_takes_seconds_has_the_same_bounds(taker: str, value: Any) -> None:
    least = "more than zero" if taker in ABOVE_ZERO else "zero or more"
    with pytest.raises(REFUSED) as refused:
        (ZERO_OR_MORE | ABOVE_ZERO)[taker](value)
    name = taker.removesuffix(" of an invitation")
    rule = f"{name} must be seconds or a timedelta, {least} and at most 100 years, not {value!r}."
    assert str(refused.value) == rule


@pytest.mark.parametrize("taker", ABOVE_ZERO)
@pytest.mark.parametrize("value", [0, timedelta(0)])
def test_what_has_to_last_cannot_be_zero(taker: str, value: Any) -> None:
    with pytest.raises(REFUSED, match="more than zero"):
        ABOVE_ZERO[taker](value)


@pytest.mark.parametrize("taker", WHOLE)
@pytest.mark.parametrize("value", [0, -1, 1.0, "3 or 4", True, None, float("nan")])
def test_whoever_takes_a_whole_number_has_the_same_bounds(taker: str, value: Any) -> None:
    if value is None and taker in ("attempts", "MAILRAIL['MAX_MEMORY']"):
        return  # no limit
    with pytest.raises(REFUSED) as refused:
        WHOLE[taker](value)
    assert str(refused.value).startswith(f"{taker} must be a")


@pytest.mark.parametrize("taker", ["expires", "expires of an invitation", "send_at", "expires_at"])
@pytest.mark.parametrize("value", [datetime(9999, 12, 31, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_moment_is_no_farther_away_than_seconds_may_be(taker: str, value: Any) -> None:
    with pytest.raises(ValueError, match="must be at most 100 years from now"):
        ZERO_OR_MORE[taker](value)


@pytest.mark.parametrize("value", [datetime.now(UTC) - timedelta(seconds=1), 0, timedelta(0)])
def test_an_invitation_that_has_expired_is_not_sent(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^expires must be later than now"):
        invite("a@example.com", SENDER, expires=value)


def test_settings_take_a_timedelta_where_they_take_seconds() -> None:
    assert build({"LEASE": timedelta(minutes=1), "TIMEOUT": timedelta(hours=1)}).timeout == 3600.0
    assert route(
        "c", first, lease=timedelta(minutes=1), backoff=[timedelta(minutes=2), 3]
    ).policy.backoff == [120, 3]


@pytest.mark.parametrize("text", ["-1", "", "nan", "inf", "1e400", "9" * 5000, "five"])
@pytest.mark.parametrize("read", [seconds_argument, days_argument, whole_number_argument])
def test_arguments_of_commands_have_these_bounds_too(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^must be "):
        read(text)


# -- all at once -----------------------------------------------------------------------------------------------------


def told(check: Callable[[], list[Any]]) -> list[str]:
    return [found.msg for found in check()]


def test_two_mistakes_in_mailrail_are_told_at_once(settings: Any) -> None:
    settings.MAILRAIL = {"LEASE": 0, "ATEMPTS": 3, "THREADS": "many", "MAIL_STORAGE": "files"}
    problems = told(check_settings)
    assert [text.split(" must ")[0].split(". ")[0] for text in problems] == [
        "MAILRAIL['LEASE']",
        "MAILRAIL has no key 'ATEMPTS'",
        "MAILRAIL['THREADS']",
    ]
    with pytest.raises(InvalidSettings) as refused:
        build(settings.MAILRAIL)
    assert str(refused.value).splitlines() == problems == list(refused.value.mistakes)


def test_two_mistakes_in_the_policies_of_mailers_are_told_at_once(settings: Any) -> None:
    settings.MAILRAIL = {"MAILERS": {"one": {"RATE": "fast", "SPEED": 1}, "two": 3}}
    assert [text.split("]")[-1][:12] for text in told(check_policies)][:3] == [
        " must be one",
        " has no key ",
        " must be a d",
    ]


def test_two_mistakes_in_the_config_of_a_layer_are_told_at_once(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hsots": [], "prefix": 3, "outbox": "yes", "using": "nowhere"},
        },
        "other": {
            "BACKEND": "mailrail.layers.DatabaseChannelLayer",
            "CONFIG": {"usnig": "other", "using": "nowhere"},
        },
    }
    said = "\n".join(told(check_settings))
    assert "['CONFIG'] has no option 'hsots'" in said and "['CONFIG'] has no option 'usnig'" in said
    assert "CONFIG['prefix']" in said and "CONFIG['outbox']" in said and said.count("'nowhere'") == 2


@pytest.mark.parametrize("backend", ["Database", "InMemory"])
def test_a_config_that_is_wrong_does_not_hide_a_routing_that_is(settings: Any, backend: str) -> None:
    config = {"routing": "nowhere.routing", "foo": 1, "lease": -1}
    entry = {"BACKEND": f"mailrail.layers.{backend}ChannelLayer", "CONFIG": config}
    settings.CHANNEL_LAYERS = {"default": entry}
    # Without the consumers of the test project, some of which are atomic: they need a database layer.
    found = [mistake for mistake in check_settings() if "CHANNEL_LAYERS" in mistake.msg]
    assert [each.id for each in found] == ["mailrail.E002", "mailrail.E004"]
    said = "\n".join(each.msg for each in found)
    assert "no option 'foo', 'lease'" in said
    assert "['routing'] = 'nowhere.routing' cannot be imported" in said


def test_a_layer_that_does_not_import_does_not_hide_its_routing(settings: Any) -> None:
    entry = {"BACKEND": "nowhere.Layer", "CONFIG": {"routing": "nowhere.routing"}}
    settings.CHANNEL_LAYERS = {"default": entry}
    assert [message.id for message in check_settings()] == ["mailrail.E002", "mailrail.E004"]


def test_the_routing_of_a_layer_that_is_not_ours_is_left_alone(settings: Any) -> None:
    theirs = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"foo": 1}}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"},
        "theirs": theirs,
    }
    assert [message.id for message in check_settings()] == ["mailrail.E002"]


def test_an_entry_that_is_wrong_does_not_hide_what_is_wrong_with_the_others(settings: Any) -> None:
    ours = "mailrail.layers.DatabaseChannelLayer"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": ours, "CONFIG": {"routing": "nowhere.first"}},
        "second": ours,
        "third": {"BACKEND": ours, "CONFIG": {"foo": 1}},
        "fourth": {"BACKEND": ours, "CONFIG": {"routing": "nowhere.fourth"}},
    }
    problems = told(check_settings)
    assert len(problems) == 4
    for text in ("['second'] must be a dictionary", "no option 'foo'", "'nowhere.first'", "'nowhere.fourth'"):
        assert sum(text in each for each in problems) == 1


@pytest.mark.parametrize(
    ("right", "check", "id"),
    [
        ({"CONSUMER_MIDDLEWARE": ["nowhere.wrap"]}, check_settings, "mailrail.E001"),
        ({"LAYER": "nowhere"}, check_settings, "mailrail.E003"),
        ({"MAILERS": {"default": {"RATE": "a"}}}, check_policies, "mailrail.mail.E004"),
        ({"MAIL_STORAGE": "nowhere"}, check_mail_storage, "mailrail.mail.E008"),
        ({"MAIL_SENSITIVE": "no.such"}, check_sensitive, "mailrail.mail.E009"),
        ({"INVITATION_MODEL": "no.Model"}, check_invitation_names, "mailrail.invitations.E001"),
        ({"INVITATION_MAY_INVITE": "no.such"}, check_invitation_names, "mailrail.invitations.E001"),
        ({"INVITATION_EMAILS_OF": "no.such"}, check_invitation_names, "mailrail.invitations.E001"),
        ({}, check_base_url, "mailrail.invitations.W001"),
    ],
)
@pytest.mark.parametrize(
    "wrong", [{"NOPE": 1}, {"UNROUTED": "x"}, {"INVITATION_SIGNUP": 7, "LEASE": 0}], ids=repr
)
def test_a_key_that_is_wrong_does_not_hide_where_another_leads(
    settings: Any, right: dict[str, Any], check: Callable[[], list[Any]], id: str, wrong: dict[str, Any]
) -> None:
    settings.MAILRAIL = wrong | right
    with pytest.raises(InvalidSettings) as refused:
        _ = ours.attempts  # right, and refused as ever outside the checks
    assert [message.msg for message in check_settings()][: len(wrong)] == list(refused.value.mistakes)
    [found] = [each for each in check() if each.msg not in refused.value.mistakes]
    assert found.id == id
    assert all(repr(value) in found.msg for value in right.values() if isinstance(value, str))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LAYER", 7),
        ("CONSUMER_MIDDLEWARE", 7),
        ("DELIVER_WITH", 7),
        ("MAILERS", 7),
        ("MAIL_STORAGE", 7),
        ("MAIL_SENSITIVE", 7),
        ("LEASE", 0),
        ("BASE_URL", 7),
        ("INVITATION_MODEL", 7),
        ("INVITATION_EMAILS_OF", 7),
        (None, 7),
    ],
)
def test_a_key_that_is_wrong_is_told_by_one_check_alone(settings: Any, key: str | None, value: Any) -> None:
    settings.MAILRAIL = value if key is None else {"BASE_URL": "https://example.com", key: value}
    all_of_them = (
        check_mail,
        check_policies,
        check_mail_storage,
        check_sensitive,
        check_invitation_names,
        check_base_url,
    )
    found = [each.id for check in all_of_them for each in check()]
    assert found == ["mailrail.mail.W003"] * (
        key == "DELIVER_WITH" and django.VERSION >= (6, 1)
    )  # it is not read
    assert [message.id for message in check_settings()] == ["mailrail.E001"]


@pytest.mark.parametrize("key", ["RATE", "LIFETIME"])
def test_a_policy_that_is_wrong_does_not_hide_whom_another_names(settings: Any, key: str) -> None:
    settings.MAILRAIL = {"MAILERS": {"default": {key: "a", "FAILOVER": ["nowhere", "default"]}}}
    problems = told(check_policies)
    assert len(problems) == 3 and f"[{key!r}] must be" in problems[0]
    assert "['FAILOVER'] names 'nowhere', by which nothing can leave. There is no mailer" in problems[1]
    assert "['FAILOVER'] names the mailer itself" in problems[2]


@pytest.mark.skipif(django.VERSION >= (6, 1), reason="MAILERS defines mailers")
@pytest.mark.parametrize("second", [7, {"BACKEND": 7}])
def test_a_mailer_whose_backend_cannot_be_read_is_not_called_missing(settings: Any, second: Any) -> None:
    settings.MAILRAIL = {"MAILERS": {"default": {"FAILOVER": ["second"]}, "second": second}}
    [text] = told(check_policies)
    assert text.startswith("MAILRAIL['MAILERS']['second']") and " must be " in text


def test_two_mistakes_of_a_route_are_told_at_once() -> None:
    with pytest.raises(TypeError) as refused:
        route("not a name", first, attempts=0, lease="long", batch=2, atomic=True, kind="(")  # type: ignore[arg-type]
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "A", "attempts", "lease", "atomic=True", "route(kind='('):",
    ]  # fmt: skip


def test_routes_that_disagree_are_told_at_once() -> None:
    routes = [
        route("c", first, lease=3, batch=4),
        route("c", first, lease=5),
        route("d", "nowhere.consume"),
        route("e", "elsewhere.consume"),
    ]
    with pytest.raises(InvalidSettings) as refused:
        Routing(routes)
    assert [text.split(" (")[0][:30] for text in refused.value.mistakes] == [
        "route('d', 'nowhere.consume') ",
        "route('e', 'elsewhere.consume'",
        "The routes of channel 'c'",
        "The routes of channel 'c'",
    ]


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_two_mistakes_in_the_options_of_a_mailer_are_told_at_once(settings: Any) -> None:
    ours = "mailrail.mail.smtp.EmailBackend"
    queueing = {"deliver_with": "out", "host": "a", "hots": 1}
    delivering = {"prot": 3, "use_ssl": True, "use_tls": True, "pool_size": 0, "max_age": -1}
    settings.MAILERS = {
        "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": queueing},
        "out": {"BACKEND": ours, "OPTIONS": delivering},
    }
    problems = told(check_mail)
    for name in ("hots", "host", "prot", "use_ssl", "pool_size", "max_age"):
        assert any(name in text for text in problems), name
    assert len(problems) == len(set(problems)) == 5


def test_a_layer_without_mistakes_is_made_once(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "other"}}
    }
    assert isinstance(get_layer(), DatabaseChannelLayer) and get_layer() is get_layer()
    with pytest.raises(InvalidSettings, match="prefix"):
        RedisChannelLayer(prefix=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["order\0", "\ud800"])
def test_what_a_record_is_about_is_text_that_every_database_holds(text: str) -> None:
    with pytest.raises(
        ValueError, match="about must be text without NUL and halves of surrogate pairs, not '"
    ):
        related_object("about", text)
