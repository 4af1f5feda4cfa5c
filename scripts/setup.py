"""Set up a virtual environment for this checkout and print the path of its Python.

    python3 scripts/setup.py [--python 3.11] [--django 5.2] GROUP...

A GROUP is a dependency group or an extra of pyproject.toml. The environment lies under .venv/, one for each
combination of Python, Django and groups, with the project itself installed in place. One that is complete is only
looked at, so a second run needs neither time nor network. Everything but the path goes to stderr.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 there is no usable Python of the wanted version.

Needs nothing but Python's own library: it has to run before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NEWEST = (
    3,
    14,
)  # newer ones are taken when there is nothing else: not every requirement may be ready for them
PYTHON_NOT_FOUND = 3


class Interpreter(NamedTuple):
    path: str  # of the interpreter itself, never of a shim or a virtual environment
    version: tuple[int, int, int]
    ordinary: bool  # neither a pre-release nor free-threaded
    has_ensurepip: bool  # Debian's has not, unless python3-venv is installed

    @property
    def minor(self) -> str:
        return "{}.{}".format(*self.version)


class Rejected(NamedTuple):
    path: str
    reason: str


class Failure(Exception):
    """Ends the program with a sentence for its user."""

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status


def main() -> None:
    options = parse_arguments()
    uv = find_uv()
    python = choose_interpreter(options.python, needs_ensurepip=uv is None)
    if sys.version_info < OLDEST:  # too old to read TOML, but it found one that can
        os.execv(python.path, [python.path, *sys.argv])
    name = "-".join([python.minor, options.django or "latest", *options.groups])
    requirements = read_requirements(options.groups, options.django)
    print(ensure_environment(ROOT / ".venv" / name, python, requirements, uv))


def parse_arguments() -> argparse.Namespace:
    def two_numbers(text: str) -> str:
        if not re.fullmatch(r"\d+\.\d+", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form 3.11")
        return text

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--python", metavar="X.Y", type=two_numbers, help="default: the newest found")
    parser.add_argument(
        "--django", metavar="X.Y", type=two_numbers, help="default: the newest for that Python"
    )
    parser.add_argument("groups", metavar="GROUP", nargs="+", help="a dependency group or an extra")
    return parser.parse_args()


# Finding a Python


def choose_interpreter(minor: str | None, needs_ensurepip: bool) -> Interpreter:
    """The newest usable one, or the newest of ``minor``."""
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(ask, candidates()))
    fitting = [
        python for python in answers if isinstance(python, Interpreter) and minor in (None, python.minor)
    ]
    if not fitting:
        wanted = f"Python {minor}" if minor else "Python {}.{} or newer".format(*OLDEST)
        rejected = [
            f"\n  {python.path}: {python.reason}" for python in answers if isinstance(python, Rejected)
        ]
        raise Failure(
            f"no usable {wanted} was found, neither on PATH nor under pyenv's versions.{''.join(rejected)}",
            status=PYTHON_NOT_FOUND,
        )
    able = [python for python in fitting if python.has_ensurepip or not needs_ensurepip]
    if not able:
        raise Failure(how_to_get_ensurepip(max(fitting, key=preference)))
    return max(able, key=preference)


def preference(python: Interpreter) -> tuple[bool, tuple[int, int, int]]:
    return python.ordinary and python.version[:2] <= NEWEST, python.version


def how_to_get_ensurepip(python: Interpreter) -> str:
    package = f"python{python.minor}-venv"
    if Path(python.path) == Path("/usr/bin/python3").resolve():
        package = f"python3-venv (or {package})"
    return (
        f"{python.path} cannot make virtual environments: it comes without ensurepip. "
        f"Install the Debian package {package}, or uv, and try again."
    )


def candidates() -> list[Path]:
    """Every ``python3`` and ``python3.X`` on PATH and under pyenv's versions, each once."""
    folders = [Path(folder).absolute() for folder in os.get_exec_path() if folder]
    pyenv = pyenv_root()
    if pyenv:  # its shims are slow, and lead to these versions at best
        folders = [folder for folder in folders if folder != pyenv / "shims"]
        folders += sorted(pyenv.glob("versions/*/bin"))
    by_target: dict[Path, Path] = {}
    for folder in folders:
        with contextlib.suppress(OSError):  # PATH may name a folder that is not there
            for path in sorted(folder.glob("python3*")):
                name = re.fullmatch(r"python3(?:\.(\d+))?", path.name)
                if name and (3, int(name[1] or OLDEST[1])) >= OLDEST and os.access(path, os.X_OK):
                    by_target.setdefault(path.resolve(), path)
    return list(by_target.values())


def pyenv_root() -> Path | None:
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    if not root.is_dir() and shutil.which("pyenv"):
        answer = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True, check=False)
        root = Path(answer.stdout.strip())
    return root if root.is_dir() else None


# What an interpreter says of itself. Its own path leads past shims, its base past virtual environments. Any Python 3
# has to be able to read this.
PORTRAIT = """
import sys
if sys.version_info < OLDEST:
    sys.exit("older than %d.%d" % OLDEST)
import json, os, sysconfig
from importlib.util import find_spec
try:
    import sqlite3, ssl, venv
except ImportError as error:
    sys.exit(str(error))
if sqlite3.sqlite_version_info < (3, 35):
    sys.exit("its SQLite is %s, older than 3.35" % sqlite3.sqlite_version)
print(json.dumps({
    "path": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": sys.version_info[:3],
    "ordinary": sys.version_info[3] == "final" and not sysconfig.get_config_var("Py_GIL_DISABLED"),
    "has_ensurepip": find_spec("ensurepip") is not None,
}))
"""


def ask(candidate: Path) -> Interpreter | Rejected:
    question = f"OLDEST = {OLDEST}\n{PORTRAIT}"
    try:
        process = subprocess.run(
            [str(candidate), "-I", "-S", "-c", question],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if process.returncode != 0:
            return Rejected(str(candidate), process.stderr.strip().partition("\n")[0] or "does not run")
        answer = json.loads(process.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Rejected(str(candidate), f"does not run: {error}")
    answer["version"] = tuple(answer["version"])
    return Interpreter(**answer)


# What to install


def read_requirements(names: list[str], django: str | None) -> list[str]:
    """pip's arguments: the project with its extras, the groups written out (pip knows groups only since 25.1)."""
    import tomllib

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = pyproject.get("dependency-groups", {})
    extras = pyproject["project"].get("optional-dependencies", {})
    unknown = [name for name in names if name not in groups and name not in extras]
    if unknown:
        raise Failure(
            f"pyproject.toml has no group or extra {', '.join(unknown)}, only {', '.join(sorted({*groups, *extras}))}.",
            status=2,
        )
    wanted_extras = ",".join(name for name in names if name not in groups)
    listed = {item for name in names if name in groups for item in expand(groups, name)}
    project = f".[{wanted_extras}]" if wanted_extras else "."
    return ["--editable", project, *sorted(listed), *([f"Django~={django}.0"] if django else [])]


def expand(groups: dict[str, Any], name: str) -> Iterator[str]:
    for item in groups[name]:
        if isinstance(item, str):
            yield item
        else:
            yield from expand(groups, item["include-group"])


# Installing it


def ensure_environment(
    environment: Path, python: Interpreter, requirements: list[str], uv: str | None
) -> Path:
    """Build the environment unless it is there and complete; returns the path of its Python."""
    executable = environment / "bin" / "python"
    stamp = environment / "complete"  # written last: an interrupted set-up has none
    fingerprint = fingerprint_of(python, requirements)

    def is_complete() -> bool:
        return executable.exists() and stamp.is_file() and stamp.read_text() == fingerprint

    if not is_complete():
        with locked(environment.with_name(environment.name + ".lock")) as lock:
            if not is_complete():  # else somebody else has built it while we waited
                stamp.unlink(missing_ok=True)
                clear(environment)
                build(environment, python, requirements, uv, lock)
                if any(requirement.startswith("pytest-django") for requirement in requirements):
                    fetch_django_tests(environment, lock)
                stamp.write_text(fingerprint)
    return executable


def fingerprint_of(python: Interpreter, requirements: list[str]) -> str:
    """Changes whenever the environment would come out another one."""
    parts = [str(ROOT), repr(python), repr(requirements)]
    files = [ROOT / "pyproject.toml", Path(__file__)]
    return hashlib.sha256(
        "\0".join(parts).encode() + b"\0".join(file.read_bytes() for file in files)
    ).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another set-up of {path.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def build(environment: Path, python: Interpreter, requirements: list[str], uv: str | None, lock: int) -> None:
    """With uv when there is one; with pip when uv fails, too: its index may be another one, as configured for it."""
    executable = str(environment / "bin" / "python")
    by_pip = [
        [python.path, "-I", "-m", "venv", str(environment)],
        [executable, "-I", "-m", "pip", "install", "--quiet", *requirements],
    ]
    means = "uv" if uv else "venv and pip, which takes a minute"
    tell(f"setting up {environment.relative_to(ROOT)} with {python.path}, by {means}")
    if uv is None:
        run(by_pip, lock)
        return
    # Bytecode as pip leaves it: else each process compiles all it imports, where none may be written. And a build of
    # the project that uv has kept would not compile the catalogues in place.
    with_uv = ["--compile-bytecode", "--refresh-package", "mailrail"]
    by_uv = [
        [uv, "venv", "--quiet", "--python", python.path, str(environment)],
        [uv, "pip", "install", "--quiet", *with_uv, "--python", executable, *requirements],
    ]
    try:
        run(by_uv, lock)
    except Failure as failure:
        if not python.has_ensurepip:
            raise
        tell(f"{failure}\nOnce more, by venv and pip")
        clear(environment)
        run(by_pip, lock)


# What the source distribution of Django has and no wheel


def fetch_django_tests(environment: Path, lock: int) -> None:
    """Put Django's own tests of tasks, which there are since 6.0, into the environment: into django-tests/tasks.

    Where the index has no source distribution, it is said, and tests/tasks/test_of_django.py fails.
    """
    executable = str(environment / "bin" / "python")
    ask_version = [executable, "-I", "-c", "import django; print(django.__version__)"]
    version = subprocess.run(ask_version, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if int(version.partition(".")[0]) < 6:
        return
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--no-deps", "--no-binary", "django", "--dest", folder]
        try:
            run([[executable, "-I", "-m", "pip", "download", *options, f"django=={version}"]], lock)
        except Failure as failure:
            tell(str(failure))
            return
        for archive in Path(folder).glob("*.tar.gz"):
            unpack_tests(archive, environment / "django-tests")


def unpack_tests(archive: Path, folder: Path) -> None:
    """Unpack tests/tasks of an archive."""
    with tarfile.open(archive) as source:
        for member in source:
            name = member.name.partition("/tests/")[2]
            if not member.isfile() or not re.fullmatch(r"tasks/\w+\.py", name):
                continue
            content = source.extractfile(member)
            assert content is not None
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.read())


def clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def run(commands: list[list[str]], lock: int) -> None:
    environ = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for command in commands:
        # A child inherits the lock: should we be killed, the next set-up waits until the child has ended, too.
        ended = subprocess.run(
            command, stdout=sys.stderr, cwd=ROOT, env=environ, pass_fds=[lock], check=False
        )
        if ended.returncode != 0:
            raise Failure(f"this failed, the reason is above: {shlex.join(command)}")


def find_uv() -> str | None:
    """uv, if there is one that runs (pyenv's shims stand on PATH for versions that have none, too)."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    process = subprocess.run(
        [uv, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return uv if process.returncode == 0 else None


def tell(sentence: str) -> None:
    print(f"setup: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        tell(str(failure))
        sys.exit(failure.status)
    except OSError as error:  # no room, no permission
        tell(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
