"""Make and check invitation keys, which links hold and nobody can forge.

A key is a public id, which finds the row, and a MAC over the fields that identify the invitation.
Only the public id is stored: whoever reads the table but not ``SECRET_KEY`` can make no key. Both parts have a
fixed width and the alphabet of URLs (RFC 4648, 5), so a key needs no separator and no quoting.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from typing import TypeGuard

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

PUBLIC_ID_BYTES = 12  # 96 bits
MAC_BYTES = 24  # 192 bits
SALT_BYTES = 18  # 144 bits
# Multiples of three bytes: base64 of them has no padding, and one spelling only.
PUBLIC_ID_LENGTH = PUBLIC_ID_BYTES * 4 // 3
KEY_LENGTH = PUBLIC_ID_LENGTH + MAC_BYTES * 4 // 3
SALT_LENGTH = SALT_BYTES * 4 // 3

_KEY = re.compile(rf"[A-Za-z0-9_-]{{{KEY_LENGTH}}}")
_PURPOSE = "mailrail.invitations.key"


def new_public_id() -> str:
    """Make the id that a key begins with: opaque, 96 random bits."""
    return secrets.token_urlsafe(PUBLIC_ID_BYTES)


def new_salt() -> str:
    """Make a row's salt: 144 random bits."""
    return secrets.token_urlsafe(SALT_BYTES)


def is_well_formed(key: object) -> TypeGuard[str]:
    """Tell whether a text has the form of a key; others never reach the database."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def make_key(
    public_id: str, generation: int, email: str, salt: str, secret: str | bytes | None = None
) -> str:
    """Make the key of an invitation; ``secret`` is ``SECRET_KEY`` if not given.

    The fields are signed as a JSON list: no two lists of fields are written alike.
    """
    fields = json.dumps([public_id, generation, email, salt])
    mac = salted_hmac(_PURPOSE, fields, secret, algorithm="sha256").digest()[:MAC_BYTES]
    return public_id + base64.urlsafe_b64encode(mac).decode("ascii")


def is_key_of(key: str, public_id: str, generation: int, email: str, salt: str) -> bool:
    """Tell, in constant time, whether the key is this invitation's under one of the secrets in use."""
    in_use = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    expected = [make_key(public_id, generation, email, salt, secret) for secret in in_use]
    matches = [constant_time_compare(key, candidate) for candidate in expected]
    return any(matches)
