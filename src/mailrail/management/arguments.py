"""Parse arguments of our commands. argparse names the argument and shows the texts of these errors."""

from __future__ import annotations

from argparse import ArgumentTypeError

from mailrail.conf import size

MAX_WORKER_ID_LENGTH = 200  # a worker process adds its number; the column has room for 255


def memory(text: str) -> int:
    """Read a size such as 300M, and return bytes."""
    try:
        return size(text)
    except ValueError as error:
        raise ArgumentTypeError(f"must be {error}, not {text!r}") from None


def worker_id(text: str) -> str:
    """Read the name of a worker: 1 to 200 printable characters."""
    if not 0 < len(text) <= MAX_WORKER_ID_LENGTH or not text.isprintable():
        raise ArgumentTypeError(
            f"must be 1 to {MAX_WORKER_ID_LENGTH} printable characters, not {text[:300]!r}"
        )
    return text
