"""The scripts: one file for each verb, run by their SHA, loaded where a server does not know them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import redis

from ...errors import LayerUnavailable
from .connections import Command, keys_of
from .servers import Server, check_version

Call: TypeAlias = tuple[Sequence[bytes], Sequence[Any]]
"""Keys and arguments of one call of a script."""

_FOLDER = files(__package__) / "lua"
_USES, _ALONE = "-- uses:", "-- stands alone"

_ADDING = frozenset({"enqueue", "send"})
"""Refused, as a whole, by a server whose memory is full. The others have to work then, or nobody could empty it: they
store no more than there was, or a few bytes."""


@dataclass(frozen=True)
class Script:
    """A script's text, with all that it uses, and its SHA."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script of a file: ``shared.lua``, the files that its first line names, and itself; or itself alone.

    Before all that, what the server has to know (Valkey manual, "Scripting with Lua", script flags).
    """
    own = _read(name)
    first = own.partition("\n")[0]
    used = first.removeprefix(_USES).split() if first.startswith(_USES) else []
    head = "#!lua" if name in _ADDING else "#!lua flags=allow-oom"
    common = [] if first.startswith(_ALONE) else [_read("shared"), *map(_read, used)]
    text = "\n".join([head, *common, own])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text("utf-8")


def run(server: Server, name: str, keys: Sequence[bytes], *args: Any, again: bool = False) -> Any:
    """Run a script. ``again``: once more on a new connection when the present one breaks; it must be safe to repeat."""
    wanted = script(name)
    [answer] = _run(server, wanted, [("EVALSHA", wanted.sha, len(keys), *keys, *args)], again)
    return answer


def run_all(server: Server, name: str, calls: Sequence[Call], again: bool = False) -> list[Any]:
    """Run a script with each of these keys and arguments, in one round trip."""
    wanted = script(name)
    commands = [("EVALSHA", wanted.sha, len(keys), *keys, *args) for keys, args in calls]
    return _run(server, wanted, commands, again) if commands else []


def run_each(server: Server, name: str, calls: Sequence[Call], again: bool = False) -> list[Any]:
    """The same where one call may fail and another not: what fails has its ``LayerUnavailable`` for an answer."""
    wanted = script(name)
    commands = [("EVALSHA", wanted.sha, len(keys), *keys, *args) for keys, args in calls]
    answers = server.exchange_each(commands, again) if commands else []
    for n, answer in enumerate(answers):
        if isinstance(answer, redis.exceptions.NoScriptError):
            try:
                [answers[n]] = _run(server, wanted, [commands[n]], again)
            except LayerUnavailable as error:
                answers[n] = error
        elif isinstance(answer, redis.RedisError):
            answers[n] = server.unavailable(answer)
    return answers


def _run(server: Server, wanted: Script, commands: Sequence[Command], again: bool) -> list[Any]:
    try:
        answers = server.exchange(commands, again)
        for n, answer in enumerate(answers):
            if isinstance(answer, redis.exceptions.NoScriptError):
                _load(server, wanted, commands[n])
                [answers[n]] = server.exchange([commands[n]], again)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
    except redis.RedisError as error:
        raise server.unavailable(error) from error
    return answers


def _load(server: Server, wanted: Script, command: Command) -> None:
    """A server that does not know our scripts was started lately: it may be another version, too."""
    node = server.node_of(keys_of(command)[0])
    check_version(node.name, node.info("server"))
    node.ask("SCRIPT", "LOAD", wanted.text)
