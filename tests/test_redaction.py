"""Nobody sees what is under a key of ``MAILRAIL["REDACT"]``, wherever contents and arguments are shown."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from mailrail import Channel
from mailrail.conf import build
from mailrail.errors import InvalidSettings
from mailrail.invitations.models import Invitation
from mailrail.layers import get_layer
from mailrail.redaction import REDACTED, is_redacted, redacted, redacted_arguments, redacted_text, restored
from mailrail.tasks import TaskRecord

SECRET = "hunter2"
CONTENT = {
    "id": 7,
    "user": {"Password": SECRET},
    "keys": [{"apiKey": {"a": [SECRET]}}],
    "X-Auth-Token": SECRET,
}
SHOWN = {"id": 7, "user": {"Password": REDACTED}, "keys": [{"apiKey": REDACTED}], "X-Auth-Token": REDACTED}


def log_in(user: str, access_token: str, *, password: str = "") -> None:
    """A function whose arguments are shown."""


# -- which keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "is_hidden"),
    [
        ("password", True),
        ("New-Password2", True),
        ("api_key", True),
        ("X-Api-Key", True),
        ("apiKeys", True),
        ("Set-Cookie", True),
        ("pass", False),
        ("key", False),
        ("", False),
        (7, False),
    ],
)
def test_a_key_is_meant_by_a_part_of_it_whatever_its_case_and_separators(
    key: object, is_hidden: bool
) -> None:
    assert is_redacted(key) is is_hidden


def test_a_project_says_which_keys(settings: Any) -> None:
    settings.MAILRAIL = {"REDACT": ["IBAN", ""]}
    assert redacted({"iban_of": 1, "password": 2}) == {"iban_of": REDACTED, "password": 2}
    settings.MAILRAIL = {"REDACT": ()}
    assert redacted(CONTENT) == CONTENT


@pytest.mark.parametrize("value", ["password", [1], None, {"password"}])
def test_a_wrong_setting_is_told(value: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"MAILRAIL\['REDACT'\] must be a list of parts of keys, not"):
        build({"REDACT": value})


# -- of values ---------------------------------------------------------------------------------------------------------


def test_values_are_hidden_at_any_depth_and_what_is_stored_stays() -> None:
    before = json.dumps(CONTENT)
    assert redacted(CONTENT) == SHOWN
    assert json.dumps(CONTENT) == before


def test_positional_arguments_are_hidden_by_the_names_of_their_parameters() -> None:
    assert redacted_arguments(f"{__name__}.log_in", ["ada", SECRET, SECRET]) == [
        "ada",
        REDACTED,
        REDACTED,
    ]
    assert redacted_arguments("no.such.function", ["ada", {"token": SECRET}]) == ["ada", {"token": REDACTED}]


NAMES = st.sampled_from(["id", "password", "tok\\en", 'x"token', "token", "note"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([SECRET, "a", 'q"\\', "密", ":,{}[]"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans())
def test_a_whole_text_is_redacted_as_its_value_is(value: Any, is_compact: bool) -> None:
    text = json.dumps(value, separators=(",", ":") if is_compact else None)
    assert json.loads(redacted_text(text)) == redacted(value)


@pytest.mark.parametrize(
    "text", [json.dumps(CONTENT), json.dumps(CONTENT, indent=1), '{"\\u0074oken": "hunter2"}']
)
def test_a_text_that_is_cut_off_anywhere_hides_the_beginning_of_a_secret_too(text: str) -> None:
    for length in range(len(text) + 1):
        assert "hu" not in redacted_text(text[:length])


def test_what_was_hidden_comes_back_where_it_was() -> None:
    stored = {"user": "ada", "token": SECRET, "rows": [{"token": "a"}, {"token": "b"}]}
    shown = redacted(stored)
    assert restored(shown, stored) == stored
    assert restored({**shown, "user": "bob"}, stored) == {**stored, "user": "bob"}
    assert restored({**shown, "token": "new"}, stored)["token"] == "new"
    assert restored({**shown, "rows": shown["rows"][1:]}, stored)["rows"] == [{"token": REDACTED}]


# -- where they are shown ----------------------------------------------------------------------------------------------


def dead_page(client: Client) -> str:
    Channel("logins").send(CONTENT, headers={"authorization": SECRET})
    [claim] = get_layer().claim("worker", {"logins": 1}, 15.0).claims
    get_layer().bury(claim, "it ends")
    rows = "/admin/mailrail/buriedmessage/?channel=logins"
    return (
        client.get(rows).text
        + client.get(f"/admin/mailrail/buriedmessage/default_2Flogins_2F{claim.id}/change/").text
    )


def waiting_page(client: Client) -> str:
    id = Channel("logins").send(CONTENT, headers={"authorization": SECRET})
    rows = "/admin/mailrail/storedmessage/?channel=logins"
    return (
        client.get(rows).text
        + client.get(f"/admin/mailrail/storedmessage/default_2Flogins_2F{id}/change/").text
    )


def task_of() -> TaskRecord:
    values: Any = {
        "task": f"{__name__}.log_in",
        "args": ["ada", SECRET],
        "kwargs": {"password": SECRET, "rows": CONTENT},
        "metadata": CONTENT,
        "progress": CONTENT,
        "return_value": CONTENT,
        "status": "SUCCESSFUL",
    }
    return TaskRecord.objects.create(**values)


def task_page(client: Client) -> str:
    return client.get(reverse("admin:mailrail_tasks_taskrecord_change", args=(task_of().pk,))).text


def invitation_page(client: Client) -> str:
    sender = User.objects.get()
    invitation = Invitation.objects.create(email="ada@example.com", sender=sender, payload=CONTENT)
    return client.get(reverse("admin:mailrail_invitations_invitation_change", args=(invitation.pk,))).text


def output(*command: str) -> str:
    out = StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


def channels_waiting(client: Client) -> str:
    Channel("logins").send(CONTENT)
    return output("channels", "waiting", "logins") + output("channels", "waiting", "logins", "--json")


def channels_dead(client: Client) -> str:
    dead_page(client)
    return output("channels", "dead", "logins") + output("channels", "dead", "logins", "--json")


def tasks_show(client: Client) -> str:
    id = str(task_of().pk)
    return output("tasks", "show", id) + output("tasks", "show", id, "--json")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "show",
    [dead_page, waiting_page, task_page, invitation_page, channels_waiting, channels_dead, tasks_show],
)
def test_the_admin_and_the_commands_show_a_secret_to_nobody(
    admin_client: Client, show: Callable[[Client], str]
) -> None:
    text = html.unescape(show(admin_client)).replace("<wbr>", "")
    assert REDACTED in text
    assert SECRET not in text
