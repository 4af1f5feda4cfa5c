"""What users install: the wheel holds all of the package, and a new project needs one line to use it.

No package index is asked: the wheel is built with the hatchling of this environment, and what Mailrail depends on is
lent from it, package by package, so that one that is not declared is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from html import unescape
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from .processes import ROOT

PACKAGE = ROOT / "src" / "mailrail"

CONSUMERS = """
from django.contrib.auth.models import Group
from mailrail.routing import consumer

@consumer("new-team")
def new_team(message):
    Group.objects.create(name=message["name"])
"""


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints that must succeed, run like on a machine that knows nothing of this checkout."""
    ours = ("PYTHON", "DJANGO", "MAILRAIL", "PYTEST", "PIP_")
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments: str | Path, folder: Path) -> None:
    """pip, without an index, and without looking for a newer one."""
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated", *arguments, folder=folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip(
        "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, folder=folder
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel and what it declares to need, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    )
    for name in sorted({top for dist in needed_by(distribution("mailrail")) for top in tops(dist)}):
        (packages / name.name).symlink_to(name)
    pip("--python", python, "install", "--no-index", wheel, folder=folder)
    return python


def needed_by(dist: Distribution, extra: str = "") -> Iterator[Distribution]:
    """The distributions that a distribution requires, and those that these require, and so on."""
    for text in dist.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield (found := distribution(requirement.name))
            for wanted in {"", *requirement.extras}:
                yield from needed_by(found, wanted)


def tops(dist: Distribution) -> set[Path]:
    """The folders and modules that a distribution has put into site-packages."""
    names = {file.parts[0] for file in dist.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return {Path(str(dist.locate_file(name))) for name in names}


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(PACKAGE.parent)) for path in files}
    for ending in (
        "/py.typed",
        "/lua/claim.lua",
        "/postgresql/sql/claim.sql",
        "/sqlite/sql/lease.sql",
        "/migrations/0001_initial.py",
        ".html",
        "/email/body.txt",
        ".css",
        "/zh_Hans/LC_MESSAGES/django.mo",
    ):
        assert any(name.endswith(ending) for name in names), ending


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert {"Name: mailrail", "License-Expression: BSD-3-Clause", "Requires-Python: >=3.11"} <= set(lines)
    assert "Background work and email for Django, on named channels that lose nothing." in lines  # the README


def test_a_new_project_needs_one_line(python: Path, tmp_path: Path) -> None:
    def manage(*arguments: str) -> str:
        return run(python, "-W", "error", "manage.py", *arguments, folder=tmp_path)

    run(python, "-m", "django", "startproject", "project", ".", folder=tmp_path)
    manage("startapp", "teams")
    tmp_path.joinpath("teams", "consumers.py").write_text(CONSUMERS)
    settings = tmp_path / "project" / "settings.py"
    text = settings.read_text()
    settings.write_text(
        text.replace("INSTALLED_APPS = [", 'INSTALLED_APPS = [\n    "mailrail",\n    "teams",')
    )

    assert "no issues" in manage("check")
    manage("migrate")
    manage("makemigrations", "--check", "--dry-run")
    manage("shell", "-c", "from mailrail import Channel; Channel('new-team').send({'name': 'editors'})")
    assert "channels: new-team" in manage("runworker", "--drain")
    groups = "from django.contrib.auth.models import Group; print('groups:', *Group.objects.all())"
    assert "groups: editors\n" in manage("shell", "-c", groups)
    assert "Empty: new-team" in manage("channels")
    where = manage("shell", "-c", "import mailrail; print(mailrail.__file__)").splitlines()[-1]
    assert Path(where).is_relative_to(python.parent.parent)


def test_the_invitations_of_the_wheel_work_in_a_new_project(python: Path, tmp_path: Path) -> None:
    settings = """
INSTALLED_APPS = ["mailrail", "mailrail.invitations", "django.contrib.auth", "django.contrib.contenttypes",
                  "django.contrib.staticfiles"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
SECRET_KEY = "not a secret: tests only"
ALLOWED_HOSTS = ["testserver"]
MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware"]
ROOT_URLCONF = "project_urls"
"""
    urls = """
from django.urls import include, path

urlpatterns = [path("invites/", include("mailrail.invitations.urls"))]
"""
    tmp_path.joinpath("project_settings.py").write_text(settings)
    tmp_path.joinpath("project_urls.py").write_text(urls)

    def manage(*arguments: str) -> str:
        options = ("--settings", "project_settings", "--pythonpath", tmp_path)
        return run(python, "-W", "error", "-m", "django", *arguments, *options, folder=tmp_path)

    manage("migrate")
    assert "invitations.css" in manage("findstatic", "mailrail_invitations/invitations.css")
    load = "from django.template.loader import get_template; get_template('mailrail_invitations/list.html')"
    manage("shell", "-c", load)
    asked = """
from django.test import Client
page = Client().get("/invites/accept/forged/", headers={"accept-language": "zh-Hans"})
print(page.status_code, page.text.encode("ascii", "xmlcharrefreplace").decode())
"""
    page = unescape(manage("shell", "-c", asked))
    assert "404 <!doctype html>" in page and '<html lang="zh-hans"' in page and "没有这个邀请" in page
