"""Which exception a traceback ends with, and its first line: what lists and logs show of an error."""

from __future__ import annotations

import re

MAX_ERROR_CLASS_LENGTH = 100
_HEAD_OF_TRACEBACK = re.compile(r"(?:  \+ Exception Group )?Traceback \(most recent call last\):")
_CLASS = re.compile(r"(?:  \| )?([^\W\d][\w.<>]*)(?::|$)")


def error_class(error: str) -> str:
    """The class of the exception whose traceback this is, as Python prints it; ``""`` for any other text.

    Of several, the last one, which the others led to.
    """
    found = _CLASS.match(_raised(error))
    return found[1][:MAX_ERROR_CLASS_LENGTH] if found else ""


def first_line(error: str) -> str:
    """Return the class and the first line of what the exception says whose traceback this is.

    Of any other text, its first line. What follows explains: the statement, a hint, a position in it.
    """
    return _raised(error).removeprefix("  | ") or error.strip().partition("\n")[0]


def _raised(error: str) -> str:
    """Return the line of a traceback that names the exception, or nothing.

    What an exception says may have lines that look alike, so it is the line behind the frames that counts.
    """
    lines = error.splitlines()
    heads = [n for n, line in enumerate(lines) if _HEAD_OF_TRACEBACK.fullmatch(line)]
    heads = heads or [
        n for n, line in enumerate(lines) if line.startswith('  File "')
    ]  # the head was cut off
    if not heads:
        return ""
    frames = "  |   " if lines[heads[-1]].startswith("  +") else " "
    return next((line for line in lines[heads[-1] + 1 :] if not line.startswith(frames)), "")
