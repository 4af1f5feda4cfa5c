"""Read in the code of a task which steps it calls, so that a check can tell what an attempt would refuse."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

METHODS = ("step", "astep", "each", "aeach")


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call in the code. ``method``: its name in ``ChannelContext``."""

    method: str
    is_atomic: bool


def step_calls(task: Any) -> list[StepCall]:
    """Return the calls of ``context.step`` and the like in the function of a task; none if its code cannot be read.

    What other functions do that get the context is not seen.
    """
    if not task.takes_context:
        return []
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(task.func)))
        context = next(iter(inspect.signature(task.func).parameters))
    except (OSError, TypeError, ValueError, SyntaxError, StopIteration):
        return []
    return [
        StepCall(node.func.attr, any(map(_is_atomic, node.keywords)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == context
        and node.func.attr in METHODS
    ]


def _is_atomic(keyword: ast.keyword) -> bool:
    return keyword.arg == "atomic" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
