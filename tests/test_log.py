"""Our loggers and the terminal: what others have said, escaped."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from mailrail.errors import InvalidSettings
from mailrail.log import logger_of
from mailrail.terminal import as_json, escape_control_characters, single_line

SAID = "a\x1b[2Jb\u202ec\x9bd\u200be\ufeff"
WRITTEN = "a\\x1b[2Jb\\u202ec\\x9bd\\u200be\\ufeff"


@pytest.mark.parametrize("text", ["plain", "Grüße", "张三\u3000李四", "a\u00a0b", "naïve 🙂"])
def test_text_that_everybody_sees_is_left_as_it_is(text: str) -> None:
    assert escape_control_characters(text) == single_line(text) == text


def test_lines_stay_lines_only_where_they_may() -> None:
    assert escape_control_characters(f"one\n{SAID}\r\n\ttwo") == f"one\n{WRITTEN}\\r\n\ttwo"
    assert single_line(f"one\n{SAID}\r\n\ttwo\u2028") == f"one\\n{WRITTEN}\\r\\n\\ttwo\\u2028"
    assert single_line(escape_control_characters("one\ntwo")) == "one\\ntwo", "escaped before, with its lines"


def test_json_for_people_is_escaped_and_still_json() -> None:
    value = {"said": SAID, "and": "Grüße\n\U000e0041"}
    text = as_json(value)
    assert json.loads(text) == value and "Grüße" in text
    assert all(each.isprintable() or each == "\n" for each in text)


def test_arguments_are_escaped_and_the_template_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger = logger_of("mailrail.worker")
    logger_of("mailrail.worker")
    logger.info("%s said %s, %d times, %r", SAID, ValueError(f"no\n{SAID}"), 3, None)
    [record] = caplog.records
    assert record.msg == "%s said %s, %d times, %r"
    assert record.getMessage() == f"{WRITTEN} said ValueError: no, 3 times, None"
    assert record.pathname == __file__


SEVERAL_LINES = "connection refused\n\tIs the server running on that host\x1b[2J?"


class Mute(Exception):
    def __str__(self) -> str:
        raise TypeError("it cannot say")


@pytest.mark.parametrize(
    ("error", "level", "line"),
    [
        (OSError(SEVERAL_LINES), "INFO", "OSError: connection refused"),
        (
            OSError(SEVERAL_LINES),
            "DEBUG",
            "OSError: connection refused\n  \tIs the server running on that host\\x1b[2J?",
        ),
        (KeyError("x"), "INFO", "KeyError: 'x'"),
        (ValueError(), "INFO", "ValueError"),
        (Mute(), "INFO", "Mute"),
        (InvalidSettings("One.", "Two."), "INFO", "One.\\nTwo."),
    ],
)
def test_an_exception_is_told_by_class_and_first_line_and_the_record_has_all_of_it(
    caplog: pytest.LogCaptureFixture, error: Exception, level: str, line: str
) -> None:
    """The mistakes in settings are sentences of ours, each of which counts."""
    caplog.set_level(level, "mailrail.worker")
    logger_of("mailrail.worker").error("the layer cannot be used; %s", error)
    [record] = caplog.records
    assert record.getMessage() == f"the layer cannot be used; {line}"
    if isinstance(error, OSError):
        assert record.error == f"OSError: {SEVERAL_LINES}"  # type: ignore[attr-defined]


def test_tracebacks_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(f"it said {SAID}")
    except ValueError:
        logger_of("mailrail.worker").exception("a thing failed")
    assert f"ValueError: it said {WRITTEN}" in caplog.text and "\x1b" not in caplog.text


def test_a_handler_that_raises_costs_its_line_alone(capsys: Any) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    handler = Broken()
    logging.getLogger("mailrail.mail").addHandler(handler)
    try:
        logger_of("mailrail.mail").error("lost")
    finally:
        logging.getLogger("mailrail.mail").removeHandler(handler)
    assert "the disk is full" in capsys.readouterr().err


FORGED = "no\n  File x\n2026-11-29 12:00:00 CRITICAL buried everything"


def raised(*, error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_nothing_that_an_exception_says_passes_for_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noted = raised(error=ValueError("noted"))
    noted.add_note("\n" + FORGED)
    errors = [
        raised(error=ValueError(FORGED)),
        raised(error=ValueError("outer"), cause=OSError(FORGED)),
        ExceptionGroup("several", [raised(error=ValueError(FORGED))]),
        noted,
    ]
    logger = logger_of("mailrail.worker")
    formatter = logging.Formatter("%(message)s")
    for error in errors:
        caplog.clear()
        logger.error("a thing failed", exc_info=error)
        first, *others = formatter.format(caplog.records[0]).split("\n")
        assert first == "a thing failed"
        assert all(line.startswith("  ") for line in others)
        assert sum("CRITICAL" in line for line in others) == 1


def test_a_traceback_without_lines_of_others_is_as_python_writes_it(caplog: pytest.LogCaptureFixture) -> None:
    logger_of("mailrail.worker").error("a thing failed", exc_info=raised(error=ValueError("plain")))
    assert (caplog.records[0].exc_text or "").startswith("Traceback (most recent call last):\n  File")


def test_a_reason_of_a_dead_message_is_indented(caplog: pytest.LogCaptureFixture) -> None:
    text = f"Traceback (most recent call last):\n  File x\nValueError: {FORGED}"
    logger_of("mailrail.worker").error("%s", escape_control_characters(f"buried ledger\n{text}"))
    first, *others = caplog.records[0].getMessage().split("\n")
    assert first == "buried ledger" and all(line.startswith("  ") for line in others)
