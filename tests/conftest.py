"""What all tests share: the layers, one after the other, through one fixture, and the servers they need."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.db import connections

from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer

from .servers import PostgresServer
from .settings import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server behind the database alias "postgres"."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_server: PostgresServer) -> None:
    """Add the alias before the test databases are made, for this process and for those that tests start."""
    os.environ["MAILRAIL_TEST_POSTGRES_PORT"] = str(postgres_server.port)
    settings.DATABASES["postgres"] = postgres()
    connections.configure_settings(settings.DATABASES)  # fills in the defaults


LAYERS = [
    "memory",
    pytest.param("default", id="sqlite", marks=pytest.mark.django_db(transaction=True)),
    pytest.param(
        "postgres", id="postgres", marks=pytest.mark.django_db(transaction=True, databases=["postgres"])
    ),
]


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Iterator[DurableLayer]:
    """Every layer that is held to the contract. A new one is added here, and only here."""
    layer: DurableLayer
    if request.param == "memory":
        layer = InMemoryChannelLayer()
    else:
        layer = DatabaseChannelLayer(using=request.param)
    yield layer
    layer.stop_listening()
