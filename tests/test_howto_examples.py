"""The examples of the how-tos on consumers run, and what the pages say of them is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.management import call_command
from django.test import TestCase
from django.utils import timezone, translation

from mailrail import Channel, reconciliation, routing
from mailrail.layers import get_layer
from mailrail.routing import Routing
from mailrail.signals import message_buried
from mailrail.testing import advance, drain, sent
from mailrail.worker import Worker

from .listed import dead_on
from .processes import ROOT

HOW_TO = ROOT / "docs" / "how-to"
Run = Callable[..., dict[str, Any]]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (HOW_TO / f"{page}.md").read_text(), re.DOTALL)


@pytest.fixture
def run(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run all Python of a page, in order, on a layer in memory where nothing else is routed."""
    memory = {"BACKEND": "mailrail.layers.InMemoryChannelLayer"}
    settings.CHANNEL_LAYERS = {"default": memory}
    monkeypatch.setattr("mailrail.routing._registered", [])
    monkeypatch.setattr("mailrail.reconciliation._registered", [*reconciliation._registered])

    def of_layer(alias: str | None = None) -> Routing:
        return Routing(routing._registered)

    monkeypatch.setattr(Routing, "of_layer", of_layer)

    def executed(page: str, **names: Any) -> dict[str, Any]:
        names |= {"__name__": f"shop_of_{page.replace('-', '_')}"}
        for block in blocks(page):
            exec(block, names)
        return names

    return executed


def channel_of(name: str, **wanted: Any) -> None:
    """Compare the policy of a channel's only route."""
    [route] = [route for route in routing._registered if name in route.channels]
    assert {key: getattr(route.policy, key) for key in wanted} == wanted


def test_retry(run: Run) -> None:
    answers: list[Any] = []
    saved: list[str] = []
    calls: list[str] = []
    names = {"fetch": lambda url: answers.pop(0), "save": saved.append, "notify": calls.append}
    try:
        page = run("retry", **names, Account=None, F=None)
        channel_of("import-feed", attempts=8, backoff=30, timeout=120)
        channel_of("book", atomic=True)
        patience = SimpleNamespace(status=429, retry_after=100, text="")
        answers[:] = [patience, SimpleNamespace(status=200, text="news"), SimpleNamespace(status=404)]
        Channel("import-feed").send({"url": "https://example.com/feed"})
        [first] = drain("import-feed", raise_errors=False)
        assert (first.outcome, drain("import-feed")) == ("retried", [])
        advance(100)
        [second] = drain("import-feed")
        assert (second.outcome, second.message.attempt, saved) == ("finished", 2, ["news"])
        Channel("import-feed").send({"url": "https://example.com/feed"})
        assert [ran.outcome for ran in drain("import-feed")] == ["discarded"]

        for _ in range(8):  # there are no answers any more
            Channel("import-feed").send({"url": "?"}, key="x")
            drain("import-feed", raise_errors=False)
            advance(3600)
        assert len(calls) == 1 and "IndexError" in calls[0] and "on import-feed is dead" in calls[0]
    finally:
        message_buried.disconnect(page["tell_somebody"])


def test_the_backoffs_that_the_page_lists() -> None:
    rows = re.findall(r"^\| `(backoff=.*?)` \|", (HOW_TO / "retry.md").read_text(), re.MULTILINE)
    routes: list[Any] = []
    for row in rows:
        exec(f"routes.append(route('x', print, {row}))", {"route": routing.route, "routes": routes})
    bounded, listed, computed = routes
    assert all(bounded.delay_after(2) <= 60 for _ in range(50))
    assert [listed.delay_after(n) for n in (1, 2, 3, 4)] == [10, 60, 600, 600]
    assert [computed.delay_after(n) for n in (1, 2)] == [60, 120]


def test_delay(run: Run) -> None:
    now = timezone.now()
    page = run("delay", order=SimpleNamespace(pk=7, due=now + timedelta(days=2)))
    waiting = sent("remind")
    assert [round((m.due or 0) - now.timestamp(), -2) for m in waiting] == [3600, 86400]  # one was called off
    call_command(page["Command"]())
    call_command(page["Command"]())
    assert [m.key for m in sent("nightly-report")] == [timezone.localdate().isoformat()]


def test_unique(run: Run) -> None:
    page = run("unique")
    assert page["same"] and len(sent("reindex")) == len(sent("send-invite")) == 1
    seen: list[int] = []

    def send_again(message: Any) -> None:
        seen.append(1)
        if len(seen) == 1:
            Channel("reindex").send({"id": 7}, key="product-7")

    def send_unique_again(message: Any) -> None:
        Channel("send-invite").send({"id": 7}, unique=True)

    routing.consumer("reindex")(send_again)
    routing.consumer("send-invite")(send_unique_again)
    assert len(drain("reindex")) == 2, "what is sent while it runs is a new message"
    assert len(drain("send-invite")) == 1 and not sent("send-invite")


@pytest.mark.parametrize("options", [{"key": "x"}, {"unique": True}], ids=str)
def test_a_dead_message_is_in_nobodys_way(run: Run, options: dict[str, Any]) -> None:
    def bury(message: Any) -> None:
        message.bury("no")

    routing.consumer("work")(bury)
    Channel("work").send({"id": 7}, **options)
    drain("work", raise_errors=False)
    Channel("work").send({"id": 7}, **options)
    assert len(sent("work")) == len(dead_on(get_layer(), "work")) == 1


def test_lanes(run: Run) -> None:
    def record(message: Any) -> None:
        ran.append(message["id"])
        if message["id"] == 1 and message.attempt == 1:
            raise RuntimeError("not yet")

    ran: list[int] = []
    bookings = [SimpleNamespace(pk=pk, account_id=pk % 2) for pk in range(1, 6)]
    routing.consumer("bookings", backoff=[60])(record)
    run("lanes", bookings=bookings)
    drain("bookings", raise_errors=False)
    assert ran == [1, 2, 4], "the lane of 1 is held, the other one goes on"
    advance(60)
    drain("bookings")
    assert ran == [1, 2, 4, 1, 3, 5]


def test_limits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("limits")
    channel_of("geocode", rate=routing.Rate(100, 60))
    channel_of("call-customer", limiter=names["OfficeHours"])
    assert [m.channel for m in sent("tenant")] == ["tenant.acme"]
    limiter = names["OfficeHours"]("call-customer", get_layer())
    for hour, answer in ((8, (0, 60)), (9, (5, 0)), (17, (0, 60))):
        monkeypatch.setattr(timezone, "localtime", lambda hour=hour: SimpleNamespace(hour=hour))
        assert limiter.allow(5) == answer


def test_batches(run: Run) -> None:
    class Product:
        objects = SimpleNamespace(in_bulk=lambda ids: {id: f"product {id}" for id in ids if id != 3})

    updated: list[list[str]] = []
    search = SimpleNamespace(update=lambda products: updated.append(list(products)))
    run("batches", Product=Product, search=search, pks=range(1, 5))
    channel_of("index", batch=100)
    Worker(get_layer(), Routing(routing._registered), drain=True).run()
    assert updated == [["product 1", "product 2", "product 4"]]
    [dead] = dead_on(get_layer(), "index")
    assert (dead.message.content, dead.error) == ({"id": 3}, "there is no such product")


def test_what_is_left_of_a_batch_that_raises_comes_one_by_one(run: Run) -> None:
    sizes: list[int] = []

    def fail(messages: Any) -> None:
        sizes.append(len(messages))
        messages[0].finish()
        if len(messages) > 1:
            raise RuntimeError("one of them is to blame")

    routing.consumer("index", batch=100, backoff=[0])(fail)
    Channel("index").send_many({"id": pk} for pk in range(4))
    Worker(get_layer(), Routing(routing._registered), drain=True).run()
    assert sizes == [4, 1, 1, 1] and not dead_on(get_layer(), "index")


@pytest.mark.django_db
def test_testing(run: Run, request: pytest.FixtureRequest) -> None:
    made: list[int] = []
    page = run("testing", report=made.append)
    cases = [
        it for it in page.values() if isinstance(it, type) and issubclass(it, TestCase) and it is not TestCase
    ]
    names = [(case, name) for case in cases for name in vars(case) if name.startswith("test_")]
    assert len(names) == 3
    for case, name in names:
        getattr(case(name), name)()
    page["test_a_report_is_made"](request.getfixturevalue("mailrail_memory"))
    made.clear()
    page["make_report"]({"year": 2026})
    assert made == [2026]


def test_the_middleware_of_the_reference(run: Run, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def plain(message: Any) -> None:
        seen.append(("plain", translation.get_language()))

    async def awaited(message: Any) -> None:
        seen.append(("awaited", translation.get_language()))

    def many(messages: Any) -> None:
        seen.append(("many", translation.get_language(), [message["n"] for message in messages]))

    page = run("../reference/settings")
    monkeypatch.setattr("tests.routes.outer", page["in_language"])
    settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.outer"]}
    routing.consumer("c", batch=5)(many)
    for name, consumer in (("a", plain), ("b", awaited)):
        routing.consumer(name)(consumer)
        Channel(name).send({}, headers={"language": "de"})
        drain(name)
    assert seen == [("plain", "de"), ("awaited", "de")]
    for n, headers in enumerate(({"language": "de"}, {}, {"language": "de"})):
        Channel("c").send({"n": n}, headers=headers)
    Worker(get_layer(), Routing.of_layer(), ["c"], drain=True).run()
    assert seen[2:] == [("many", "de", [0, 2]), ("many", "en-us", [1])]


def test_moving_from_channels_1(run: Run) -> None:
    paid: list[str] = []
    invited: list[int] = []
    page = run(
        "moving-from-channels-1",
        invite=invited.append,
        paid=lambda message, kind: paid.append(kind),
        reports_routing=[routing.route("reports", print)],
    )
    routing._registered.extend(routing._flat(page["channel_routing"], "the page"))
    Channel("orders").send({"kind": "refunded"})
    drain()
    assert (invited, paid) == ([7], ["refunded"])
    assert "reports" in Routing.of_layer()


def test_moving_from_channels_4(run: Run, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    page = run("moving-from-channels-4", thumbnail=made.append)
    monkeypatch.setattr("mailrail.applications.application", lambda: page["application"])
    async_to_sync(get_channel_layer().send)("thumbnails", {"type": "make", "id": 7})
    Worker(get_layer(), Routing([]).with_applications(["thumbnails"]), drain=True).run()
    assert made == [7]


@pytest.mark.parametrize("page", ["moving-from-celery", "moving-from-rq"])
def test_moving_from_another_queue(run: Run, page: str) -> None:
    made: list[int] = []

    def report(year: int) -> None:
        made.append(year)
        if len(made) == 1 and page == "moving-from-celery":
            raise ConnectionError("away")

    run(page, report=report)
    channel_of("make-report", attempts=4, timeout=300)
    [message] = sent("make-report")
    assert message.content == {"year": 2026}
    advance(600)
    drain(raise_errors=False)
    advance(60)
    drain()
    assert made == ([2026, 2026] if page == "moving-from-celery" else [2026])
