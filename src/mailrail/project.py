"""Detect workers of another project that serve the same layer.

Heartbeats carry the identity of a project. Two projects whose workers serve the same channels take each other's
messages: mail of one leaves by the server of the other.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings as django_settings

from .layers import DurableLayer

FINGERPRINT_LENGTH = 16
"""Hexadecimal digits of a fingerprint: enough to tell keys apart, too few to help an attacker."""
_PURPOSE = b"mailrail: a fingerprint of SECRET_KEY, to tell projects apart"


def identity() -> dict[str, Any]:
    """Return the project's identity for heartbeats: its settings module, and fingerprints of its secret keys.

    The fallbacks are among them, so a worker that started before ``SECRET_KEY`` was rotated stays one of ours.
    """
    keys = [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS]
    return {
        "settings": os.environ.get("DJANGO_SETTINGS_MODULE", ""),
        "keys": [fingerprint(key) for key in keys if key],
    }


def fingerprint(key: str | bytes) -> str:
    """Return a short keyed hash, from which the key cannot be computed."""
    encoded = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return hmac.digest(encoded, _PURPOSE, "sha256").hex()[:FINGERPRINT_LENGTH]


def strangers(layer: DurableLayer) -> list[str]:
    """Ask the layer for workers of other projects, and return a description of each.

    Raises ``LayerUnavailable``, or what the layer's database raises.
    """
    own = identity()
    projects = ((worker.id, worker.info.get("project")) for worker in layer.workers())
    descriptions = (
        f"{id} ({' and '.join(differences)})"
        for id, foreign in projects
        if isinstance(foreign, Mapping) and (differences := list(_differences(own, foreign)))
    )
    return list(descriptions)


def _differences(own: Mapping[str, Any], foreign: Mapping[str, Any]) -> Iterator[str]:
    module, keys = foreign.get("settings"), foreign.get("keys")
    if module and own["settings"] and module != own["settings"]:
        yield f"settings {module}"
    if isinstance(keys, list) and keys and set(map(str, keys)).isdisjoint(own["keys"]):
        yield "another SECRET_KEY"


def warning_of(strangers: list[str]) -> str:
    """Return the warning for operators of the layer."""
    shown = ", ".join(strangers[:3]) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
    return (
        f"Workers of another project serve this layer: {shown}. They take this project's messages, and this project's "
        "workers take theirs: mail of one may leave by the server of the other."
    )


HINT = (
    'Give each project a name of its own, as MAILRAIL = {"NAMESPACE": "shop"}. If all of it is one project, run its '
    "processes with the same settings module and SECRET_KEY (the old key in SECRET_KEY_FALLBACKS), or silence this "
    "check."
)
