"""What arguments of our commands may be. argparse names the argument and shows what these say."""

from __future__ import annotations

from argparse import ArgumentTypeError

from mailrail.conf import size

MAX_WORKER_ID_LENGTH = 200  # a worker process adds its number; the column has room for 255


def memory(text: str) -> int:
    """A size like 300M, in bytes."""
    try:
        return size(text)
    except ValueError as error:
        raise ArgumentTypeError(f"must be {error}, not {text!r}") from None


def worker_id(text: str) -> str:
    """A name for a worker, as people and the table of workers can take it."""
    if not 0 < len(text) <= MAX_WORKER_ID_LENGTH or not text.isprintable():
        raise ArgumentTypeError(
            f"must be 1 to {MAX_WORKER_ID_LENGTH} printable characters, not {text[:300]!r}"
        )
    return text
