"""``channels --watch``: what it shows at any size of the terminal, and how it leaves the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from mailrail.health import Problem, Readiness
from mailrail.layers import get_layer
from mailrail.messages import Message
from mailrail.monitoring.facts import ChannelFacts, Count, FlowFacts, SlotFacts, WorkerFacts
from mailrail.monitoring.sample import Sample
from mailrail.monitoring.screen import CLEAR_TO_END_OF_LINE, ENTER, HOME, LEAVE
from mailrail.monitoring.text import columns_of, cut, duration, facts_of, lines_of, rate
from mailrail.pauses import Pause

from .processes import DJANGO, Ledger, environment

AT = 1_796_050_000.0


def sample(late: int = 3, **changed: Any) -> Sample:
    """A sample in which much is wrong."""
    problem = Problem("", "a message on late-0 has been due for 400 s", AT - 400, "channel", "late-0")
    facts: dict[str, Any] = {
        "health": Readiness((problem,)),
        "channels": tuple(
            ChannelFacts("default", f"late-{n}", Count(1200, True), oldest_due=400.0, done_per_minute=2.5)
            for n in range(late)
        ),
        "flows": (
            FlowFacts(
                "default",
                waiting={"outage": Count(7), "retry": Count(2, True)},
                outage=Pause(AT - 60, reason="connection\x1b[2J refused"),
                next_probe_at=AT + 5,
            ),
        ),
        "workers": (
            WorkerFacts("web-1/7", "web-1", 7, age=1.0, slots=(SlotFacts("reports", "id", AT - 90),)),
            WorkerFacts("web-2/9", "web-2", 9, age=20.0, is_silent=True),
        ),
    }
    return Sample(AT, "default", **(facts | changed))


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_it_shows_what_is_wrong_then_channels_mailers_and_workers() -> None:
    text = "\n".join(lines_of(sample(), 160, 40))
    places = [text.index(word) for word in ("1 problem", "since", "CHANNEL", "late-1", "MAILER", "WORKER")]
    assert places == sorted(places)
    assert "≈1,200" in text and "400 s" not in text.split("CHANNEL")[1], "beyond two minutes it says minutes"
    assert "≈9" in text and "outage 7, retry ≈2" in text and "tried next" in text
    assert "reports 90 s" in text and "silent" in text
    assert "\x1b" not in text and r"connection\x1b[2J refused" in text


@pytest.mark.parametrize("height", [1, 5, 24, 200])
@pytest.mark.parametrize("width", [1, 20, 39, 80, 300])
def test_no_frame_is_larger_than_the_terminal(width: int, height: int) -> None:
    wide = sample(300, flows=(FlowFacts("发信", pace=2.0, pace_reason="服务器要求放慢" * 20),))
    lines = lines_of(wide, width, height)
    assert 0 < len(lines) <= height
    assert max(map(columns_of, lines)) <= width
    if height >= 24 and width >= 39:
        assert any("more" in line for line in lines) and any(line.startswith("WORKER") for line in lines)


def test_a_narrow_terminal_keeps_what_matters_most() -> None:
    [head] = [line for line in lines_of(sample(), 40, 24) if line.startswith("CHANNEL")]
    assert head.split() == ["CHANNEL", "ready", "dead", "oldest"]


def test_numbers_that_grow_do_not_move_their_columns() -> None:
    def head(n: int) -> str:
        channel = ChannelFacts("default", "reports", Count(n), done_per_minute=float(n))
        [line] = [line for line in lines_of(sample(channels=(channel,)), 120, 24) if "ready" in line]
        return line

    assert head(1) == head(99_999)


def test_rows_that_need_somebody_are_coloured() -> None:
    lines = lines_of(sample(2), 120, 40, lambda severity, text: f"<{severity}>{text}")
    marks = {line.split()[0]: line[:4] for line in lines if "late-" in line or "web-" in line}
    assert lines[0].startswith("<bad>") and "<bad>late-0" in marks and "<bad>web-2/9" in marks
    assert "late-1" in marks and "web-1/7" in marks


def test_nothing_to_show_says_what_to_do() -> None:
    text = "\n".join(lines_of(Sample(AT, "default", Readiness()), 100, 24))
    assert (
        text.startswith("All is well") and "manage.py runworker" in text and "There are no channels." in text
    )


def test_a_layer_that_is_away_is_not_said_to_hold_nothing() -> None:
    problem = Problem("", "the layer 'default' cannot be used: refused", AT, "layer", "default")
    text = "\n".join(lines_of(Sample(AT, "default", Readiness((problem,))), 100, 24))
    assert "refused" in text and "no channels" not in text and "runworker" not in text


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("reports", 7, "reports"),
        ("reports", 6, "repor…"),
        ("邮件邮件", 5, "邮件…"),
        ("a\nb", 9, r"a\nb"),
        ("ab", 0, ""),
    ],
)
def test_a_text_is_cut_where_the_terminal_ends(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


def test_numbers_are_short() -> None:
    assert [duration(s) for s in (None, 0.4, 119, 120, 7200, 200_000)] == [
        "-",
        "0 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
    assert [rate(r) for r in (None, 0.0, 0.5, 1234.5)] == ["-", "0", "0.5", "1,234"]


def test_json_has_counts_and_moments_that_programs_can_read() -> None:
    facts = json.loads(json.dumps(facts_of(sample(1))))
    assert facts["well"] is False and facts["at"] == "2026-11-30T14:46:40+00:00"
    assert facts["health"]["problems"][0]["name"] == "late-0"
    assert facts["channels"][0]["ready"] == {"n": 1200, "is_estimate": True}
    assert facts["flows"][0]["waiting"]["outage"] == {"n": 7, "is_estimate": False}
    assert facts["flows"][0]["next_probe_at"].endswith("+00:00")
    assert facts["workers"][0]["slots"][0]["since"].endswith("+00:00")


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_it_redraws_terminals_only_and_takes_no_action() -> None:
    with pytest.raises(CommandError, match="add --json, to print an object a second"):
        call_command("channels", "--watch", stdout=StringIO())
    with pytest.raises(CommandError, match="does not go with workers"):
        call_command("channels", "--watch", "workers")


@pytest.fixture
def env(ledger: Ledger) -> Mapping[str, str]:
    return environment(ledger.path) | {"TERM": "xterm"}


@contextmanager
def watching(env: Mapping[str, str], *arguments: str, out: int) -> Iterator[Any]:
    """The command, writing to a descriptor. It is killed if it does not end."""
    process = subprocess.Popen(
        [*DJANGO, "channels", "--watch", *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Shells have the commands of a background job ignore it, and so would all that these start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    os.close(out)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def read_until(descriptor: int, *words: str) -> str:
    """What comes, until all words have come."""
    text, deadline = "", time.monotonic() + 60
    while not all(word in text for word in words):
        assert time.monotonic() < deadline and select.select([descriptor], [], [], 60)[0], (
            f"waiting for {words}, there is only {text!r}"
        )
        try:
            text += os.read(descriptor, 65536).decode()
        except OSError:  # the other end of the terminal is closed
            break
    return text


@pytest.mark.django_db(transaction=True)
def test_on_a_terminal_it_redraws_in_place_follows_the_size_and_restores_the_screen(
    env: Mapping[str, str],
) -> None:
    get_layer().enqueue([Message(channel="a-channel-with-a-long-name", content={}) for _ in range(3)])
    terminal, end = os.openpty()

    def resize(columns: int, lines: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    resize(100, 30)
    with watching({**env, "NO_COLOR": "1"}, out=end) as process:
        text = read_until(terminal, "a-channel-with-a-long-name", "No worker", "problem", HOME, "\x1b[J")
        assert "\x1b[31" not in text, "no colours"
        assert text.startswith(ENTER + HOME) and text.count(ENTER) == 1
        frame = text.split(HOME)[1].split("\x1b[J")[0].split("\r\n")  # the terminal added the returns
        assert all(line.endswith(CLEAR_TO_END_OF_LINE) for line in frame)
        assert max(map(len, frame)) <= 99 + len(CLEAR_TO_END_OF_LINE)
        resize(30, 10)
        process.send_signal(signal.SIGWINCH)
        read_until(terminal, f"\na-channel-with-a-long-name{CLEAR_TO_END_OF_LINE}")
        process.send_signal(signal.SIGTSTP)  # it does not stop: no shell is there that would let it go on
        assert LEAVE + ENTER in read_until(terminal, ENTER, HOME)
        process.send_signal(signal.SIGINT)
        assert read_until(terminal, LEAVE).endswith(LEAVE)
        assert process.wait(60) == 0
    os.close(terminal)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGPIPE, 141)])
def test_json_is_a_line_for_each_sample_until_nobody_wants_more(
    env: Mapping[str, str], number: signal.Signals, code: int
) -> None:
    reader, writer = os.pipe()
    with watching(env, "--json", out=writer) as process:
        lines = read_until(reader, "\n").splitlines()
        assert json.loads(lines[0])["layer"] == "default"
        if number == signal.SIGPIPE:
            os.close(reader)
        else:
            process.send_signal(number)
        assert process.wait(60) == code
    if number != signal.SIGPIPE:
        os.close(reader)
