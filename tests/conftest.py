"""What all tests share: the layers, one after the other, through one fixture."""

from __future__ import annotations

import pytest

from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer


@pytest.fixture(params=["memory", pytest.param("sqlite", marks=pytest.mark.django_db(transaction=True))])
def layer(request: pytest.FixtureRequest) -> DurableLayer:
    """Every layer that is held to the contract. A new one is added here, and only here."""
    return InMemoryChannelLayer() if request.param == "memory" else DatabaseChannelLayer(using="default")
