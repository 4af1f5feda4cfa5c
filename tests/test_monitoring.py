"""Samples of what people on call watch, and that many who ask cost no more than one."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test.utils import CaptureQueriesContext

from mailrail import Channel
from mailrail.health import Problem, Readiness, rules
from mailrail.layers import DurableLayer, get_layer
from mailrail.layers.history import HistoryRow
from mailrail.messages import Message
from mailrail.monitoring import (
    ChannelFacts,
    Count,
    FlowFacts,
    Sample,
    WorkFacts,
    register_flows,
    register_work,
    registry,
    sampler,
)
from mailrail.monitoring.answers import recent_of, stats_of
from mailrail.monitoring.rates import Depths, begin_of_average, with_rates
from mailrail.monitoring.sample import sample
from mailrail.monitoring.sampler import alatest, latest
from mailrail.routing import Routing, route

from .ports import free_port

LATE = 400.0


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No sample of an earlier test, nothing of apps; consumers of two channels."""
    monkeypatch.setattr(rules, "_rules", [])
    monkeypatch.setattr(rules, "_outages", [])
    monkeypatch.setattr(registry, "_flows", [])
    monkeypatch.setattr(registry, "_work", [])
    monkeypatch.setattr(registry, "_operations", [])
    routing = Routing([route("reports", print), route("quiet", print)])
    monkeypatch.setattr(Routing, "of_layer", classmethod(lambda cls, alias=None: routing))
    sampler.forget()
    yield
    sampler.forget()


# -- a sample -------------------------------------------------------------------------------------------------------


def test_every_layer_tells_what_its_channels_hold(
    layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailrail.health.readiness.get_layer", lambda alias: layer)
    monkeypatch.setattr("mailrail.monitoring.sample.get_layer", lambda alias: layer)
    layer.enqueue([Message(channel="reports", content={}) for _ in range(3)])
    layer.enqueue([Message(channel="reports", content={}, delay=3600.0)])
    layer.claim("one", {"reports": 1}, 15.0)
    layer.heartbeat("one", {"host": "web-1", "pid": 7, "stopping": True})
    taken = sample()
    [channel] = [c for c in taken.channels if c.name == "reports"]
    assert channel.claimed == Count(1) and channel.scheduled == Count(1)
    assert channel.ready == Count(2) and channel.oldest_due is not None and channel.is_routed
    assert [(w.id, w.host, w.pid, w.is_stopping) for w in taken.workers] == [("one", "web-1", 7, True)]
    assert taken.health.is_ready and taken.health.workers == 1


@pytest.mark.django_db
def test_channels_that_need_somebody_come_first() -> None:
    layer = get_layer()
    layer.heartbeat("one", {})
    for name in ("aaa-not-routed", "reports"):
        Channel(name).send({})
    layer.pause("bbb-paused")
    taken = sample()
    assert [c.name for c in taken.channels] == ["aaa-not-routed", "bbb-paused", "reports", "quiet"]
    assert [taken.severity(c) for c in taken.channels] == ["warn", "warn", "ok", "ok"]
    layer.advance_time(LATE)
    layer.heartbeat("one", {})
    taken = sample()
    assert taken.channels[0].name == "reports" and taken.severity(taken.channels[0]) == "bad"
    [problem] = taken.health.problems
    assert (problem.kind, problem.name) == ("channel", "reports")
    assert problem.since == pytest.approx(taken.at - LATE, abs=60)


@pytest.mark.django_db
def test_numbers_above_what_is_counted_are_estimates() -> None:
    get_layer().enqueue([Message(channel="reports", content={}) for _ in range(3)])
    [channel] = [c for c in sample(most=2).channels if c.name == "reports"]
    assert channel.ready.is_estimate and channel.ready.n >= 3
    [channel] = [c for c in sample(most=3).channels if c.name == "reports"]
    assert channel.ready == Count(3)


@pytest.mark.parametrize(("channels", "most"), [(0, 100), (100, 100), (200, 50), (1000, 10), (100_000, 10)])
def test_the_more_channels_there_are_the_fewer_messages_of_each_are_counted(
    channels: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def take(alias: str, most: int, depths: Depths) -> Sample:
        asked.append(most)
        return Sample(0.0, alias, Readiness(), tuple([ChannelFacts("default", "reports")] * channels))

    monkeypatch.setattr(sampler, "sample", take)
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    latest(), latest()
    assert asked == [100, most]


@pytest.mark.django_db
def test_apps_add_flows_and_work_and_one_that_fails_is_a_problem() -> None:
    get_layer().heartbeat("one", {})

    @register_flows
    def mailers() -> list[FlowFacts]:
        return [FlowFacts("default", failed=Count(2))]

    @register_work
    def lists() -> list[WorkFacts]:
        return [WorkFacts("list", "Spring", "shop.list", "7")]

    @register_work
    def broken_shelves() -> list[WorkFacts]:
        raise OperationalError("no such table: shelf")

    register_work(broken_shelves)
    taken = sample()
    assert [flow.mailer for flow in taken.flows] == ["default"]
    assert [work.title for work in taken.work] == ["Spring"]
    assert taken.health.detail == "broken shelves: this cannot be found out: no such table: shelf"


@pytest.mark.django_db
def test_functions_of_apps_ask_the_layer_for_nothing_that_the_sample_knows(
    django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = get_layer()
    layer.heartbeat("one", {})
    Channel("reports").send({})
    asked: list[Any] = []

    def flows() -> list[FlowFacts]:
        asked.append((stats_of(layer, 7)["reports"].ready, recent_of(layer, begin_of_average(now))))
        return []

    now = time.time()
    monkeypatch.setattr("mailrail.monitoring.sample.time.time", lambda: now)
    with CaptureQueriesContext(connections["default"]) as alone:
        sample()
    register_flows(flows)
    with django_assert_num_queries(len(alone)):
        sample()
    assert asked == [(1, {})]
    assert stats_of(layer, 7)["reports"].ready == 1, "without a sample, too"


def test_a_layer_that_is_away_is_said_instead_of_raised(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": [f"redis://127.0.0.1:{free_port()}/0"]},
        }
    }
    register_flows(lambda: [FlowFacts("default")])
    taken = latest()
    [problem] = taken.health.problems
    assert problem.kind == "layer" and problem.detail.startswith("the layer 'default' cannot be used: ")
    assert problem.since == taken.at and not taken.channels
    assert [flow.mailer for flow in taken.flows] == ["default"], "mail is not on that server"


# -- rates ----------------------------------------------------------------------------------------------------------

SERIES = ("channel", "reports")
NOON = 1_796_050_800.0  # the beginning of a minute


def rates(row: HistoryRow, channel: ChannelFacts, depths: Depths, now: float) -> tuple[float | None, ...]:
    """What was sent, done and failed a minute."""
    depths.record(now, [channel])
    found = with_rates(channel, {SERIES: row}, now, depths.at(begin_of_average(now)))
    return found.sent_per_minute, found.done_per_minute, found.failed_per_minute


def holding(ready: int, *, is_estimate: bool = False, oldest_due: float | None = None) -> ChannelFacts:
    return ChannelFacts("default", "reports", Count(ready, is_estimate), oldest_due=oldest_due)


def test_rates_are_averages_of_the_last_minute_or_two() -> None:
    row = HistoryRow(SERIES, sent=120, done=90, retried=20, buried=10)
    assert rates(row, holding(0), Depths(), NOON + 30) == (80.0, 60.0, 20.0)


def test_what_is_sent_to_a_channel_that_nobody_serves_is_how_it_grows() -> None:
    depths = Depths()
    depths.record(NOON - 60, [holding(10)])
    assert rates(HistoryRow(SERIES), holding(40), depths, NOON) == (30.0, 0.0, 0.0)


def test_what_was_sent_has_ended_or_still_waits() -> None:
    depths = Depths()
    depths.record(NOON - 58, [holding(50)])
    row = HistoryRow(SERIES, sent=1, done=20, retried=7, buried=6, expired=4)
    assert rates(row, holding(30), depths, NOON) == (10.0, 20.0, 13.0)
    assert rates(HistoryRow(SERIES, done=3), holding(5), depths, NOON)[0] == 0.0, (
        "somebody has cancelled some"
    )


@pytest.mark.parametrize(
    ("channel", "sent"),
    [
        (holding(5, oldest_due=2.0), 12.0),
        (holding(5, oldest_due=60.0), None),
        (holding(5000, is_estimate=True, oldest_due=2.0), None),
    ],
    ids=["it keeps up", "it does not", "it is too long to be counted"],
)
def test_a_first_sample_knows_what_was_sent_where_messages_do_not_wait(
    channel: ChannelFacts, sent: float | None
) -> None:
    assert rates(HistoryRow(SERIES, sent=12), channel, Depths(), NOON)[0] == sent


def test_a_channel_that_was_too_long_to_be_counted_has_no_rate_by_its_growth() -> None:
    depths = Depths()
    depths.record(NOON - 60, [holding(5000, is_estimate=True)])
    assert rates(HistoryRow(SERIES, done=99), holding(50, oldest_due=60.0), depths, NOON)[0] is None


def test_depths_are_kept_for_two_minutes_and_not_over_a_clock_that_is_set() -> None:
    depths = Depths()
    for second in range(300):
        depths.record(NOON + second, [holding(second)])
    assert depths.at(NOON + 299 - 120) == {"reports": 180} and depths.at(NOON + 100) is None
    assert len(depths._kept) <= 26
    depths.record(NOON, [holding(7)])
    assert depths.at(NOON) == {"reports": 7} and depths.at(NOON + 290) is None


@pytest.mark.django_db
def test_samples_have_rates_also_of_channels_that_are_empty_by_now() -> None:
    layer = get_layer()
    minute = time.time() // 60 * 60
    layer.record(
        [HistoryRow(("channel", name), minute, done=6, buried=3) for name in ("reports", "tenant.7")]
    )
    channels = {channel.name: channel for channel in sample().channels}
    for name in ("reports", "tenant.7"):
        assert 2.9 < (channels[name].done_per_minute or 0) <= 6.0
        assert 1.4 < (channels[name].failed_per_minute or 0) <= 3.0
    assert channels["quiet"].done_per_minute == 0.0 and channels["quiet"].sent_per_minute == 0.0


# -- sharing it -----------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """The samples that were taken, of no layer."""
    taken: list[Sample] = []

    def take(alias: str, most: int, depths: Depths) -> Sample:
        taken.append(Sample(float(len(taken)), alias, Readiness()))
        return taken[-1]

    monkeypatch.setattr(sampler, "sample", take)
    return taken


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Make the last samples older."""
    for each in sampler._samplers.values():
        each._last_at -= seconds
        each._began_at -= seconds


def test_many_who_ask_at_once_get_one_sample(counted: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8)

    def ask() -> Sample:
        together.wait(30)
        return latest()

    with ThreadPoolExecutor(8) as pool:
        samples = [asked.result(60) for asked in [pool.submit(ask) for _ in range(8)]]
    assert samples == counted * 8 and len(counted) == 1
    pass_time(monkeypatch, sampler.FRESH_S)
    assert latest() == counted[1]


def test_coroutines_share_samples_with_threads(
    counted: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def together() -> list[Sample]:
        return await asyncio.gather(*(alatest() for _ in range(50)))

    assert asyncio.run(together()) == counted * 50 and len(counted) == 1
    assert latest() == counted[0]
    pass_time(monkeypatch, sampler.FRESH_S)
    assert asyncio.run(alatest()) == counted[1]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A layer that gives one sample and then hangs; call it to begin, from another thread."""
    began, over = threading.Event(), threading.Event()
    pool = ThreadPoolExecutor(1)

    def hang(alias: str, most: int, depths: Depths) -> Sample:
        began.set()
        assert over.wait(60)
        return Sample(7.0, alias, Readiness())

    def begin() -> None:
        monkeypatch.setattr(sampler, "sample", hang)
        pool.submit(latest)
        assert began.wait(60)

    monkeypatch.setattr(sampler, "ANSWER_TIMEOUT_S", 0.01)
    yield begin
    over.set()
    pool.shutdown()


def test_nobody_waits_for_samples_that_take_long(
    counted: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, over = threading.Event(), threading.Event()

    def take(alias: str, most: int, depths: Depths) -> Sample:
        began.set()
        assert over.wait(60)
        return Sample(7.0, alias, Readiness())

    first = latest()
    monkeypatch.setattr(sampler, "sample", take)
    monkeypatch.setattr(sampler, "SLOW_S", 0.0)
    pass_time(monkeypatch, sampler.FRESH_S)
    assert latest() is first and asyncio.run(alatest()) is first
    assert began.wait(60)  # on another thread
    asked, is_first = sampler._sampler_of(None)._thread.asked()
    over.set()
    assert not is_first and asked.result(60).at == 7.0 and latest() is asked.result()


def test_while_a_layer_hangs_others_get_the_last_sample_and_then_are_told(
    counted: list[Sample], hanging: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = latest()
    pass_time(monkeypatch, 3.0)
    hanging()
    assert latest() is first and asyncio.run(alatest()) is first
    pass_time(monkeypatch, 3.0)
    for told in (latest(), asyncio.run(alatest())):
        assert told.health.detail == "the layer 'default' does not answer" and told.at == first.at
        assert told.health.problems[0].kind == "layer"


def test_while_the_first_question_hangs_others_are_told(hanging: Callable[[], None]) -> None:
    hanging()
    assert latest().health.detail == "the layer 'default' does not answer"
    assert asyncio.run(alatest()).health.detail == "the layer 'default' does not answer"


def test_a_problem_is_dated_by_when_it_was_first_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 101.0, 102.0, 103.0])
    problem = Problem("no workers are running", "no workers are running", kind="workers")
    unwell = iter([(problem,), (problem,), (), (problem,)])
    monkeypatch.setattr(
        sampler, "sample", lambda alias, most, depths: Sample(next(moments), alias, Readiness(next(unwell)))
    )
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    dates = [[p.since for p in latest().health.problems] for _ in range(4)]
    assert dates == [[100.0], [100.0], [], [103.0]]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_takes_its_own_samples(counted: list[Sample]) -> None:
    latest()
    lock = sampler._sampler_of(None)._asking
    with lock:  # as if another thread asked while the process forks
        pid = os.fork()
        if not pid:
            sampler.latest()
            os._exit(len(counted))
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2


@pytest.mark.django_db(transaction=True)
def test_the_thread_for_coroutines_closes_its_connections_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()
    opened: list[Any] = []

    def take(alias: str, most: int, depths: Depths) -> Sample:
        opened.append(connections["default"])
        return sample(alias, most, depths)

    def close_all() -> None:
        type(connections).close_all(connections)
        closed.set()

    monkeypatch.setattr(sampler, "sample", take)
    monkeypatch.setattr(connections, "close_all", close_all, raising=False)
    monkeypatch.setattr(sampler, "THREAD_IDLE_S", 0.01)
    get_layer().heartbeat("one", {})
    assert asyncio.run(alatest()).health.is_ready
    assert closed.wait(60)
    assert opened and all(connection.connection is None for connection in opened)
