"""Read time zones from the newest data that is installed: the system's, or that of the package ``tzdata``.

``zoneinfo`` takes the system's whenever there is one, however old it is (PEP 615). Governments change their clocks at
short notice, so the package, which the extra ``schedule`` installs, is often years ahead of the system. Files are read
again after they have changed on the disk.
"""

from __future__ import annotations

import os
import re
import zoneinfo
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from zoneinfo import ZoneInfo

from django.conf import settings

_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_VERSION_FILES = (("tzdata.zi", "# version "), ("+VERSION", ""))
"""Files of a folder that name its version, and what stands before it: IANA's own, and that of macOS and BSD."""


@dataclass(frozen=True)
class ZoneData:
    """Describe a folder of time zone data. ``version`` is IANA's, such as ``2026f``, or empty if it is not known."""

    folder: str
    version: str
    is_package: bool

    def __str__(self) -> str:
        origin = "package tzdata" if self.is_package else self.folder
        return f"{self.version or 'unknown version'} ({origin})"


def zone_data() -> list[ZoneData]:
    """Return the time zone data that is installed, the newest first: that one is used.

    The others are used for zones that the first one lacks, as some systems leave out old names.
    """
    folders = [(folder, False) for folder in zoneinfo.TZPATH if os.path.isdir(folder)]  # noqa: PTH112 - a tick's cost
    if package := _package_folder():
        folders.append((package, True))
    found = [ZoneData(folder, _version(folder), is_package) for folder, is_package in folders]
    # Of two that are equally new, the first is the one that zoneinfo takes.
    return sorted(found, key=lambda data: data.version, reverse=True)


def load_zone(name: str | None = None) -> ZoneInfo:
    """Return a zone of the IANA database; ``None`` means that of the setting ``TIME_ZONE``.

    Raises ``ValueError`` if there is none of that name.
    """
    wanted = settings.TIME_ZONE if name is None else name
    for data in zone_data() if _NAME.fullmatch(wanted) else []:
        path = os.path.join(data.folder, wanted)  # noqa: PTH118 - a tick's cost
        if os.path.isfile(path) and (zone := _read(path, _changed(path), wanted)):  # noqa: PTH113
            return zone
    raise ValueError(_no_such_zone(wanted, "tz" if name is not None else "TIME_ZONE"))


def _no_such_zone(name: str, argument: str) -> str:
    text = f'{argument} must be the name of a time zone, such as "Europe/Berlin", not {name!r}.'
    newest = next(iter(zone_data()), None)
    if newest is None:
        return f'{text} No time zones are installed: pip install "mailrail[schedule]".'
    return f"{text} The zones are those of {newest}."


@lru_cache(maxsize=2048)
def _read(path: str, changed: int, name: str) -> ZoneInfo | None:
    """Read the file of a zone, or return ``None`` if it is no such file."""
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        try:
            return ZoneInfo.from_file(file, name)
        except ValueError:
            return None


@cache
def _package_folder() -> str | None:
    """Return the folder of the package's zones if it is installed."""
    spec = find_spec("tzdata")
    folders = spec.submodule_search_locations if spec else None
    return os.path.join(folders[0], "zoneinfo") if folders else None  # noqa: PTH118


def _version(folder: str) -> str:
    for name, prefix in _VERSION_FILES:
        path = os.path.join(folder, name)  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113
            return _first_line(path, _changed(path)).removeprefix(prefix)
    return ""


@lru_cache(maxsize=16)
def _first_line(path: str, changed: int) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return file.readline(100).strip()


def _changed(path: str) -> int:
    return os.stat(path).st_mtime_ns  # noqa: PTH116
