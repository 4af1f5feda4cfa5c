"""Processes of ``python -m django`` that begin where another one has come to: with Django set up.

Most of what a short command takes is importing Django, the apps and what they stand on, and the tests start a few
thousand of them, most with the same environment. So one process for each environment (``python -m tests.warm``) sets
Django up, as every command does first, and each command is a fork of it, with streams and a session of its own. From
there on all is as if it had been started by its name. The first commands of each environment are, and so are those of
the tests of ``runserver``, of the demo and of the tutorial.

The commands are children of that process, which waits for them and hands on their exit status.
"""

from __future__ import annotations

import atexit
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
from typing import IO

import django
from django.core.management import load_command_class
from django.db import connections

ROOT = Path(__file__).resolve().parent.parent
EACH_ITS_OWN = ("MAILRAIL_LEDGER", "PYTEST_CURRENT_TEST")
"""Variables that nobody looks at while Django is set up."""
COLD = 2
"""How many are started from nothing: a server of a test's own makes an environment that never comes again."""
MOST = 4
"""Environments for which a process is kept."""
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
            self.pid = _server(env).ask(request, [*streams, status])
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


def is_warm(arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """Have commands been started with this environment before? Other settings than the tests' take another set-up."""
    if "--settings" in arguments or env.get("DJANGO_SETTINGS_MODULE") != "tests.settings":
        return False
    _started[_key(env)] += 1
    return _started[_key(env)] > COLD


_Key = frozenset[tuple[str, str]]
_started: Counter[_Key] = Counter()


def _key(env: Mapping[str, str]) -> _Key:
    return frozenset((name, value) for name, value in env.items() if name not in EACH_ITS_OWN)


class _Server:
    """This side of it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for those who started us
            )

    def ask(self, request: object, streams: Sequence[int]) -> int:
        """The process id."""
        socket.send_fds(self._ours, [json.dumps(request).encode()], streams)
        answer = self._ours.recv(20)
        assert answer, "the process that has Django ready has ended"
        return int(answer)

    def close(self) -> None:
        self._ours.close()
        self._process.wait(20)


_servers: OrderedDict[_Key, _Server] = OrderedDict()


def _server(env: Mapping[str, str]) -> _Server:
    key = _key(env)
    if key not in _servers:
        if len(_servers) >= MOST:
            _servers.popitem(last=False)[1].close()
        _servers[key] = _Server(env)
    _servers.move_to_end(key)
    return _servers[key]


@atexit.register
def _close_all() -> None:
    while _servers:
        _servers.popitem()[1].close()


# -- the other side --------------------------------------------------------------------------------------------------


def _serve(theirs: socket.socket) -> list[str]:
    """Returns in each process that was asked for, with its arguments; and never in the one that forks them."""
    waited_for: dict[
        int, tuple[int, int]
    ] = {}  # file descriptor of the process -> its id, where to tell its status
    poll = select.poll()
    poll.register(theirs, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != theirs.fileno():
                poll.unregister(fd)
                os.close(fd)
                pid, status = waited_for.pop(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):
                    os.write(status, b"%d" % code)
                os.close(status)
                continue
            said, streams, _, _ = socket.recv_fds(theirs, _MOST_SAID, 4)
            if not said:
                os._exit(0)  # nobody is there who could ask
            *standard, status = streams
            if (pid := os.fork()) == 0:
                theirs.close()
                for each in [status, *(fd for fd in waited_for), *(told for _, told in waited_for.values())]:
                    os.close(each)
                return _become(json.loads(said), standard)
            for each in standard:
                os.close(each)
            new = os.pidfd_open(pid)
            waited_for[new] = pid, status
            poll.register(new, select.POLLIN)
            theirs.send(b"%d" % pid)


def _become(request: dict[str, object], streams: Sequence[int]) -> list[str]:
    """The process that was asked for."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for fd in streams:
        os.close(fd)
    if request["session"]:
        os.setsid()
    assert isinstance(request["env"], dict) and isinstance(request["arguments"], list)
    os.environ.clear()
    os.environ.update(request["env"])
    return request["arguments"]


def _main() -> None:
    theirs = socket.socket(fileno=int(sys.argv[1]))
    django.setup()
    for name in ("runworker", "channels"):
        load_command_class("mailrail", name)
    connections.close_all()
    sys.argv = ["-m", *_serve(theirs)]
    runpy.run_module("django", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
