"""What the environment says of a deployment. Whatever cannot be followed is an ``ImproperlyConfigured`` that names the
variable and says what to write.

    SECRET_KEY        any long random string
    DATABASE_URL      postgres://user:password@host:5432/name, or sqlite:////path/to/file
    EMAIL_URL         smtp+tls://user:password@host:587 (smtp+ssl:// for port 465, smtp:// without encryption)
    BASE_URL          https://invites.example.com, where people reach the site
    REDIS_URL         optional: messages travel there, and not in the database
    ALLOWED_HOSTS     optional: names under which the site is reached, besides that of BASE_URL
    FROM_EMAIL        optional: who the invitations come from
    READY_OLDEST_DUE  optional: seconds that work may be late before /readyz says so, or: none
    DEBUG             optional: 1 on a developer's own machine, where none of the others is needed
    INBOX_FOLDER      optional: where mail is captured then
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

NEEDED = ("SECRET_KEY", "DATABASE_URL", "EMAIL_URL", "BASE_URL")
_FLAGS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "": False,
    "0": False,
    "false": False,
    "no": False,
}
_FLAGS["off"] = False
# How the connection is encrypted, and the port that goes with it (RFC 8314 3).
_ENCRYPTION = {"smtp": (None, 25), "smtp+tls": ("use_tls", 587), "smtp+ssl": ("use_ssl", 465)}


def text(name: str, default: str = "") -> str:
    return os.environ.get(name) or default


def flag(name: str) -> bool:
    value = text(name).lower()
    if value not in _FLAGS:
        raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}.")
    return _FLAGS[value]


def names(name: str) -> list[str]:
    """Return the words between the commas."""
    return [part.strip() for part in text(name).split(",") if part.strip()]


def seconds(name: str, default: float) -> float | None:
    """``none``: no limit."""
    value = text(name, str(default))
    if value.lower() == "none":
        return None
    try:
        return float(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a number of seconds, or none, not {value!r}.") from error


def check_needed() -> None:
    """All that is missing is told at once."""
    missing = [name for name in NEEDED if not text(name)]
    if missing:
        raise ImproperlyConfigured(
            f"The environment lacks {', '.join(missing)}; demo/environment.py says what they hold. "
            "To develop on your own machine, set DEBUG=1 instead, or run: make serve"
        )


def database(default: str) -> dict[str, Any]:
    """An entry of ``DATABASES``. On SQLite with what lets processes write side by side."""
    try:
        entry: dict[str, Any] = dict(dj_database_url.parse(text("DATABASE_URL", default)))
    except ValueError as error:  # it may hold a password, so it is not repeated
        raise ImproperlyConfigured(
            "DATABASE_URL cannot be read. Write postgres://user:password@host:5432/name, with special characters "
            "of the password as %XX, or sqlite:////path/to/file."
        ) from error
    if entry["ENGINE"] == "django.db.backends.sqlite3":
        # A transaction takes its lock when it begins, and readers do not stand in the way of the writer.
        entry["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    return entry


def smtp() -> dict[str, Any]:
    """Options of Django's SMTP backend."""
    parts = urlsplit(text("EMAIL_URL"))
    if parts.scheme not in _ENCRYPTION or not parts.hostname:
        raise ImproperlyConfigured(
            f"EMAIL_URL must begin with {_listed([f'{scheme}://' for scheme in _ENCRYPTION])}, and name a host: "
            "smtp+tls://user:password@mail.example.com:587"
        )
    encrypted_by, port = _ENCRYPTION[parts.scheme]
    try:
        port = parts.port or port
    except ValueError as error:
        raise ImproperlyConfigured("EMAIL_URL must have a number as its port, such as 587.") from error
    options = {"host": parts.hostname, "port": port, "timeout": 30}
    if parts.username:
        options |= {"username": unquote(parts.username), "password": unquote(parts.password or "")}
    return options | ({encrypted_by: True} if encrypted_by else {})


def base_url(default: str) -> str:
    """Scheme and host, without a slash at the end."""
    parts = urlsplit(text("BASE_URL", default))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ImproperlyConfigured(
            f"BASE_URL must be like https://invites.example.com, not {parts.geturl()!r}."
        )
    return f"{parts.scheme}://{parts.netloc}"


def origins(base: str) -> list[str]:
    """The site as browsers name it, under each of its names."""
    scheme = urlsplit(base).scheme
    hosts = [f"*{name}" if name.startswith(".") else name for name in names("ALLOWED_HOSTS") if name != "*"]
    return [base, *(f"{scheme}://{host}" for host in hosts)]


def has_inbox() -> bool:
    """Does mail end on a page of the site? So it is while somebody develops and names no server."""
    return flag("DEBUG") and not text("EMAIL_URL")


def inbox_folder() -> Path:
    return Path(text("INBOX_FOLDER", str(Path(__file__).resolve().parent / "captured")))


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
