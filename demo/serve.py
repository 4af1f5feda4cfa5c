"""``make serve``: the demo's site for people, on this machine, by plain ``manage.py runserver``.

    python demo/serve.py [--port 8000] [--folder demo]

Sets up the database, makes a user for the admin, says where to look, and becomes ``manage.py runserver``, which has a
worker inside. What is delivered ends in the inbox of the site.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # the folder that holds the package "demo"

from demo import environment  # noqa: E402

HOST = "127.0.0.1"
USER = "demo"
LINES = """\
Mailrail's demo. All mail stays on this machine, in the inbox.

  Begin here        {site}/
  Invite somebody   {site}/invites/
  Read the mail     {site}/inbox/
  Is it well?       {site}/live/
  Administration    {site}/admin/
  Log in as         {user}, with the password {password}

Ctrl-C ends everything.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Does not return: this process becomes the server."""
    options = parse(arguments)
    if reason := taken(options.port):
        sys.exit(f"Port {options.port} of {HOST} cannot be used: {reason}. Try another: make serve PORT=8001")
    site = f"http://{HOST}:{options.port}"
    develop(site, options.folder)
    print(LINES.format(site=site, user=USER, password=set_up()), flush=True)
    server = [str(ROOT / "demo" / "manage.py"), "runserver", f"{HOST}:{options.port}"]
    os.execv(sys.executable, [sys.executable, *server])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The demo's site, on this machine.")
    parser.add_argument("--port", type=port, default=8000, help="default: 8000")
    folder = "where the database and the captured mail are kept (default: demo)"
    parser.add_argument("--folder", type=a_folder, default=ROOT / "demo", help=folder)
    return parser.parse_args(arguments)


def a_folder(text: str) -> Path:
    """A folder, made if there is none."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a folder: {error.strerror}") from None
    return path


def port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: those are 1 to 65535")
    return int(text)


def taken(number: int) -> str | None:
    """Why nobody can listen there, if so. Asked before the database is touched, and said without a traceback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
        try:
            probe.bind((HOST, number))
            probe.listen()
        except OSError as error:
            return error.strerror
    return None


def develop(site: str, folder: Path) -> None:
    """What the environment says of a deployment does not count here, least of all which database that has."""
    for name in (*environment.NEEDED, "REDIS_URL", "ALLOWED_HOSTS", "FROM_EMAIL", "READY_OLDEST_DUE"):
        os.environ.pop(name, None)
    os.environ |= {
        "DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "demo.settings",
        "DATABASE_URL": f"sqlite:///{folder.resolve() / 'demo.sqlite3'}",
        "INBOX_FOLDER": str(folder.resolve() / "captured"),
        "BASE_URL": site,
    }


def set_up() -> str:
    """Migrate, and give the user a new password, so that the one that is printed is always right. Returns it."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)

    from django.contrib.auth import get_user_model
    from django.db import connections

    password = secrets.token_urlsafe(9)
    user, _ = get_user_model()._default_manager.get_or_create(
        username=USER, defaults={"email": "demo@example.com", "is_staff": True, "is_superuser": True}
    )
    user.set_password(password)
    user.save()
    connections.close_all()
    return password


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # while it sets up; later it is the server's
        sys.exit(130)
