"""Say in words when a cron expression is due, with the package ``cron-descriptor`` where it is installed."""

from __future__ import annotations

import calendar
from pathlib import Path

from django.utils.dates import MONTHS, WEEKDAYS
from django.utils.translation import get_language, to_locale

from .times import Cron

_CHINESE = {"zh_Hans": "zh_CN", "zh_Hant": "zh_TW"}
"""Django names these locales after the script, cron-descriptor after a country."""


def describe(cron: Cron) -> str:
    """Return the expression in words of the current language, or as it is if they cannot be had."""
    try:
        from cron_descriptor import Options, get_description
    except ImportError:
        return cron.expression
    options = Options(locale_code=_locale(), use_24hour_time_format=True)
    try:
        return _with_names(str(get_description(cron.expression, options)))
    except Exception:  # its class depends on the version
        return cron.expression


def _with_names(words: str) -> str:
    """Translate the names of days and months, which cron-descriptor leaves in the language of the process."""
    days = zip(calendar.day_name, WEEKDAYS.values(), strict=True)
    months = zip([*calendar.month_name][1:], MONTHS.values(), strict=True)
    for name, translated in (*days, *months):
        words = words.replace(name, str(translated))
    return words


def _locale() -> str:
    """Return the locale of cron-descriptor that is nearest to the current language: ``de_DE`` for ``de``."""
    import cron_descriptor

    wanted = to_locale(get_language() or "en")
    wanted = _CHINESE.get(wanted, wanted)
    folder = Path(cron_descriptor.__file__).parent / "locale"
    names = sorted(path.stem for path in folder.glob(f"{wanted.split('_')[0]}_*.mo"))
    return wanted if wanted in names else next(iter(names), "en_US")
