"""What the writers of this package raise at the first thing that is not common: Django composes that message."""

from __future__ import annotations


class Uncommon(Exception):
    """Report a message that Django has to write. The text says which rule it fell under."""
