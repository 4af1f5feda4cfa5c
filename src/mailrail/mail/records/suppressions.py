"""The suppression list: who gets no more email. Erased addresses are on it as hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256

from django.db import connections

from mailrail.addresses import spellings
from mailrail.namespace import prefix

from ..models import Suppression

PREFIX = "sha256:"

# The names travel as one value. PostgreSQL's driver takes longer to write hundreds of parameters than the server
# takes to look them up. SQLite takes at most 32,766 (SQLITE_MAX_VARIABLE_NUMBER), and a batch may have more names.
_AMONG_JSONB = """
SELECT address, reason, note FROM mailrail_mail_suppression
WHERE address IN (SELECT jsonb_array_elements_text(%s::jsonb))
"""
_AMONG_JSON = """
SELECT address, reason, note FROM mailrail_mail_suppression
WHERE address IN (SELECT value FROM json_each(%s))
"""


def hash_address(address: str) -> str:
    """Return the hash under which the list keeps an erased address: recognizable, but not readable."""
    return PREFIX + sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


def names_of(address: str) -> list[str]:
    """Return what the list may know an address by. ``address``: in its normal form.

    One that was erased before normal forms had A-labels is there by the digest of its U-labels, and stays recognized.
    """
    if "xn--" not in address:
        return [address, hash_address(address)]
    return [address, *map(hash_address, spellings(address))]


def listed(addresses: Iterable[str], using: str) -> dict[str, str]:
    """Return which of these addresses are on the list, each with the reason. ``addresses``: in their normal form."""
    begins = prefix()
    names = {}
    for address in addresses:
        if "xn--" in address:
            names.update({begins + name: address for name in names_of(address)})
        else:  # the same, without a list for each
            names[begins + address] = names[begins + hash_address(address)] = address
    if not names:
        return {}
    connection = connections[using]
    with connection.cursor() as cursor:
        statement = _AMONG_JSONB if connection.features.has_native_json_field else _AMONG_JSON
        cursor.execute(statement, [json.dumps([*names])])
        rows = cursor.fetchall()
    return {names[name]: f"suppressed: {reason} {note}".strip() for name, reason, note in rows}


def keep_hashed(address: str, using: str) -> None:
    """Replace an address on the list, if it is there, by its hash: it stays suppressed."""
    named = Suppression.objects.using(using).filter(pk=address)
    for row in named:
        # the note may quote a server that quotes the address
        kept = Suppression(address=hash_address(address), reason=row.reason, created_at=row.created_at)
        Suppression.objects.using(using).bulk_create([kept], ignore_conflicts=True)
    named.delete()


def forget(address: str, using: str) -> None:
    """Take an address off the list, by either name."""
    Suppression.objects.using(using).filter(pk__in=names_of(address)).delete()
