"""Tasks that entries which people make may run, if a test allows it."""

from __future__ import annotations

from typing import Any

from mailrail.tasks import task


@task
def greet(*args: Any, **kwargs: Any) -> None:
    """Any arguments will do."""


@task
def unmarked() -> None:
    """No test allows it."""
