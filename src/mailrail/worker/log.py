"""The worker's log. A handler of the project's that raises costs what it was to write, and nothing else."""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from typing import Any


class _Unfailing(logging.LoggerAdapter[logging.Logger]):
    """``Logger.log`` raises what a handler raises: in a thread of ours that would end the worker."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        try:
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)
        except Exception:
            with suppress(Exception):
                traceback.print_exc()


logger = _Unfailing(logging.getLogger("mailrail.worker"))
