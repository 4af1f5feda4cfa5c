"""Being told that workers of another project serve the same layer."""

from __future__ import annotations

import logging
from io import StringIO
from typing import Any

import pytest
from django.core.checks import Tags, run_checks
from django.core.management import call_command

from mailrail.layers import DurableLayer, get_layer
from mailrail.management.commands.runworker import tell_strangers
from mailrail.project import fingerprint, identity, strangers
from mailrail.project_check import check_projects_of_databases, check_projects_of_servers
from mailrail.routing import Routing
from mailrail.worker.worker import Worker

OTHERS = {"settings": "forum.settings", "keys": [fingerprint("the key of the forum")]}


def beat(layer: DurableLayer, **project: Any) -> None:
    """A sign of life of a worker with this project; of our own, but for what is given."""
    layer.heartbeat("w-1", {"host": "a", "pid": 7, "channels": [], "project": {**identity(), **project}})


def found(**kwargs: Any) -> list[str]:
    return [message.msg for message in check_projects_of_databases(databases=["default"])]


def test_a_worker_says_which_project_it_is_of(layer: DurableLayer) -> None:
    worker = Worker(layer, Routing([]))
    described = worker._heartbeat.describe()
    assert described["project"] == identity()
    layer.heartbeat(worker.id, described)
    assert strangers(layer) == []


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ({}, None),
        ({"settings": "forum.settings"}, "w-1 (settings forum.settings)"),
        ({"keys": OTHERS["keys"]}, "w-1 (another SECRET_KEY)"),
        (OTHERS, "w-1 (settings forum.settings and another SECRET_KEY)"),
        ({"settings": "", "keys": []}, None),
        ({"settings": 7, "keys": 7}, "w-1 (settings 7)"),
    ],
)
def test_settings_and_secret_key_tell_projects_apart(
    layer: DurableLayer, project: dict[str, Any], said: str | None
) -> None:
    beat(layer, **project)
    assert strangers(layer) == ([said] if said else [])


def test_a_worker_of_a_release_that_tells_no_project_is_no_stranger(layer: DurableLayer) -> None:
    layer.heartbeat("w-1", {"host": "a"})
    layer.heartbeat("w-2", {"host": "a", "project": "shop"})
    assert strangers(layer) == []


@pytest.mark.django_db(transaction=True)
def test_a_rotated_key_makes_no_stranger_of_either_side(settings: Any) -> None:
    layer = get_layer()
    beat(layer)  # started before the rotation
    old = identity()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new one", [settings.SECRET_KEY]
    assert strangers(layer) == []
    beat(layer)  # and one started after it, as processes with the old key see it
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = settings.SECRET_KEY_FALLBACKS[0], []
    assert identity() == old and strangers(layer) == []


def test_a_fingerprint_is_short_and_tells_nothing_of_the_key() -> None:
    assert fingerprint("secret") == fingerprint(b"secret") != fingerprint("secret2")
    assert len(fingerprint("secret")) == 16 and "secret" not in str(identity())


@pytest.mark.django_db(transaction=True)
def test_the_check_looks_into_databases_that_carry_messages_and_names_the_workers() -> None:
    assert found() == []
    beat(get_layer(), **OTHERS)
    [said] = [message for message in run_checks(tags=[Tags.database], databases=["default"]) if message.id]
    assert said.id == "mailrail.W009" and "w-1 (settings forum.settings" in said.msg
    assert "CHANNEL_LAYERS['default']" in said.msg and "SECRET_KEY_FALLBACKS" in (said.hint or "")
    assert check_projects_of_databases(databases=["postgres"]) == []
    assert check_projects_of_servers() == []
    get_layer().advance_time(61)
    assert found() == []


def test_the_check_asks_a_redis_server_with_deploy_only(settings: Any, valkey: Any) -> None:
    backend = {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [valkey.url]}}
    settings.CHANNEL_LAYERS = {"default": backend}
    beat(get_layer(), **OTHERS)
    [problem] = check_projects_of_servers()
    assert problem.id == "mailrail.W009" and found() == []
    settings.CHANNEL_LAYERS = {"default": {**backend, "CONFIG": {"hosts": ["redis://127.0.0.1:1"]}}}
    assert check_projects_of_servers() == []  # W006 tells that it cannot be asked


@pytest.mark.django_db(transaction=True)
def test_runworker_and_channels_say_it_too(caplog: pytest.LogCaptureFixture) -> None:
    layer, out, err = get_layer(), StringIO(), StringIO()
    with caplog.at_level(logging.WARNING, "mailrail"):
        tell_strangers(layer)
        assert caplog.text == ""
        beat(layer, **OTHERS)
        tell_strangers(layer)
    assert "w-1 (settings forum.settings and another SECRET_KEY)" in caplog.text
    for arguments in ([], ["workers"]):
        call_command("channels", *arguments, stdout=out, stderr=err)
    assert err.getvalue().count("w-1 (settings forum.settings") == 2
