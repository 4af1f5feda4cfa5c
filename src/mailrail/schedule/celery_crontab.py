"""Convert crontabs as Celery stores them, each field a text of its own, into cron expressions.

Celery reads names of days and months by their first three letters, and ranges that wrap, such as ``fri-mon``. It runs
when the day of the month and that of the week both match, where cron runs when one of them does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby

FIELDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day_of_month": (1, 31),
    "month_of_year": (1, 12),
    "day_of_week": (0, 6),
}
"""The fields in the order of a cron expression, with their lowest and highest value."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NUMBERS = {
    name: number for names, start in ((_MONTHS, 1), (_DAYS, 0)) for number, name in enumerate(names, start)
}
_PART = re.compile(r"(?:(?P<star>\*)|(?P<low>\w+?)(?:-(?P<high>\w+))?)(?:/(?P<step>[0-9]+))?")
_SET = re.compile(r"[{\[(].*[})\]]")
_WEEKS = {tuple(range(first, first + 7)): number for number, first in enumerate((1, 8, 15, 22), 1)}
"""The days of the month on which the first to the fourth of a weekday falls."""


def expression_of(crontab: Mapping[str, str]) -> str:
    """Return the cron expression that is due when Celery's crontab is; ``crontab`` has the texts of ``FIELDS``.

    Raises ``ValueError`` that says why there is none.
    """
    values = {name: _values(name, crontab[name]) for name in FIELDS}
    texts = {name: _text(name, crontab[name], values[name]) for name in FIELDS}
    if texts["day_of_month"][0] != "*" and texts["day_of_week"][0] != "*":
        number = _WEEKS.get(tuple(values["day_of_month"]))
        if number is None or len(values["day_of_week"]) > 1:
            raise ValueError(
                "day_of_month and day_of_week are both given: Celery runs when both match, cron when one of them does"
            )
        texts |= {"day_of_month": "*", "day_of_week": f"{values['day_of_week'][0]}#{number}"}
    return " ".join(texts[name] for name in FIELDS)


def _text(name: str, stored: str, values: list[int]) -> str:
    """Return a field as it is stored if cron reads it alike, else as a list of numbers."""
    low, high = FIELDS[name]
    if len(values) == high - low + 1:
        return "*"
    if re.fullmatch(r"\*/[0-9]+", stored):
        return stored
    if re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", stored) and not _wraps(stored):
        return stored
    return ",".join(_spans(values))


def _spans(values: list[int]) -> Iterator[str]:
    """Yield numbers, and ranges for three and more that follow each other."""
    for _, group in groupby(enumerate(values), lambda pair: pair[1] - pair[0]):
        span = [value for _, value in group]
        yield from [f"{span[0]}-{span[-1]}"] if len(span) > 2 else map(str, span)


def _wraps(stored: str) -> bool:
    spans = (part.split("-") for part in stored.split(","))
    return any(int(span[0]) > int(span[-1]) for span in spans)


def _values(name: str, stored: str) -> list[int]:
    """Return the values of a field, by Celery's rules. Raises ``ValueError``."""
    if _SET.fullmatch(stored.strip()):
        numbers = stored.strip(" {}[]()").replace(" ", "")
        raise ValueError(
            f"{name} is the text of a Python set or list, {stored}, which Celery cannot read either. "
            f"Write {numbers!r} there, and import again"
        )
    try:
        return sorted(
            {value for part in stored.split(",") for value in _expanded(part.strip(), *FIELDS[name])}
        )
    except (ValueError, KeyError):
        raise ValueError(f"{name} is {stored!r}, which Celery cannot read either") from None


def _expanded(part: str, lowest: int, highest: int) -> list[int]:
    match = _PART.fullmatch(part)
    if match is None or (
        match["step"] and not match["star"] and not match["high"] and match["low"].isdecimal()
    ):
        raise ValueError(part)  # of sat/2, Celery reads the first three letters
    everything = range(lowest, highest + 1)
    if match["star"]:
        values = list(everything)
    else:
        low, high = _number(match["low"], everything), _number(match["high"] or match["low"], everything)
        values = (
            list(range(low, high + 1))
            if low <= high
            else [*range(low, highest + 1), *range(lowest, high + 1)]
        )
    return values[:: int(match["step"] or 1)]


def _number(text: str, allowed: range) -> int:
    number = int(text) if text.isdecimal() else _NUMBERS[text[:3].lower()]
    if number not in allowed:
        raise ValueError(text)
    return number
