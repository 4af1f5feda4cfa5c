"""Crontabs of Celery become cron expressions that are due at the same times, or it is said why not."""

from __future__ import annotations

import pytest

from mailrail.schedule.celery_crontab import expression_of

FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")


def converted(text: str) -> str:
    return expression_of(dict(zip(FIELDS, text.split("|"), strict=True)))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("*/5|*|*|*|*", "*/5 * * * *"),
        ("0|8,20|*|*|*", "0 8,20 * * *"),
        ("0|8, 20|*|*|*", "0 8,20 * * *"),
        ("0|9-17|*|*|1-5", "0 9-17 * * 1-5"),
        ("0|8-17/3|*|*|*", "0 8,11,14,17 * * *"),
        ("0|22-2|*|*|*", "0 0-2,22,23 * * *"),
        ("0|0|*|*|fri-mon", "0 0 * * 0,1,5,6"),
        ("0|0|*|*|monday,Wed", "0 0 * * 1,3"),
        ("0|0|1|jan,july|*", "0 0 1 1,7 *"),
        ("0|0|*/2|*|*", "0 0 */2 * *"),
        ("0|0|*|*/3|*", "0 0 * */3 *"),
        ("*/1|0-23|1-31|1-12|0-6", "* * * * *"),
        ("0|0|1-31|*|mon", "0 0 * * 1"),
        ("0|0|8-14|*|tue", "0 0 * * 2#2"),
        ("0|0|*/2|*|mon", "0 0 */2 * 1"),
        ("0|0|*|*|sat/2", "0 0 * * 6"),
    ],
)
def test_a_crontab_becomes_an_expression(stored: str, expected: str) -> None:
    assert converted(stored) == expected


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (
            "0|{1, 2, 3}|*|*|*",
            r"^hour is the text of a Python set or list, \{1, 2, 3\}, .* Write '1,2,3' there",
        ),
        ("[0, 30]|*|*|*|*", r"^minute is the text of a Python set or list, .* Write '0,30' there"),
        ("0|24|*|*|*", "^hour is '24', which Celery cannot read either"),
        ("0|0|*|*|7", "^day_of_week is '7', which"),
        ("0|0|0|*|*", "^day_of_month is '0', which"),
        ("5/10|*|*|*|*", "^minute is '5/10', which"),
        ("*/0|*|*|*|*", r"^minute is '\*/0', which"),
        ("0|noon|*|*|*", "^hour is 'noon', which"),
        ("0|1,|*|*|*", "^hour is '1,', which"),
        ("0|0|13|*|fri", "^day_of_month and day_of_week are both given"),
        ("0|0|1-7|*|mon,tue", "^day_of_month and day_of_week are both given"),
    ],
)
def test_a_crontab_that_has_no_such_expression_says_why(stored: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        converted(stored)
