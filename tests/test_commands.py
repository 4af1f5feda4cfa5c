"""``manage.py runworker`` and ``manage.py channels``: what they do, what they refuse, and what they say."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from getpass import getuser
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command

from mailrail import Channel
from mailrail.layers import DurableLayer, get_layer
from mailrail.routing import route

from .listed import dead_on, waiting_on
from .processes import ROOT, Ledger, Manage, environment, until, workers

pytestmark = pytest.mark.django_db(transaction=True)

MEMORY = {"BACKEND": "mailrail.layers.InMemoryChannelLayer"}
DATABASE = {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}
no_routes: list[Any] = []
channel_routing = [route("first", print), route("second", print)]


@pytest.fixture
def layer() -> DurableLayer:
    return get_layer()


@pytest.fixture
def manage(ledger: Ledger) -> Manage:
    return Manage(ledger)


def call(*arguments: str) -> str:
    """What a command prints, run in this process."""
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def failure(*arguments: str) -> tuple[str, str]:
    """What a command prints before it fails, and why it does."""
    out = StringIO()
    with pytest.raises(CommandError) as failed:
        call_command(*arguments, stdout=out)
    return out.getvalue(), str(failed.value)


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as refused:
        call(*arguments)
    return str(refused.value)


def bury(layer: DurableLayer, channel: str = "ledger", n: int = 1, error: str = "boom") -> list[str]:
    """Dead messages, in the order in which they died."""
    ids = Channel(channel).send_many({"n": i} for i in range(n))
    for claim in layer.claim("w", {channel: n}, 15.0).claims:
        layer.bury(claim, error)
    return [str(id) for id in ids]


class TestRunworker:
    def test_it_consumes_every_routed_channel_until_told_to_stop(
        self, layer: DurableLayer, ledger: Ledger
    ) -> None:
        with workers(ledger) as [worker]:
            sent = {str(Channel(name).send({})) for name in ("ledger", "async-ledger", "slow")}
            until(lambda: set(ledger.counts()) == sent, what="the three messages")
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
        assert layer.stats() == {}

    def test_drain_ends_when_nothing_is_due(
        self, layer: DurableLayer, manage: Manage, ledger: Ledger
    ) -> None:
        ids = Channel("ledger").send_many({} for _ in range(20))
        later = Channel("ledger").send({}, delay=3600)
        done = manage("runworker", "--drain")
        assert done.returncode == 0
        assert ledger.counts() == {str(id): 1 for id in ids}
        assert [m.id for m in waiting_on(layer, "ledger")] == [later]

    def test_it_says_what_it_is_going_to_do(self, manage: Manage) -> None:
        options = ["--threads", "3", "--processes", "2", "--worker-id", "mail-1", "--drain"]
        done = manage("runworker", "ledger", "slow", "ledger", *options)
        assert done.stdout == (
            "Worker mail-1: 2 processes of 3 threads on layer 'default' (DatabaseChannelLayer), "
            "channels: ledger, slow\n"
            "Consumers were looked for in consumers.py of the installed apps (@consumer).\n"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert manage("runworker", "--drain", "-v0").stdout == ""

    def test_it_logs_a_line_for_each_outcome(self, manage: Manage) -> None:
        [finished, buried] = [
            Channel("ledger").send({}),
            Channel("batch-ledger").send({"bury": True}),
        ]
        log = manage("runworker", "--drain", "-v2").stderr
        assert f"INFO finished ledger {finished} attempt=1" in log
        assert f"ERROR buried batch-ledger {buried} attempt=1" in log
        assert "as told" in log

    def test_only_the_channels_named(self, layer: DurableLayer, manage: Manage, ledger: Ledger) -> None:
        sent = {name: str(Channel(name).send({})) for name in ("ledger", "async-ledger", "slow")}
        manage("runworker", "ledger", "slow", "--drain")
        assert set(ledger.counts()) == {sent["ledger"], sent["slow"]}
        assert list(layer.stats()) == ["async-ledger"]

    @pytest.mark.parametrize(
        ("options", "served"),
        [
            (["--only-channels", "*ledger"], "async-ledger, batch-ledger, ledger"),
            (["--only-channels", "ledger", "--only-channels", "s*"], "ledger, send-invite, slow"),
            (["--only-channels", "*ledger", "--exclude-channels", "[ab]*"], "ledger"),
            (["ledger", "slow", "--exclude-channels", "s*"], "ledger"),
        ],
    )
    def test_globs_choose_among_the_channels(self, manage: Manage, options: list[str], served: str) -> None:
        assert manage("runworker", "--drain", *options).stdout.splitlines()[0].endswith(f"channels: {served}")

    def test_each_process_lives_under_the_name_it_was_given(
        self, layer: DurableLayer, ledger: Ledger
    ) -> None:
        options = ["held", "--worker-id", "mail-1", "--processes", "2", "--threads", "3"]
        with workers(ledger, *options) as [worker]:
            alive = until(lambda: len(found := layer.workers()) == 2 and found, what="two signs of life")
            assert [w.id for w in alive] == ["mail-1:0", "mail-1:1"]
            assert [(w.info["channels"], w.info["threads"]) for w in alive] == [(["held"], 3)] * 2
            assert "mail-1:1" in call("channels", "workers")
            [first, _] = json.loads(call("channels", "workers", "--json"))
            assert (first["id"], first["channels"], first["running"]) == ("mail-1:0", ["held"], 0)
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
        assert layer.workers() == []
        assert call("channels", "workers") == "No workers are running.\n"

    def test_threads_and_processes_are_how_many_run_at_once(self, ledger: Ledger, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        Channel("held").send_many({"gate": str(gate)} for _ in range(6))
        with workers(ledger, "held", "--threads", "2", "--processes", "2", "--drain") as [worker]:
            began = until(lambda: len(lines := ledger.lines("began")) == 4 and lines, what="four consumers")
            assert sorted([line.pid for line in began].count(line.pid) for line in began) == [2, 2, 2, 2]
            gate.touch()
            assert worker.wait() == 0
        assert len(ledger.counts()) == 6

    @pytest.mark.django_db(transaction=True, databases=["default", "other"])
    def test_a_layer_may_be_named(self, manage: Manage, ledger: Ledger, tmp_path: Path) -> None:
        layers = {"default": DATABASE, "second": {**DATABASE, "CONFIG": {"using": "other"}}}
        manage.use_settings(tmp_path, f"CHANNEL_LAYERS = {layers!r}")
        Channel("ledger").send({})
        done = manage("runworker", "ledger", "--layer", "second", "--drain")
        assert "on layer 'second' (DatabaseChannelLayer)" in done.stdout
        assert done.returncode == 0 and not ledger.lines()
        done = manage("runworker", "ledger", "--layer", "default", "--drain")
        assert done.returncode == 0 and len(ledger.lines("ran")) == 1

    def test_before_the_migrations_it_waits_and_says_what_to_run(
        self, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from . import processes

        empty = environment(ledger.path) | {"MAILRAIL_TEST_DEFAULT": str(tmp_path / "empty.sqlite3")}
        monkeypatch.setattr(processes, "environment", lambda path: empty)
        with workers(ledger, "ledger") as [worker]:
            until(lambda: "Run: python manage.py migrate mailrail" in worker.log, what="the hint")
            done = subprocess.run(
                [sys.executable, "-m", "django", "migrate", "-v0"], env=empty, cwd=ROOT, timeout=100
            )
            assert done.returncode == 0
            send = "from mailrail import Channel; Channel('ledger').send({})"
            subprocess.run(
                [sys.executable, "-m", "django", "shell", "-c", send], env=empty, cwd=ROOT, timeout=60
            )
            until(lambda: ledger.lines("ran"), what="the message")
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0


class TestRunworkerRefuses:
    def test_as_a_user_sees_it(self, manage: Manage) -> None:
        done = manage("runworker", "legder")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            "CommandError: No route for channel 'legder'. Routed: apart, apart-async, "
        )
        done = manage("runworker", "--threads", "0")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("argument --threads: must be a whole number from 1, not '0'\n")

    @pytest.mark.parametrize("option", ["--threads", "--processes", "--max-messages"])
    @pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", "²"])
    def test_a_number_that_is_none(self, option: str, value: str) -> None:
        text = refusal("runworker", f"{option}={value}")
        assert text == f"Error: argument {option}: must be a whole number from 1, not {value!r}"

    @pytest.mark.parametrize("value", ["", "0", "-1M", "lots", "300X", "inf"])
    def test_a_size_that_is_none(self, value: str) -> None:
        text = refusal("runworker", f"--max-memory={value}")
        expected = f"must be a number of bytes, or of K, M or G, such as 300M or 1.5G, not {value!r}"
        assert text == f"Error: argument --max-memory: {expected}"

    def test_a_memory_limit_that_no_process_can_keep(self, settings: Any) -> None:
        expected = (
            r"A memory limit of 2,048 bytes is too low: a process of this project takes \d+M before it runs"
        )
        assert re.match(expected, refusal("runworker", "--max-memory", "2K"))
        settings.MAILRAIL = {"MAX_MEMORY": "2K"}
        assert re.match(expected, refusal("runworker"))

    @pytest.mark.parametrize("value", ["", "a\nb", "x" * 201])
    def test_a_worker_id_that_cannot_be_shown_or_stored(self, value: str) -> None:
        text = refusal("runworker", f"--worker-id={value}")
        assert text == f"Error: argument --worker-id: must be 1 to 200 printable characters, not {value!r}"

    @pytest.mark.parametrize("option", ["--layer", "--only-channels", "--exclude-channels", "--worker-id"])
    def test_an_option_without_its_value(self, option: str) -> None:
        assert refusal("runworker", option) == f"Error: argument {option}: expected one argument"

    def test_an_unknown_option(self) -> None:
        assert refusal("runworker", "--thread-count", "3").startswith(
            "Error: unrecognized arguments: --thread"
        )

    @pytest.mark.parametrize("name", ["legder", "ledger,slow", "no spaces", ""])
    def test_a_channel_without_a_route(self, name: str) -> None:
        text = refusal("runworker", "ledger", name)
        assert text.startswith(f"No route for channel {name!r}. Routed: apart, apart-async, ")

    @pytest.mark.parametrize(
        ("options", "channels"),
        [
            (["ledger", "slow", "--only-channels", "x*"], "ledger, slow"),
            (["ledger", "--exclude-channels", "*"], "ledger"),
        ],
    )
    def test_globs_that_leave_nothing(self, options: list[str], channels: str) -> None:
        assert refusal("runworker", *options) == (
            f"--only-channels and --exclude-channels leave none of these channels: {channels}."
        )

    @pytest.mark.parametrize("named", [[], ["ledger"]])
    def test_a_project_without_routes(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch, named: list[str]
    ) -> None:
        monkeypatch.setattr("mailrail.routing._registered", [])
        settings.CHANNEL_LAYERS = {
            "default": {**DATABASE, "CONFIG": {"routing": "tests.test_commands.no_routes"}}
        }
        text = refusal("runworker", *named)
        assert text.startswith(
            'No channel is routed. Route one with @consumer("name") in an app\'s consumers.py'
        )

    def test_the_in_memory_layer(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": MEMORY}
        text = refusal("runworker")
        assert text.startswith(
            "The in-memory layer lives in one process: a worker of its own would never see"
        )
        assert "database layer" in text and "runserver" in text

    def test_the_in_memory_layer_as_a_user_sees_it(self, manage: Manage, tmp_path: Path) -> None:
        layers = {"default": {**MEMORY, "CONFIG": {"routing": "tests.routes.channel_routing"}}}
        manage.use_settings(tmp_path, f"CHANNEL_LAYERS = {layers!r}")
        done = manage("runworker")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("CommandError: The in-memory layer lives in one process")

    def test_a_layer_that_is_not_configured(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": DATABASE, "second": DATABASE}
        assert refusal("runworker", "--layer", "third") == (
            "CHANNEL_LAYERS has no layer 'third' (it has: 'default', 'second')."
        )

    def test_a_layer_without_durable_verbs(self, settings: Any) -> None:
        theirs = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
        settings.CHANNEL_LAYERS = {"default": DATABASE, "theirs": theirs}
        text = refusal("runworker", "--layer", "theirs")
        assert text.startswith(
            "CHANNEL_LAYERS['theirs'] is channels.layers.InMemoryChannelLayer, which cannot"
        )

    def test_settings_that_a_check_refuses(self, manage: Manage, tmp_path: Path) -> None:
        manage.use_settings(tmp_path, 'MAILRAIL = {"ATEMPTS": 3}')
        done = manage("runworker")
        assert (done.returncode, done.stdout) == (1, "")
        assert "(mailrail.E001) MAILRAIL has no key 'ATEMPTS'" in done.stderr


class TestChannels:
    def test_without_messages_it_names_the_routed_channels(self) -> None:
        first, second = call("channels").splitlines()
        assert first == "All channels are empty."
        assert second.startswith("Empty: apart, apart-async, async-ledger, ")
        assert json.loads(call("channels", "--json")) == {}

    def test_it_shows_how_each_channel_stands(self, layer: DurableLayer) -> None:
        bury(layer)
        Channel("ledger").send_many({} for _ in range(1200))
        Channel("ledger").send({}, delay=60)
        Channel("slow").send({})
        layer.claim("w", {"slow": 1}, 15.0)
        Channel("unrouted").send({})
        layer.pause("unrouted")
        layer.advance_time(1)
        head, *rows, empty = [line.split() for line in call("channels").splitlines()]
        assert head == ["channel", "ready", "scheduled", "claimed", "dead", "oldest"]
        assert rows[:2] == [["ledger", "1,200", "1", "0", "1", "1", "s"], ["slow", "0", "0", "1", "0", "-"]]
        assert rows[2][:9] == ["unrouted", "1", "0", "0", "0", "1", "s", "paused", "since"]
        assert rows[2][-2:] == ["no", "route"]
        assert empty[0] == "Empty:" and "ledger," not in empty

    def test_and_for_machines(self, layer: DurableLayer, manage: Manage) -> None:
        Channel("ledger").send({})
        layer.pause("unrouted")
        done = manage("channels", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        facts = json.loads(done.stdout)
        assert list(facts) == ["ledger", "unrouted"]
        assert facts["ledger"].pop("oldest_due") >= 0
        assert facts["ledger"] == {
            "ready": 1, "scheduled": 0, "claimed": 0, "dead": 0, "paused": False, "pause": None, "routed": True
        }  # fmt: skip
        assert (facts["unrouted"]["paused"], facts["unrouted"]["routed"]) == (True, False)
        assert facts["unrouted"]["oldest_due"] is None

    def test_a_layer_may_be_named_before_or_behind_the_action(self, settings: Any) -> None:
        second = {
            **DATABASE,
            "CONFIG": {"using": "default", "routing": "tests.test_commands.channel_routing"},
        }
        settings.CHANNEL_LAYERS = {"default": MEMORY, "second": second}
        Channel("first", layer="second").send({})
        assert call("channels").splitlines()[0] == "All channels are empty."
        assert "first" in call("channels", "--layer", "second").splitlines()[1]
        for arguments in (["--layer", "second", "pause", "first"], ["resume", "first", "--layer", "second"]):
            call("channels", *arguments)
            assert get_layer("second").stats()["first"].paused == ("pause" in arguments)

    def test_channels_of_the_application_are_not_called_unrouted(
        self, settings: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings.CHANNEL_LAYERS = {"default": DATABASE}
        settings.ASGI_APPLICATION = "tests.consumers4.application"
        Channel("sync").send({"type": "note"})
        assert "sync" in call("channels") and "no route" not in call("channels")
        Channel("nobodys").send({})
        assert call("channels").count("no route") == 1
        settings.ASGI_APPLICATION = "tests.nowhere.application"
        assert call("channels").count("no route") == 2
        assert "ASGI_APPLICATION: " in capsys.readouterr().err

    def test_a_routing_that_cannot_be_read_hides_no_message(
        self, settings: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings.CHANNEL_LAYERS = {"default": {**DATABASE, "CONFIG": {"routing": "tests.nowhere"}}}
        Channel("ledger").send({})
        assert "no route" in call("channels")
        assert "The routing cannot be read: CHANNEL_LAYERS['default']" in capsys.readouterr().err


class TestDeadMessages:
    def test_waiting_messages_are_listed_with_how_their_last_runs_failed(self, layer: DurableLayer) -> None:
        first, second = Channel("ledger").send_many([{"n": 1}, {"n": 2}])
        for claim in layer.claim("w", {"ledger": 1}, 15.0).claims:
            layer.retry(claim, 60.0, "Traceback (most recent call last):\n  …\nValueError: no\nmore of it")
        text = call("channels", "waiting", "ledger")
        assert f"{first}  scheduled  due " in text and f"{second}  ready  due " in text
        assert "\n  ValueError: no\n  more of it\n" in text
        waits, failed = json.loads(call("channels", "waiting", "ledger", "--json"))
        assert (waits["id"], waits["error"]) == (str(second), "")
        assert failed["attempt"] == 1 and failed["error"].startswith("Traceback")
        assert json.loads(call("channels", "waiting", "ledger", "--json", "--limit", "1")) == [waits]
        assert call("channels", "waiting", "slow") == "No messages wait on slow.\n"

    def test_they_are_listed_with_what_they_died_of_last_first(self, layer: DurableLayer) -> None:
        ids = bury(layer, n=2, error="Traceback …\n  File …\nRuntimeError: boom\n")
        lines = call("channels", "dead", "ledger").splitlines()
        assert [line.split()[0] for line in lines if line and not line.startswith(" ")] == ids[::-1]
        assert lines[0].startswith(f"{ids[1]}  buried 2") and lines[0].endswith("attempt 1")
        assert lines[1:5] == ['  {"n": 1}', "  Traceback …", "    File …", "  RuntimeError: boom"]

    def test_nothing_they_say_steers_the_terminal(self, layer: DurableLayer) -> None:
        bury(layer, error="Error: \x1b[2J\x9b1m\r\n\tdone")
        text = call("channels", "dead", "ledger")
        assert "  Error: \\x1b[2J\\x9b1m\\r\n  \tdone\n" in text

    def test_as_many_as_asked_for(self, layer: DurableLayer) -> None:
        ids = bury(layer, n=30)
        assert len(json.loads(call("channels", "dead", "ledger", "--json"))) == 20
        [last] = json.loads(call("channels", "dead", "ledger", "--json", "--limit", "1"))
        assert last["id"] == ids[-1]

    @pytest.mark.parametrize("limit", ["0", "-1", "x", ""])
    def test_a_limit_that_is_none_is_refused(self, limit: str) -> None:
        text = refusal("channels", "dead", "ledger", f"--limit={limit}")
        assert text == f"Error: argument --limit: must be a whole number from 1, not {limit!r}"

    def test_and_for_machines(self, layer: DurableLayer, manage: Manage) -> None:
        [id] = bury(layer, error="boom")
        [facts] = json.loads(manage("channels", "dead", "ledger", "--json").stdout)
        assert facts.pop("buried_at").startswith("2")
        assert facts == {
            "id": id, "channel": "ledger", "content": {"n": 0}, "headers": {}, "attempt": 1, "losses": 0,
            "error": "boom",
        }  # fmt: skip

    def test_where_there_are_none_it_says_so(self) -> None:
        assert call("channels", "dead", "ledger") == "No dead messages on ledger.\n"
        assert json.loads(call("channels", "dead", "ledger", "--json")) == []

    def test_requeued_ones_run_again(self, layer: DurableLayer, manage: Manage, ledger: Ledger) -> None:
        first, second, third = bury(layer, n=3)
        done = manage("channels", "requeue", "ledger", first, third)
        assert (done.returncode, done.stdout, done.stderr) == (0, "2 requeued\n", "")
        manage("runworker", "--drain")
        assert ledger.counts() == {first: 1, third: 1}
        assert [str(d.message.id) for d in dead_on(layer, "ledger")] == [second]

    def test_discarded_ones_are_gone(self, layer: DurableLayer, manage: Manage) -> None:
        first, second = bury(layer, n=2)
        done = manage("channels", "discard", "ledger", first)
        assert (done.returncode, done.stdout) == (0, "1 discarded\n")
        assert [str(d.message.id) for d in dead_on(layer, "ledger")] == [second]
        assert waiting_on(layer, "ledger") == []

    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    def test_all_of_a_channel_and_of_no_other(self, layer: DurableLayer, verb: str) -> None:
        bury(layer, n=1001)
        bury(layer, "slow")
        assert call("channels", verb, "ledger", "--all") == f"1001 {verb.removesuffix('e')}ed\n"
        assert (dead_on(layer, "ledger"), len(dead_on(layer, "slow"))) == ([], 1)
        assert call("channels", verb, "--all", "ledger") == f"0 {verb.removesuffix('e')}ed\n"

    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    def test_ids_that_are_not_found_are_named(self, layer: DurableLayer, verb: str) -> None:
        [known] = bury(layer)
        unknown = str(uuid4())
        done = f"{verb.removesuffix('e')}ed"
        out, said = failure("channels", verb, "ledger", unknown, known)
        assert out == f"1 {done}\n"
        assert said == f"Not found among the messages of ledger that are dead: {unknown}"
        out, said = failure("channels", verb, "ledger", known, "--json")
        assert json.loads(out) == {done: [], "not_found": [known]}
        assert said.endswith(f": {known}")

    @pytest.mark.parametrize("verb", ["requeue", "discard", "cancel"])
    def test_a_script_notices_by_the_exit_code(self, layer: DurableLayer, manage: Manage, verb: str) -> None:
        done = manage("channels", verb, "ledger", id := str(uuid4()))
        assert (done.returncode, done.stdout.split()[0]) == (1, "0")
        assert done.stderr.startswith("CommandError: Not found among") and done.stderr.endswith(f"{id}\n")

    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    def test_an_id_of_another_channel_is_not_found(self, layer: DurableLayer, verb: str) -> None:
        [id] = bury(layer, "slow")
        assert failure("channels", verb, "ledger", id)[0].startswith("0 ")
        assert len(dead_on(layer, "slow")) == 1

    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    def test_ids_or_all_are_needed_and_not_both(self, layer: DurableLayer, verb: str) -> None:
        [id] = bury(layer)
        expected = "Name the ids of dead messages (see: channels dead NAME), or give --all."
        assert refusal("channels", verb, "ledger") == expected
        assert refusal("channels", verb, "ledger", id, "--all") == expected
        assert len(dead_on(layer, "ledger")) == 1

    def test_what_is_no_id_is_refused(self) -> None:
        text = refusal("channels", "requeue", "ledger", "12345")
        assert text == "Error: argument id: invalid UUID value: '12345'"


class TestCancel:
    def test_waiting_messages_are_removed_and_claimed_ones_not_found(self, layer: DurableLayer) -> None:
        claimed, waiting = Channel("ledger").send_many([{}, {}])
        layer.claim("w", {"ledger": 1}, 15.0)
        out, said = failure("channels", "cancel", "ledger", str(waiting), str(claimed))
        assert out == "1 cancelled\n"
        assert said == f"Not found among the messages of ledger that nobody has started: {claimed}"

    def test_ids_are_needed(self) -> None:
        assert refusal("channels", "cancel", "ledger") == "Name the ids of the messages to cancel."


class TestPauseAndResume:
    def test_a_paused_channel_is_kept_until_it_goes_on(
        self, layer: DurableLayer, manage: Manage, ledger: Ledger
    ) -> None:
        id = str(Channel("ledger").send({}))
        done = manage("channels", "pause", "ledger")
        assert done.stdout == "ledger is paused: messages are kept, and nobody claims them.\n"
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"paused since 20\S+ \S+ by \S+$", call("channels"), re.MULTILINE)
        assert manage("runworker", "--drain").returncode == 0
        assert not ledger.lines()
        assert (
            manage("channels", "resume", "ledger").stdout
            == "ledger is resumed: workers claim its messages again.\n"
        )
        manage("runworker", "--drain")
        assert ledger.counts() == {id: 1}

    def test_a_pause_tells_who_and_why(self, layer: DurableLayer) -> None:
        call("channels", "pause", "ledger", "--reason", "the books\nare \x1b[31mclosed")
        pause = layer.paused()["ledger"]
        assert (pause.by, pause.reason) == (getuser(), "the books\nare \x1b[31mclosed")
        assert f" by {getuser()} (the books\\nare \\x1b[31mclosed)" in call("channels")
        facts = json.loads(call("channels", "--json"))["ledger"]
        assert (facts["paused"], facts["pause"]["by"]) == (True, getuser())
        assert abs(datetime.fromisoformat(facts["pause"]["since"]).timestamp() - (pause.since or 0)) < 1
        assert "at most 1,000" in refusal("channels", "pause", "ledger", "--reason", "r" * 1001)

    def test_either_may_be_said_twice(self, layer: DurableLayer) -> None:
        for _ in range(2):
            assert json.loads(call("channels", "pause", "ledger", "--json")) == {"paused": True}
        assert layer.stats()["ledger"].paused
        for _ in range(2):
            assert json.loads(call("channels", "resume", "ledger", "--json")) == {"paused": False}
        assert layer.stats() == {}

    def test_a_channel_with_messages_is_paused_without_a_route(self, layer: DurableLayer) -> None:
        Channel("unrouted").send({})
        call("channels", "pause", "unrouted")
        assert layer.stats()["unrouted"].paused


class TestChannelsRefuses:
    @pytest.mark.parametrize("verb", ["dead", "requeue", "discard", "cancel", "pause", "resume"])
    def test_a_name_that_is_none(self, verb: str) -> None:
        assert refusal("channels", verb, "no spaces").startswith("A channel name is 1 to 99 ASCII letters")
        assert refusal("channels", verb).startswith("Error: the following arguments are required: channel")

    @pytest.mark.parametrize("verb", ["dead", "requeue", "discard", "cancel", "pause", "resume"])
    def test_a_channel_that_nobody_knows_and_names_those_there_are(
        self, layer: DurableLayer, verb: str
    ) -> None:
        Channel("unrouted").send({})
        text = refusal("channels", verb, "legder")
        assert text.startswith(
            "There is no channel 'legder': it has no route, no message, and is not paused."
        )
        assert "ledger" in text and "unrouted" in text
        assert "legder" not in layer.stats()

    def test_an_unknown_action(self) -> None:
        assert refusal("channels", "purge", "ledger").startswith(
            "Error: argument action: invalid choice: 'purge' (choose from"
        )

    def test_an_unknown_layer(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": DATABASE}
        assert (
            refusal("channels", "--layer", "nope")
            == "CHANNEL_LAYERS has no layer 'nope' (it has: 'default')."
        )

    def test_to_guess_before_the_migrations(self, manage: Manage, tmp_path: Path) -> None:
        manage.environment["MAILRAIL_TEST_DEFAULT"] = str(tmp_path / "empty.sqlite3")
        id = str(UUID(int=7))
        for arguments in (
            [], ["--json"], ["workers"], ["dead", "a"], ["requeue", "a", id], ["pause", "a"], ["cancel", "a", id]
        ):  # fmt: skip
            done = manage("channels", *arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("CommandError: no such table: mailrail_")
            assert done.stderr.endswith(". Run: python manage.py migrate mailrail\n")
