"""What the how-tos say is so: their code runs, their links lead somewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from mailrail import Channel
from mailrail.conf import Settings
from mailrail.invitations.models import Invitation
from mailrail.layers import get_layer
from mailrail.reconciliation import _registered as reconcilers
from mailrail.routing import Routing, _registered
from mailrail.testing import drain, sent

DOCS = Path(__file__).resolve().parent.parent / "docs"
TRANSACTIONS = (DOCS / "how-to/transactions.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TRANSACTIONS, re.DOTALL)
IN_TRANSACTION, SETTINGS, RECONCILED, UNIQUE = EXAMPLES


@pytest.mark.django_db
def test_the_send_in_a_transaction_is_sent(django_user_model: Any) -> None:
    user = django_user_model.objects.create(username="ada")
    names = {"transaction": transaction, "Invitation": Invitation, "Channel": Channel, "user": user}
    exec(IN_TRANSACTION, names)
    assert [m.content for m in sent("send-invite")] == [{"id": Invitation.objects.get().pk}]


@pytest.mark.django_db
def test_the_settings_have_an_outbox(settings: Any) -> None:
    exec(SETTINGS, found := {"os": os})
    settings.CHANNEL_LAYERS = found["CHANNEL_LAYERS"]
    assert get_layer().outbox is not None


@pytest.mark.django_db
def test_the_reconciled_record_gets_its_message_and_is_done(
    django_user_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = django_user_model.objects.create(username="ada")
    invitation = Invitation.objects.create(email="ada@example.com", sender=user)
    emailed: list[Invitation] = []
    monkeypatch.setattr("mailrail.routing._registered", [*_registered])
    monkeypatch.setattr("mailrail.reconciliation._registered", [*reconcilers])
    names: dict[str, Any] = {"Invitation": Invitation, "timezone": timezone, "email": emailed.append}
    exec(RECONCILED, names | {"__name__": "shop.consumers"})
    from mailrail import reconciliation, routing

    added, found = routing._registered[-1], reconciliation._registered[-1]
    assert found.name == "shop.consumers.unsent"
    assert found.run(older_than=0) == 1
    exec(UNIQUE, {"Channel": Channel, "invitation": invitation})  # changes nothing
    assert len(sent("send-invite")) == 1
    monkeypatch.setattr(Routing, "of_layer", classmethod(lambda cls, alias=None: Routing([added])))
    drain("send-invite")
    assert emailed == [invitation]
    assert found.run(older_than=0) == 0


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(#[^)]*)?\)", page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            assert anchor[1:] in {head.lower().replace(" ", "-") for head in heads}, anchor


INVITATIONS = (DOCS / "how-to/invitations.md").read_text()


@pytest.mark.django_db
def test_the_python_of_the_invitations_runs(django_user_model: Any) -> None:
    user = django_user_model.objects.create(username="ada")
    exec(re.findall(r"```python\n(.*?)```", INVITATIONS, re.DOTALL)[1], {"user": user})
    assert [
        (invitation.email, invitation.role, invitation.status.value)
        for invitation in Invitation.objects.order_by("pk")
    ] == [
        ("guest@example.com", "editor", "revoked"),
        ("one@example.com", "reader", "waiting"),
        ("two@example.com", "reader", "waiting"),
    ]


def test_every_setting_of_invitations_is_in_their_how_to() -> None:
    for name in Settings.__dataclass_fields__:
        if name.startswith("invitation"):
            assert f"`{name.upper()}`" in INVITATIONS or f'"{name.upper()}"' in INVITATIONS, name
