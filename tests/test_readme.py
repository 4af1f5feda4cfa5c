"""What the README says is so: its code runs, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from mailrail.messages import Message
from mailrail.routing import Routing, _registered
from mailrail.testing import drain, sent

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def registered() -> Any:
    """Consumers that a block registers are gone afterwards; those of apps are imported before."""
    Routing.of_layer()
    before = list(_registered)
    yield
    _registered[:] = before


@pytest.mark.django_db
def test_the_first_example_runs(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    emailed: list[int] = []

    class Invitation:
        def __init__(self, pk: int) -> None:
            self.pk = pk
            self.objects = self

        def get(self, pk: int) -> Invitation:
            return Invitation(pk)

        def email(self) -> None:
            emailed.append(self.pk)

    _registered[:] = []
    exec(BLOCKS[1], names := {"Invitation": Invitation(0)})
    exec(BLOCKS[0], {"invitation": Invitation(7)})
    assert [m.content for m in sent("send-invite")] == [{"id": 7}]
    monkeypatch.setattr(Routing, "of_layer", classmethod(lambda cls, alias=None: Routing(_registered)))
    drain("send-invite")
    assert emailed == [7] and "send_invite" in names


@pytest.mark.django_db
def test_the_ways_to_send_are_those_of_channel() -> None:
    lines = [line for line in BLOCKS[2].splitlines() if "await" not in line]
    exec("\n".join(lines), {"Channel": __import__("mailrail").Channel, "pks": range(3)})
    waiting: list[Message] = sent("reports")
    assert len(waiting) == 7
    assert {m.key for m in waiting} == {None, "report-7"} and {m.lane for m in waiting} == {
        None,
        "customer-3",
    }


def test_the_routing_example_is_valid() -> None:
    def consumer(message: Any) -> None: ...

    def paid(message: Any, kind: str) -> None: ...

    names: dict[str, Any] = dict.fromkeys(("index_many", "call_partner", "book"), consumer) | {"paid": paid}
    code = BLOCKS[3].replace("include(", "*ignored(")
    exec(code, names | {"ignored": lambda path: []}, namespace := {})  # type: ignore[var-annotated]
    channels = [c for route in namespace["channel_routing"] for c in route.channels]
    assert channels == ["send-invite", "orders", "index", "partner-api", "ledger"]


def test_the_settings_example_is_valid() -> None:
    exec(BLOCKS[4], namespace := {})  # type: ignore[var-annotated]
    assert namespace["CHANNEL_LAYERS"]["default"]["CONFIG"]["routing"] == "myproject.routing.channel_routing"


def test_the_commands_and_their_options_exist() -> None:
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `manage.py"))
    for name in ("runserver", "runworker", "channels"):
        assert f"manage.py {name}" in table
        command = load_command_class(get_commands()[name], name)
        help = command.create_parser("manage.py", name).format_help()
        [row] = [line for line in table.splitlines() if f"manage.py {name}" in line]
        for option in re.findall(r"--[a-z-]+", row):
            assert option in help, option


def test_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
