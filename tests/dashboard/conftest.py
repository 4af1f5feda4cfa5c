"""What tests of the live page share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def in_utc(settings: Any) -> None:
    """With ``USE_TZ = False``, times are local ones of the project, and viewers of these tests read UTC."""
    settings.TIME_ZONE = "UTC"
