"""What the writers of this package raise at the first thing that is not common: Django composes that message."""

from __future__ import annotations


class Uncommon(Exception):
    """Not written here. The text says which rule it fell under."""
