"""The suppression list: who gets no more email. Erased addresses are on it as hashes."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from mailrail.addresses import spellings
from mailrail.namespace import prefix

from ..models import Suppression
from .reading import suppressions

PREFIX = "sha256:"


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
    names = {begins + name: address for address in addresses for name in names_of(address)}
    rows = suppressions(names, using) if names else ()
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
