"""Log safely: texts of others cannot forge lines or control a terminal, and a failing handler loses one line only."""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from typing import Any

from .errors import InvalidSettings
from .terminal import Escaped, escape_control_characters, single_line

_formatter = logging.Formatter()


class Logger(logging.LoggerAdapter[logging.Logger]):
    """Log without raising: in a thread of the worker, an exception of a handler would end the worker."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        try:
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)
        except Exception:
            with suppress(Exception):
                traceback.print_exc()


def logger_of(name: str) -> Logger:
    """Return the logger of this name. It escapes its records before any handler sees them."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape)  # adding it twice changes nothing
    return Logger(logger)


def _escape(record: logging.LogRecord) -> bool:
    """Escape control characters in arguments and tracebacks, and indent all lines but the first.

    So no foreign text looks like a line of the log. The template stays unchanged, because tools group lines by it.
    """
    if isinstance(record.args, tuple):
        if any(isinstance(argument, BaseException) for argument in record.args):
            _shorten_errors(record)
        record.args = tuple(map(_safe, record.args))
    if record.exc_info and not record.exc_text:
        text = _formatter.formatException(record.exc_info)
        # Formatters write exc_text if it is set. A plain text is not kept, so that others may format the exception.
        is_plain = text == (safe := escape_control_characters(text)) and not _has_lines(record.exc_info[1])
        record.exc_text = None if is_plain else _indented(safe)
    return True


def _has_lines(error: BaseException | None, depth: int = 100) -> bool:
    """Tell whether the text of this exception, or of one of its causes, has several lines."""
    if error is None:
        return False
    causes = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return (
        depth == 0
        or bool(getattr(error, "__notes__", ()))
        or len(_told(error).splitlines()) > 1
        or any(_has_lines(cause, depth - 1) for cause in causes)
    )


def _indented(text: str) -> str:
    return "  " + text.replace("\n", "\n  ")


def _shorten_errors(record: logging.LogRecord) -> None:
    """Replace exceptions among the arguments by class and first line; under DEBUG, by the whole text.

    Database drivers put the reason first, then a statement or a hint. ``record.error`` has the whole text.
    """
    args = record.args if isinstance(record.args, tuple) else ()
    texts = {n: _told(argument) for n, argument in enumerate(args) if isinstance(argument, BaseException)}
    if not hasattr(record, "error"):
        record.error = "\n".join(texts.values())
    is_whole = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
    record.args = tuple(_shown(texts[n], is_whole, arg) if n in texts else arg for n, arg in enumerate(args))


def _shown(text: str, is_whole: bool, error: Any) -> Escaped:
    if is_whole:
        return escape_control_characters(text)
    return single_line(text if isinstance(error, InvalidSettings) else text.partition("\n")[0])


def _told(error: BaseException) -> str:
    """Return the exception's class and text; for ``InvalidSettings`` only the text, which is ours."""
    try:
        text = str(error).strip()
    except Exception:  # some exceptions raise in __str__
        text = ""
    if isinstance(error, InvalidSettings):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _safe(value: Any) -> Any:
    if isinstance(value, Escaped):
        return value.replace("\n", "\n  ")
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str | BaseException) or (text := str(value)).isprintable():
        return value
    return single_line(text)
