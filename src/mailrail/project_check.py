"""Check that no workers of another project serve our layers (a system check).

mailrail.W009  workers of another project serve a layer (with --database, or --deploy on Redis)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import Error

from .checks import buildable
from .conf import read_for_checks
from .errors import InvalidSettings, LayerUnavailable
from .layers import DurableLayer
from .layers.tables import lacks_tables
from .project import HINT, strangers, warning_of


@register(Tags.database)
@read_for_checks()
def check_projects_of_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the tables of workers in those of these databases that carry messages."""
    named = set(databases or ())
    return list(_check(lambda layer: _is_in_database(layer) and layer.using in named))


@register(deploy=True)
@read_for_checks()
def check_projects_of_servers(**kwargs: Any) -> list[CheckMessage]:
    """Ask the servers of the other layers. This needs connections, so it runs only with ``--deploy``."""
    return list(_check(lambda layer: layer.is_shared and not _is_in_database(layer)))


def _is_in_database(layer: DurableLayer) -> bool:
    return layer.joins_transactions and layer.outbox is None


def _check(is_asked: Callable[[DurableLayer], bool]) -> Iterable[CheckMessage]:
    for alias, layer in buildable().items():
        if is_asked(layer) and (descriptions := _strangers(layer)):
            yield Warning(
                f"CHANNEL_LAYERS[{alias!r}]: {warning_of(descriptions)}", hint=HINT, id="mailrail.W009"
            )


def _strangers(layer: DurableLayer) -> list[str]:
    """Return the foreign workers of this layer; none if it cannot be asked, which other checks report."""
    try:
        if _is_in_database(layer) and lacks_tables(layer.using):
            return []
        return strangers(layer)
    except (LayerUnavailable, InvalidSettings, Error):
        return []
