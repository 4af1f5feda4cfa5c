"""Processes of ``python -m django`` that begin where another one has come to: with Django imported, or set up.

Most of what a short command takes is importing Django, the apps and what they stand on, and the tests start a few
thousand of them. So one process (``python -m tests.warm``) imports what can be imported without settings, and each
command is a fork of it, with an environment, streams and a session of its own. From there on all is as if it had been
started by its name: it sets Django up with its own settings.

Most commands have the same environment as others before them. For each such environment a fork of that process sets
Django up, as every command does first, and is forked in its turn.

The first command is started by its name, and so are those of the tests of ``runserver``, of the demo and of the
tutorial. The others are children of the process that was forked, which waits for them and hands on their exit status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import django
from django.core.management import load_command_class
from django.db import connections

ROOT = Path(__file__).resolve().parent.parent
EACH_ITS_OWN = ("MAILRAIL_LEDGER", "PYTEST_CURRENT_TEST")
"""Variables that nobody looks at while Django is set up."""
COLD = 2
"""How many only get it imported: a server of a test's own makes an environment that never comes again."""
MOST = 4
"""Environments for which a process is kept."""
IMPORTED = (
    "channels_redis.core",
    "django.contrib.admin.sites",
    "django.contrib.messages.storage.fallback",
    "django.contrib.staticfiles.storage",
    "django.core.handlers.asgi",
    "django.core.mail.backends.smtp",
    "django.core.management.commands.migrate",
    "django.db.backends.postgresql.base",
    "django.db.backends.sqlite3.base",
    "mailrail.invitations.addresses",
    "mailrail.layers.memory",
    "mailrail.layers.postgresql",
    "mailrail.layers.redis",
    "mailrail.layers.sqlite",
    "mailrail.mail.compose",
    "mailrail.mail.smtp",
    "mailrail.management.commands.runworker",
)
"""What needs no settings, and brings with it nine tenths of what a worker imports."""
OF_CONSUMERS = (
    "mailrail.invitations.bulk",
    "mailrail.mail.delivery.batch",
    "mailrail.tasks.retention",
    "mailrail.tasks.running",
    "mailrail.tasks.steps",
)
"""What needs settings, and consumers import: not themselves, as they register when they are imported."""
_BY_NOW = dict(os.environ)
"""The environment of the process that has Django imported."""
_MOST_SAID = 128 * 1024
"""Bytes of a request: an environment and the arguments."""


class WarmProcess:
    """What the tests use of ``subprocess.Popen``."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
        *,
        start_new_session: bool = False,
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._status, status = os.pipe()
        with Path(os.devnull).open("rb") as nothing:
            streams = [each.fileno() for each in (nothing, stdout, stderr)]
            request = {"arguments": list(arguments), "env": dict(env), "session": start_new_session}
            server = _set_up(env) if is_known(arguments, env) else _imported()
            self.pid = server.ask(request, [*streams, status])
        os.close(status)

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                return None
            self.returncode = int(os.read(self._status, 20))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_Key = frozenset[tuple[str, str]]
_started: Counter[_Key] = Counter()


def can_be_forked(env: Mapping[str, str]) -> bool:
    """Not the first one of all, and none of which Python itself has to behave in another way."""
    _started[_key(env)] += 1
    return _started.total() > 1 and _of_python(env) == _of_python(_BY_NOW)


def is_known(arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """Have commands been started with this environment before? Other settings than the tests' may be new each time."""
    if "--settings" in arguments or env.get("DJANGO_SETTINGS_MODULE") != "tests.settings":
        return False
    return _started[_key(env)] > COLD


def _key(env: Mapping[str, str]) -> _Key:
    return frozenset((name, value) for name, value in env.items() if name not in EACH_ITS_OWN)


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    """What Python, C's library or a module has looked at before there are settings."""
    looked_at = ("PYTHON", "LANG", "LC_", "LD_", "LOCPATH", "PSYCOPG", "TZ")
    return {name: env[name] for name in env if name.startswith(looked_at) and name != "PYTHONPATH"}


class _Server:
    """This side of a process that is forked."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def ask(self, request: object, descriptors: Sequence[int]) -> int:
        """The process id."""
        socket.send_fds(self._ours, [json.dumps(request).encode()], descriptors)
        answer = self._ours.recv(20)
        assert answer, "the process that has Django ready has ended"
        return int(answer)

    def close(self) -> None:
        self._ours.close()


_servers: OrderedDict[_Key, _Server] = OrderedDict()
"""With Django set up, by environment; it was asked for last what stands last."""
_first: list[tuple[_Server, subprocess.Popen[bytes]]] = []
"""The one that has Django imported."""


def _imported() -> _Server:
    if not _first:
        server = _Server()
        with server.theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(server.theirs.fileno())],
                env=_BY_NOW | {"PYTHONPATH": str(ROOT / "src")},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[server.theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for those who started us
            )
        _first.append((server, process))
    return _first[0][0]


def _set_up(env: Mapping[str, str]) -> _Server:
    key = _key(env)
    if key not in _servers:
        if len(_servers) >= MOST:
            _servers.popitem(last=False)[1].close()
        _servers[key] = server = _Server()
        with server.theirs:
            _imported().ask({"env": dict(env)}, [server.theirs.fileno()])
    _servers.move_to_end(key)
    return _servers[key]


@atexit.register
def _close_all() -> None:
    while _servers:
        _servers.popitem()[1].close()
    while _first:
        server, process = _first.pop()
        server.close()
        process.wait(20)


# -- the other side --------------------------------------------------------------------------------------------------

_Asked = tuple[dict[str, Any], list[int]]
"""A request, and the file descriptors that came with it."""


def _serve(theirs: socket.socket) -> _Asked:
    """Returns in each process that was asked for; and never in the one that forks them."""
    waited_for: dict[
        int, tuple[int, int | None]
    ] = {}  # descriptor of the process -> its id, where to tell its status
    poll = select.poll()
    poll.register(theirs, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != theirs.fileno():
                poll.unregister(fd)
                os.close(fd)
                _tell_status(*waited_for.pop(fd))
                continue
            said, descriptors, _, _ = socket.recv_fds(theirs, _MOST_SAID, 4)
            if not said:
                os._exit(0)  # nobody is there who could ask
            request = json.loads(said)
            status = descriptors.pop() if "arguments" in request else None
            if (pid := os.fork()) == 0:
                theirs.close()
                told = (each for _, each in waited_for.values())
                for each in (status, *waited_for, *told):
                    if each is not None:
                        os.close(each)
                return request, descriptors
            for each in descriptors:
                os.close(each)
            new = os.pidfd_open(pid)
            waited_for[new] = pid, status
            poll.register(new, select.POLLIN)
            theirs.send(b"%d" % pid)


def _tell_status(pid: int, status: int | None) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status is not None:
        with suppress(BrokenPipeError):
            os.write(status, b"%d" % code)
        os.close(status)


def _take_environment(env: Mapping[str, str]) -> None:
    """As Python does when it starts: what PYTHONPATH names comes behind the folder that it was started in."""
    theirs = env.get("PYTHONPATH", "").split(os.pathsep)
    ours = {str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    sys.path[:] = [str(ROOT), *theirs, *(folder for folder in sys.path if folder not in ours)]
    os.environ.clear()
    os.environ.update(env)


def _set_django_up() -> None:
    django.setup()
    for name in ("runworker", "channels"):
        load_command_class("mailrail", name)
    for name in OF_CONSUMERS:
        importlib.import_module(name)
    connections.close_all()
    _freeze()


def _freeze() -> None:
    """Let no garbage collector of a fork look at what is here, which would copy all of it to the fork."""
    gc.collect()
    gc.freeze()


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    """The process that was asked for."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for fd in streams:
        os.close(fd)
    if request["session"]:
        os.setsid()
    sys.argv = ["-m", *request["arguments"]]
    runpy.run_module("django", run_name="__main__", alter_sys=True)


def _main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    _freeze()
    request, descriptors = _serve(socket.socket(fileno=int(sys.argv[1])))
    _take_environment(request["env"])
    if "arguments" not in request:  # it is to be forked in its turn
        _set_django_up()
        request, descriptors = _serve(socket.socket(fileno=descriptors[0]))
        _take_environment(request["env"])
    _become(request, descriptors)


if __name__ == "__main__":
    _main()
