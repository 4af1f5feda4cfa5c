"""Who gets no more email, also where the list may not say whom it means."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from mailrail.addresses import spellings

from .models import Suppression
from .reading import suppressions

PREFIX = "sha256:"


def disguised(address: str) -> str:
    """What the list knows an erased address by: it is recognized when it comes again, and cannot be read off."""
    return PREFIX + sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


def names_of(address: str) -> list[str]:
    """Return what the list may know an address by. ``address``: in its normal form.

    One that was erased before normal forms had A-labels is there by the digest of its U-labels, and stays recognized.
    """
    if "xn--" not in address:
        return [address, disguised(address)]
    return [address, *map(disguised, spellings(address))]


def listed(addresses: Iterable[str], using: str) -> dict[str, str]:
    """Those of these addresses, in their normal form, that are on the list -> why."""
    names = {name: address for address in addresses for name in names_of(address)}
    rows = suppressions(names, using)
    return {names[row.address]: f"suppressed: {row.reason} {row.note}".strip() for row in rows}


def disguise(address: str, using: str) -> None:
    """Let an address go on being suppressed, if it is, without its name."""
    named = Suppression.objects.using(using).filter(pk=address)
    for row in named:
        # the note may quote a server that quotes the address
        kept = Suppression(address=disguised(address), reason=row.reason, created_at=row.created_at)
        Suppression.objects.using(using).bulk_create([kept], ignore_conflicts=True)
    named.delete()


def forget(address: str, using: str) -> None:
    """Take an address off the list, by either name."""
    Suppression.objects.using(using).filter(pk__in=names_of(address)).delete()
