"""``MAILRAIL["MAILERS"]``: what it may say, and the errors that name what is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest

from mailrail.checks import check_settings
from mailrail.errors import InvalidSettings
from mailrail.mail.checks import check_policies
from mailrail.mail.mailers.config import build, lifetime_of, policy_of
from mailrail.routing import Rate

from .conftest import MAILER, SMTP

Configure = Callable[..., None]


def test_a_policy_as_it_is_written() -> None:
    policy = build(
        {
            "smtp": {
                "RATE": "20000/d, 10/s,1000/h",
                "RATES": {"Gmail.com": "5/s", "Bücher.example": Rate(1, 2)},
                "CONNECTIONS": 5,
                "MAX_RECIPIENTS": 100,
                "LIFETIME": timedelta(hours=2),
                "FAILOVER": ["backup"],
            }
        }
    )["smtp"]
    assert policy.rate == (Rate(10, 1), Rate(1000, 3600), Rate(20000, 86400))
    assert policy.rates == {"gmail.com": (Rate(5, 1),), "xn--bcher-kva.example": (Rate(1, 2),)}
    assert policy.max_recipients == 100
    assert (policy.connections, policy.lifetime, policy.failover) == (5, 7200.0, ("backup",))


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (7, "['smtp'] must be a dictionary"),
        ({"SPEED": 3}, "has no key 'SPEED'. It knows: BACKEND, COMPOSES, CONNECTIONS"),
        ({"RATE": "fast"}, "['RATE'] must be one rate or several"),
        ({"RATE": 10}, "['RATE'] must be one rate or several"),
        ({"RATE": "10/s, 20/s"}, "['RATE'] has two rates over the same time"),
        ({"RATES": "5/s"}, "['RATES'] must be a dictionary of recipient domains"),
        ({"RATES": {"you@example.com": "5/s"}}, "['RATES']['you@example.com']: name one domain"),
        ({"RATES": {"": "5/s"}}, "['RATES'] has a key that is no domain"),
        ({"RATES": {"example.com": "5"}}, "['RATES']['example.com'] must be one rate"),
        ({"CONNECTIONS": 0}, "['CONNECTIONS'] must be a whole number"),
        ({"CONNECTIONS": True}, "['CONNECTIONS'] must be a whole number"),
        ({"MAX_RECIPIENTS": 0}, "['MAX_RECIPIENTS'] must be a whole number from 1"),
        ({"LIFETIME": timedelta(0)}, "['LIFETIME'] must be seconds or a timedelta, more than zero"),
        ({"LIFETIME": "3 days"}, "['LIFETIME'] must be seconds or a timedelta, more than zero"),
        ({"FAILOVER": "backup"}, "['FAILOVER'] must be a list of aliases"),
        ({"COMPOSES": "no"}, "['COMPOSES'] must be True or False"),
        ({"BACKEND": None}, "['BACKEND'] must be the dotted path"),
        ({"OPTIONS": []}, "['OPTIONS'] must be a dictionary"),
    ],
)
def test_what_is_wrong_is_named(settings: Any, queueing: Configure, said: Any, names: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        build({"smtp": said})
    assert names in str(raised.value) and "MAILRAIL['MAILERS']['smtp']" in str(raised.value)
    queueing(25)
    settings.MAILRAIL = {"MAILERS": {"smtp": said}}
    found, *_ = check_policies()  # there is no such mailer either
    assert found.id == "mailrail.mail.E004" and names in found.msg


def test_a_setting_of_the_wrong_kind_is_told_once(settings: Any) -> None:
    settings.MAILRAIL = {"MAILERS": ["smtp"]}
    [problem] = check_settings()
    assert problem.id == "mailrail.E001" and "MAILRAIL['MAILERS'] must be a dictionary" in problem.msg
    assert check_policies() == []


def test_sound_policies_pass(queueing: Configure, policy: Configure, second: Configure) -> None:
    queueing(25)
    policy(RATE="10/s", FAILOVER=["backup"])
    second("backup", 26, RATE="1/s")
    assert check_policies() == []


def test_a_mailer_that_there_is_not(queueing: Configure, policy: Configure) -> None:
    queueing(25)
    policy("nowhere", RATE="10/s")
    policy(FAILOVER=["neither", MAILER])
    said = [found.msg for found in check_policies()]
    assert len(said) == 3
    assert any("['nowhere'] is about no mailer that delivers" in each for each in said)
    assert any("['FAILOVER'] names 'neither', by which nothing can leave" in each for each in said)
    assert any("names the mailer itself" in each for each in said)


def test_a_backend_said_twice_is_an_error(queueing: Configure, policy: Configure) -> None:
    queueing(25)
    policy(BACKEND=SMTP)
    [problem] = check_policies()
    assert "has BACKEND or OPTIONS" in problem.msg


def test_smtp_is_no_service_that_takes_fields(queueing: Configure, policy: Configure) -> None:
    queueing(25)
    policy(COMPOSES=False)
    [problem] = check_policies()
    assert "has COMPOSES, and SMTP carries bytes" in problem.msg


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_a_mailer_that_queues_has_no_policy(queueing: Configure, policy: Configure) -> None:
    queueing(25)
    policy("default", RATE="10/s")
    [problem] = check_policies()
    assert "['default'] is about a mailer that queues. Say it of the one that delivers, 'out'." in problem.msg


@pytest.mark.skipif(django.VERSION >= (6, 1), reason="with MAILERS, they say it")
def test_a_backend_that_queues_delivers_nothing(queueing: Configure, second: Configure) -> None:
    queueing(25)
    second("backup", 0, "mailrail.mail.backend.EmailBackend")
    [problem] = check_policies()
    assert "is about no mailer that delivers" in problem.msg


def test_a_lifetime_of_its_own(settings: Any, policy: Configure) -> None:
    settings.MAILRAIL = {"MAIL_LIFETIME": 100.0}
    policy(LIFETIME=7)
    assert (lifetime_of(MAILER), lifetime_of("another")) == (7.0, 100.0)
    policy(RATE="1/s")
    assert lifetime_of(MAILER) == 100.0 and policy_of(MAILER).rate


HOW_TO = (Path(__file__).resolve().parents[2] / "docs/how-to/mail-queue.md").read_text()


def test_what_the_how_to_shows_is_sound() -> None:
    shown = [
        block for block in re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL) if '"FAILOVER"' in block
    ]
    assert len(shown) == 2
    for block in shown:
        names: dict[str, Any] = {"timedelta": timedelta}
        exec(block, names)
        assert any(policy.failover for policy in build(names["MAILRAIL"]["MAILERS"]).values())
