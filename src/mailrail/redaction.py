"""Hide values from everybody who looks at contents, headers and arguments: those under a key of ``MAILRAIL["REDACT"]``.

A key is meant if an entry stands in it, whatever their case, hyphens and underscores: ``"api_key"`` means
``X-Api-Key`` and ``apiKeys``. What consumers get, and what is stored, stays as it is.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from django.utils.module_loading import import_string

from .conf import settings
from .keyset_admin import ShownText

REDACTED = "[redacted]"
"""What is shown in the place of a value."""
_SEPARATORS = str.maketrans("", "", "-_ ")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}:,]|[^\s"\[\]{}:,]+', re.DOTALL)


def is_redacted(key: object) -> bool:
    """Tell whether nobody may see the value of this key."""
    return isinstance(key, str) and _is_meant(key, tuple(settings.redact))


@lru_cache(maxsize=4096)
def _is_meant(key: str, entries: tuple[str, ...]) -> bool:
    name = _bare(key)
    return any(bare in name for bare in map(_bare, entries) if bare)


def _bare(key: str) -> str:
    return key.translate(_SEPARATORS).casefold()


def redacted(value: Any) -> Any:
    """Return a JSON value without what nobody may see, at any depth."""
    if isinstance(value, dict):
        return {key: REDACTED if is_redacted(key) else redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def redacted_arguments(function: str, arguments: Any) -> Any:
    """Return positional arguments without those of a parameter that nobody may see.

    ``function``: the dotted path of a function or a task. If it cannot be imported, parameters have no names.
    """
    if not isinstance(arguments, list | tuple):
        return redacted(arguments)
    hidden = {n for n, name in enumerate(_parameters(function)) if is_redacted(name)}
    return [REDACTED if n in hidden else redacted(item) for n, item in enumerate(arguments)]


def _parameters(function: str) -> Iterable[str]:
    try:
        found = import_string(function)
        names = list(inspect.signature(getattr(found, "func", found)).parameters)
    except Exception:  # the module of a project may raise anything
        return ()
    return names[1:] if getattr(found, "takes_context", False) else names


def redacted_text(text: str) -> str:
    """Return JSON as text without what nobody may see. The text may be cut off anywhere, as in lists."""
    tokens, parts, at, n = list(_TOKEN.finditer(text)), [], 0, 0
    while n < len(tokens):
        colon = n + 1
        if colon < len(tokens) and tokens[colon][0] == ":" and is_redacted(_read(tokens[n][0])):
            behind = _behind_value(tokens, colon + 1)
            if behind > colon + 1:
                parts += [text[at : tokens[colon + 1].start()], json.dumps(REDACTED)]
                at = tokens[behind - 1].end()
            n = behind
        else:
            n += 1
    return "".join([*parts, text[at:]])


def _read(token: str) -> object:
    try:
        return json.loads(token)
    except ValueError:
        return token


def _behind_value(tokens: Sequence[re.Match[str]], n: int) -> int:
    """Return the number of the token behind the value that begins with token ``n``."""
    depth = 0
    while n < len(tokens):
        depth += (tokens[n][0] in ("[", "{")) - (tokens[n][0] in ("]", "}"))
        n += 1
        if depth <= 0:
            break
    return n


def shown_json(value: Any, whole: bool) -> ShownText:
    """Return a JSON value as a page of the admin shows it, without what nobody may see."""
    return ShownText.of_json(redacted(value), whole)


def restored(shown: Any, stored: Any) -> Any:
    """Return what somebody has made of a redacted value, with what was hidden in its place again.

    Where places do not match any more, as an item of a list has gone, ``REDACTED`` remains.
    """
    if shown == REDACTED:
        return stored
    if isinstance(shown, dict) and isinstance(stored, dict):
        return {key: restored(item, stored.get(key, item)) for key, item in shown.items()}
    if isinstance(shown, list) and isinstance(stored, list | tuple) and len(shown) == len(stored):
        return [restored(item, old) for item, old in zip(shown, stored, strict=True)]
    return shown


def without_hidden(names: Collection[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts, of which those with these names are redacted. ``args`` are those of the function ``task``."""
    shown = {name: redacted(value) if name in names else value for name, value in facts.items()}
    if "args" in facts:
        shown["args"] = redacted_arguments(str(facts.get("task") or ""), facts["args"])
    return shown
