"""Write tracebacks, and find the exception that one ends with, and its first line, for lists and logs."""

from __future__ import annotations

import re
import traceback

MAX_ERROR_CLASS_LENGTH = 100
MAX_LENGTH = 20_000
_HEAD_OF_TRACEBACK = re.compile(r"(?:  \+ Exception Group )?Traceback \(most recent call last\):")
_CLASS = re.compile(r"(?:  \| )?([^\W\d][\w.<>]*)(?::|$)")


def describe(error: BaseException, whole: bool = True) -> str:
    """Return the traceback as text, its end if it is long; or what the exception says. Never raises."""
    try:
        text = "".join(traceback.format_exception(error)) if whole else str(error)
    except Exception:  # whatever the exception's own methods do
        text = f"{type(error).__qualname__} (and it cannot be shown)"
    return text if len(text) <= MAX_LENGTH else "…" + text[-MAX_LENGTH:]


def error_class(error: str) -> str:
    """Return the exception class of a traceback, as Python prints it; ``""`` for any other text.

    In a chain of exceptions, it is the last one, which the others led to.
    """
    match = _CLASS.match(_raised(error))
    return match[1][:MAX_ERROR_CLASS_LENGTH] if match else ""


def first_line(error: str) -> str:
    """Return the exception class of a traceback with the first line of its message.

    For any other text, return its first line. Later lines are details: the statement, a hint, a position.
    """
    return _raised(error).removeprefix("  | ") or error.strip().partition("\n")[0]


def storable_error(text: str) -> str:
    """Return text as every store takes it: no zero bytes (PostgreSQL), no halves of surrogate pairs (UTF-8)."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _raised(error: str) -> str:
    """Return the line of a traceback that names the exception, or nothing.

    A message may have lines that look alike, so the line after the frames counts.
    """
    lines = error.splitlines()
    heads = [n for n, line in enumerate(lines) if _HEAD_OF_TRACEBACK.fullmatch(line)]
    # The head was cut off.
    heads = heads or [n for n, line in enumerate(lines) if line.startswith('  File "')]
    if not heads:
        return ""
    frames = "  |   " if lines[heads[-1]].startswith("  +") else " "
    return next((line for line in lines[heads[-1] + 1 :] if not line.startswith(frames)), "")
