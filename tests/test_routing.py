"""Routing: which consumer gets what, with which arguments, and what cannot be routed."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mailrail import Discard, InvalidSettings
from mailrail import routing as routing_module
from mailrail.messages import Message, Rate
from mailrail.routes import Plan, Route
from mailrail.routing import Routing, consumer, include, route
from mailrail.worker import IncomingMessage
from mailrail.worker.consume import ConsumerRun
from tests import routes
from tests.routes import first, later, second
from tests.test_messages import json_objects

DATABASE = "mailrail.layers.DatabaseChannelLayer"
MEMORY = "mailrail.layers.InMemoryChannelLayer"


class Shop:
    """Consumers that are not plain functions."""

    def method(self, message: Any) -> str:
        return "method"

    @classmethod
    def of_class(cls, message: Any) -> str:
        return "of_class"

    @staticmethod
    def static(message: Any) -> str:
        return "static"

    def yielding(self, message: Any) -> Iterator[Any]:
        yield message

    def __call__(self, message: Any) -> str:
        return "called"


class AsyncShop:
    async def __call__(self, message: Any) -> str:
        return "awaited"


class YieldingShop:
    def __call__(self, message: Any) -> Iterator[Any]:
        yield message


async def async_generator(message: Any) -> Any:
    yield message


def without_folder(text: str) -> str:
    return re.sub(r"\(/.*/| at 0x[0-9a-f]+", lambda found: found[0][:1].strip(), text)


@pytest.fixture(autouse=True)
def _what_tests_register_stays_here() -> Iterator[None]:
    Routing.of_layer()  # imports what the apps register, which happens once in a process
    before = list(routing_module._registered)
    routing_module._built.clear()
    routes.called.clear()
    yield
    routing_module._registered[:] = before
    routing_module._built.clear()


@pytest.fixture
def configure(settings: Any) -> Any:
    def configure(path: str | None, backend: str = MEMORY) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"routing": path}}}

    return configure


def found(plan: Plan, content: dict[str, Any]) -> tuple[Any, dict[str, str]] | None:
    matched = plan.match(Message("orders", content))
    return None if matched is None else (matched[0].function, matched[1])


class TestRoute:
    def test_one_channel_or_several_lead_to_a_consumer(self) -> None:
        assert route("a", first).channels == ("a",)
        assert route(["a", "b"], first).channels == ("a", "b")
        assert route((name for name in "ab"), first).channels == ("a", "b")
        plans = Routing([route(["a", "b"], first)]).plans
        assert sorted(plans) == ["a", "b"] and plans["a"].routes == plans["b"].routes

    def test_a_channel_that_is_not_routed_is_not_there(self) -> None:
        routing = Routing([route("a", first)])
        assert "a" in routing and "b" not in routing

    def test_a_dotted_path_is_imported_when_it_is_needed_and_not_before(self) -> None:
        assert route("a", "tests.routes.first").function is first
        route("a", "no.such.module.consumer")  # may be defined later in an import circle

    @pytest.mark.parametrize("path", ["no.such.module", "tests.routes.missing", "nodots", "", "tests.", ".a"])
    def test_a_path_that_leads_nowhere_is_named_when_the_routing_is_built(self, path: str) -> None:
        with pytest.raises(
            InvalidSettings, match=rf"^route\('a', {re.escape(repr(path))}\) cannot be imported"
        ):
            Routing([route("a", path)])

    @pytest.mark.parametrize("name", ["not_callable", "generator"])
    def test_a_path_to_something_that_is_no_consumer_is_named_too(self, name: str) -> None:
        with pytest.raises(InvalidSettings, match=rf"^route\('a', 'tests\.routes\.{name}'\): "):
            Routing([route("a", f"tests.routes.{name}")])

    @pytest.mark.parametrize(
        ("target", "answer"),
        [
            (Shop(), "called"),
            (Shop().method, "method"),
            (Shop.of_class, "of_class"),
            (Shop.static, "static"),
            (functools.partial(Shop.static), "static"),
            (lambda message: "lambda", "lambda"),
        ],
    )
    def test_whatever_can_be_called_is_a_consumer(self, target: Any, answer: str) -> None:
        made = route("a", target)
        assert made.consume("message") == answer
        assert not made.is_async
        assert "." in made.name

    @pytest.mark.parametrize("target", [later, AsyncShop(), functools.partial(later, colour="red")])
    def test_async_consumers_are_known_as_such(self, target: Any) -> None:
        assert route("a", target).is_async
        [plan] = Routing([route("a", target)]).plans.values()
        assert plan.is_async
        [plan] = Routing([route("a", target), route("a", first)]).plans.values()
        assert not plan.is_async

    @pytest.mark.parametrize("target", [None, 7, [first], {}, b"tests.routes.first"])
    def test_what_cannot_be_called_is_refused(self, target: Any) -> None:
        with pytest.raises(TypeError, match="A consumer is a function, or a dotted path to one"):
            route("a", target)

    @pytest.mark.parametrize(
        "target", [routes.generator, async_generator, YieldingShop(), Shop().yielding,
                   functools.partial(routes.generator)]
    )  # fmt: skip
    def test_a_generator_function_is_refused_as_its_body_would_never_run(self, target: Any) -> None:
        with pytest.raises(TypeError, match=r"generator function .* its body would never run"):
            route("a", target)

    def test_a_consumers_name_is_its_dotted_path(self) -> None:
        assert route("a", first).name == "tests.routes.first"
        assert route("a", Shop().method).name == "tests.test_routing.Shop.method"
        assert route("a", Shop()).name == "tests.test_routing.Shop"


BAD_OPTIONS: dict[str, list[Any]] = {
    "attempts concurrency batch": [0, -1, 1.5, "3", True, float("nan")],
    "timeout lease": [0, -1, "3", True, float("nan"), float("inf")],
    "rate": ["fast", "0/s", "", 10, "10/w", True],
    "backoff": [-1, "3", True, [], [1, -1], [1, "2"], float("nan"), 1e10, {}],
    "atomic": ["yes", 1, None],
}


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            (option, value)
            for options, values in BAD_OPTIONS.items()
            for option in options.split()
            for value in values
        ],
    )
    def test_a_bad_one_is_refused_by_name(self, option: str, value: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=rf"^{option} must "):
            route("a", first, **{option: value})
        with pytest.raises((TypeError, ValueError), match=rf"^{option} must "):
            consumer("a", **{option: value})(first)

    def test_all_of_them_may_be_left_out(self) -> None:
        policy = route("a", first).policy
        assert set(vars(policy).values()) == {None, False}

    def test_good_ones_are_kept(self) -> None:
        policy = route(
            "a", first, attempts=3, backoff=[1, 2], concurrency=4, rate="5/m", timeout=6, lease=7, batch=8
        ).policy
        assert (policy.attempts, policy.backoff, policy.concurrency) == (3, [1, 2], 4)
        assert (policy.rate, policy.timeout, policy.lease, policy.batch) == (Rate(5, 60), 6.0, 7.0, 8)

    @pytest.mark.parametrize("channels", ["no spaces", "", ["a", "b!"], "a" * 100, [7]])
    def test_a_bad_channel_name_is_refused_with_the_rule(self, channels: Any) -> None:
        with pytest.raises(ValueError, match="A channel name is 1 to 99"):
            route(channels, first)

    def test_no_channel_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs a channel"):
            route([], first)
        for nothing in (None, 7):
            with pytest.raises(TypeError, match="needs a channel"):
                route(nothing, first)  # type: ignore[arg-type]

    def test_a_decorator_without_a_channel_is_refused_as_nothing_would_be_registered(self) -> None:
        with pytest.raises(
            TypeError, match=r'^consumer\(\) needs a channel.*first.*: @consumer\("name"\)\.$'
        ):
            consumer(first)  # type: ignore[arg-type]

    def test_an_option_misspelt_is_taken_for_a_filter_and_the_error_lists_the_options(self) -> None:
        with pytest.raises(
            TypeError, match=r"^route\(atempts=3\): a filter is .* Options are: attempts, backoff"
        ):
            route("a", first, atempts=3)  # type: ignore[arg-type]

    def test_a_batch_is_not_atomic(self) -> None:
        with pytest.raises(ValueError, match="atomic=True and batch=… do not go together"):
            route("a", first, atomic=True, batch=2)

    def test_a_batch_is_not_isolated_and_the_error_says_what_to_do(self) -> None:
        with pytest.raises(ValueError, match=r"isolate=True and batch=… do not go.*Leave one of them out\."):
            route("a", first, isolate=True, batch=2)
        with pytest.raises(ValueError, match="isolate must be True or False, not 1"):
            route("a", first, isolate=1)  # type: ignore[arg-type]

    def test_isolated_routes_are_all_but_those_of_batches(self) -> None:
        routing = Routing([route("a", first), route("b", first, batch=2), route("c.*", first)]).isolated()
        assert routing.with_isolate == ["a", "c.*"] and routing.with_batches == ["b"]
        assert routing.plan_for("c.1").routes[0].policy.isolate and not routing.plans["a"].is_async

    def test_a_batch_has_no_place_for_named_groups(self) -> None:
        route("a", first, batch=2, kind="paid")
        with pytest.raises(ValueError, match="Named groups"):
            route("a", first, batch=2, kind="(?P<kind>paid)")

    def test_how_often_it_is_tried_says_the_message_then_the_route_then_the_settings(
        self, settings: Any
    ) -> None:
        assert route("a", first).attempts_for(Message("a", {})) == 5
        settings.MAILRAIL = {"ATTEMPTS": 7}
        assert route("a", first).attempts_for(Message("a", {})) == 7
        assert route("a", first, attempts=3).attempts_for(Message("a", {})) == 3
        assert route("a", first, attempts=3).attempts_for(Message("a", {}, max_attempts=2)) == 2


class TestBackoff:
    @given(st.integers(min_value=1, max_value=10_000))
    @hypothesis_settings(deadline=None)
    def test_a_number_bounds_a_wait_that_doubles_up_to_the_settings_limit(self, attempt: int) -> None:
        wait = route("a", first, backoff=2).delay_after(attempt)
        assert 0 <= wait <= min(3600.0, 2 * 2 ** min(attempt - 1, 60))

    def test_it_has_full_jitter(self) -> None:
        made = route("a", first, backoff=100)
        waits = [made.delay_after(1) for _ in range(200)]
        assert min(waits) < 50 < max(waits) <= 100

    def test_without_one_the_settings_say(self, settings: Any) -> None:
        settings.MAILRAIL = {"BACKOFF": 1000, "BACKOFF_MAX": 3}
        waits = [route("a", first).delay_after(n) for n in range(1, 100)]
        assert 0 < max(waits) <= 3

    def test_zero_is_at_once(self) -> None:
        assert {route("a", first, backoff=0).delay_after(n) for n in (1, 2, 50)} == {0}

    @pytest.mark.parametrize("waits", [[1, 5, 60], (1, 5, 60)])
    def test_a_list_is_followed_and_its_last_wait_repeated(self, waits: Any) -> None:
        made = route("a", first, backoff=waits)
        assert [made.delay_after(n) for n in (1, 2, 3, 4, 100)] == [1, 5, 60, 60, 60]

    def test_a_function_gets_the_attempt_and_never_waits_less_than_nothing(self) -> None:
        made = route("a", first, backoff=lambda attempt: 10 - attempt * 4)
        assert [made.delay_after(n) for n in (1, 2, 3)] == [6, 2, 0]


class TestFilters:
    def test_the_first_route_that_matches_gets_the_message(self) -> None:
        plan = Routing([route("orders", first, kind="^paid$"), route("orders", second)]).plans["orders"]
        assert found(plan, {"kind": "paid"}) == (first, {})
        assert found(plan, {"kind": "free"}) == (second, {})
        assert found(plan, {}) == (second, {})

    def test_nothing_matches_where_every_route_filters_it_out(self) -> None:
        plan = Routing([route("orders", first, kind="paid")]).plans["orders"]
        assert found(plan, {"kind": "free"}) is None

    def test_every_filter_must_match(self) -> None:
        made = route("orders", first, kind="paid", country="^(de|at)$")
        assert made.match({"kind": "paid", "country": "at"}) == {}
        assert made.match({"kind": "paid", "country": "fr"}) is None
        assert made.match({"kind": "paid"}) is None

    def test_it_matches_from_the_beginning_and_not_in_the_middle(self) -> None:
        made = route("orders", first, kind="paid")
        assert made.match({"kind": "paid twice"}) == {}
        assert made.match({"kind": "unpaid"}) is None

    def test_named_groups_become_keyword_arguments(self) -> None:
        made = route("orders", first, path=r"^/(?P<year>\d{4})/(?P<slug>\w+)(?P<rest>/.*)?$", kind="(?P<k>.)")
        assert made.match({"path": "/2026/hello", "kind": "x"}) == {"year": "2026", "slug": "hello", "k": "x"}

    def test_numbers_are_matched_as_text(self) -> None:
        assert route("a", first, n=r"^(?P<n>\d+)$").match({"n": 42}) == {"n": "42"}
        assert route("a", first, n=r"^1\.5$").match({"n": 1.5}) == {}

    @pytest.mark.parametrize("value", [True, False, None, [], ["paid"], {}, {"paid": "paid"}])
    def test_what_is_neither_text_nor_number_does_not_match(self, value: Any) -> None:
        assert route("a", first, kind=".*").match({"kind": value}) is None

    def test_compiled_patterns_are_taken_with_their_flags(self) -> None:
        made = route("a", first, kind=re.compile("paid", re.IGNORECASE))  # type: ignore[arg-type]
        assert made.match({"kind": "PAID"}) == {}

    @pytest.mark.parametrize("pattern", ["(", "[", "*", "a{99999999999999999999}", "(?P<a>x)(?P<a>y)"])
    def test_what_is_no_regular_expression_is_refused_by_name(self, pattern: str) -> None:
        with pytest.raises(ValueError, match=r"^route\(kind=.*not a regular expression"):
            route("a", first, kind=pattern)

    @pytest.mark.parametrize("pattern", [None, 7, True, b"paid", re.compile(b"paid"), ["paid"]])
    def test_what_could_never_match_text_is_refused_by_name(self, pattern: Any) -> None:
        with pytest.raises(TypeError, match=r"^route\(kind=.*a filter is a regular expression, as text"):
            route("a", first, kind=pattern)

    @given(json_objects, st.sampled_from([".*", "^$", r"(?P<x>\d+)", "a|b", r"\S"]))
    @hypothesis_settings(deadline=None)
    def test_no_content_makes_a_filter_raise(self, content: dict[str, Any], pattern: str) -> None:
        content["field"] = content.get("", 0)
        made = Route(("a",), first, {name: re.compile(pattern) for name in ("field", *list(content)[:2])})
        assert made.match(content) is None or isinstance(made.match(content), dict)


class TestWhatBelongsToTheChannel:
    @pytest.mark.parametrize(
        ("option", "one", "other"),
        [("concurrency", 1, 2), ("rate", "1/s", "2/s"), ("lease", 5, 6), ("batch", 5, 6), ("batch", None, 6)],
    )
    def test_routes_that_disagree_are_refused_with_the_option_the_values_and_the_consumers(
        self, option: str, one: Any, other: Any
    ) -> None:
        with pytest.raises(InvalidSettings) as refusal:
            Routing([route("a", first, **{option: one}), route(["b", "a"], second, **{option: other})])
        text = str(refusal.value)
        assert text.startswith(
            "The routes of channel 'a' (tests.routes.first and tests.routes.second) disagree on"
        )
        assert f"disagree on {option}: " in text

    @pytest.mark.parametrize(("option", "value"), [("concurrency", 2), ("rate", "2/s"), ("lease", 6.0)])
    def test_saying_it_once_is_enough(self, option: str, value: Any) -> None:
        plan = Routing([route("a", first, **{option: value}), route("a", second)]).plans["a"]
        assert getattr(plan, option) == (Rate(2, 1) if option == "rate" else value)

    def test_agreeing_is_fine_however_a_rate_is_written(self) -> None:
        plan = Routing([route("a", first, rate="60/m"), route("a", second, rate="60/60s")]).plans["a"]
        assert plan.rate == Rate(60, 60)

    def test_what_belongs_to_the_route_may_differ(self) -> None:
        Routing(
            [route("a", first, attempts=1, timeout=1, backoff=1), route("a", second, attempts=2, atomic=True)]
        )

    def test_the_lease_is_the_settings_unless_a_route_says(self, settings: Any) -> None:
        settings.MAILRAIL = {"LEASE": 9}
        assert Routing([route("a", first)]).plans["a"].lease == 9

    def test_atomic_needs_a_plain_function(self) -> None:
        with pytest.raises(
            InvalidSettings, match=r"route\('a', …, atomic=True\): tests.routes.later is async"
        ):
            Routing([route("a", later, atomic=True)])

    def test_atomic_needs_the_database_layer(self) -> None:
        with pytest.raises(InvalidSettings, match=r"route\('a', …, atomic=True\) needs the database layer"):
            Routing([route("a", first, atomic=True)], supports_atomic=False)


class TestInclude:
    def test_a_list_or_its_dotted_path(self) -> None:
        assert include("tests.routes.channel_routing") == routes.channel_routing
        assert include(routes.channel_routing) == routes.channel_routing

    def test_lists_within_lists_are_flat_and_in_order(self) -> None:
        flat = include([routes.nested_routing, include("tests.routes.a_tuple")])
        assert [r.channels[0] for r in flat] == ["one", "two", "three", "four", "one", "two"]

    @pytest.mark.parametrize("path", ["no.such.module", "tests.routes.missing", "nodots", ""])
    def test_a_path_that_leads_nowhere_is_named(self, path: str) -> None:
        with pytest.raises(InvalidSettings, match=rf"^include\({path!r}\) cannot be imported"):
            include(path)

    @pytest.mark.parametrize("name", ["no_list", "a_dict", "a_list_of_pairs"])
    def test_what_is_no_list_of_routes_is_named(self, name: str) -> None:
        with pytest.raises(
            InvalidSettings, match=rf"^include\('tests.routes.{name}'\) must be a list of route"
        ):
            include(f"tests.routes.{name}")
        with pytest.raises(InvalidSettings, match=r"^include\(\) must be a list of route"):
            include(getattr(routes, name))


class TestDiscovery:
    def test_without_a_routing_the_consumers_of_all_installed_apps_are_found(self) -> None:
        plans = Routing.of_layer().plans
        assert plans["ledger"].routes[0].name == "tests.project.consumers.ledger"
        assert plans["send-invite"].routes[0].name == "mailrail.invitations.consumers.send_invite"

    def test_the_decorator_leaves_the_function_as_it_is(self) -> None:
        def mine(message: Any) -> str:
            return "mine"

        assert consumer("mine", attempts=2)(mine) is mine
        [made] = [r for r in routing_module._registered if r.channels == ("mine",)]
        assert made.function is mine and made.policy.attempts == 2

    def test_registering_again_after_a_reload_replaces_the_first(self) -> None:
        def define() -> Any:
            @consumer("again")
            def again(message: Any) -> None: ...

            return again

        define()
        newest = define()
        assert [r.function for r in routing_module._registered if r.channels == ("again",)] == [newest]

    def test_all_mistakes_of_an_apps_consumers_are_told_with_their_lines(self, broken_app: None) -> None:
        for _ in range(2):  # the second time the module is imported already
            with pytest.raises(InvalidSettings) as refused:
                Routing.of_layer()
            assert [without_folder(text) for text in refused.value.mistakes] == [
                "attempts must be a whole number from 1, not 0. (consumers.py, line 10)",
                (
                    "takes_nothing() -> 'None' cannot be called with one argument, the message (a list of them where "
                    "the route says batch): too many positional arguments. (consumers.py, line 14)"
                ),
                (
                    "consumer() needs a channel, or a list of them, not <function without_a_channel>: "
                    '@consumer("name"). (consumers.py, line 18)'
                ),
            ]

    def test_all_mistakes_of_a_routing_are_told_with_their_lines(
        self, configure: Any, broken_app: None
    ) -> None:
        configure("tests.mistaken_routes.channel_routing")
        for _ in range(2):
            with pytest.raises(InvalidSettings) as refused:
                Routing.of_layer()
            told = [without_folder(text) for text in refused.value.mistakes]
            for part in (
                "not 0. (consumers.py, line 10)",
                "not 'no spaces'. (mistaken_routes.py, line 18)",
                "attempts must be a whole number from 1, not 0. (mistaken_routes.py, line 20)",
                "not -1. (mistaken_routes.py, line 20)",
                "too many positional arguments. (mistaken_routes.py, line 21)",
                "missing a required argument: 'user'. (mistaken_routes.py, line 22)",
                "route('four', 'tests.routes.missing') cannot be imported",
                "include('tests.nowhere') cannot be imported",
                (
                    "include('tests.mistaken_routes_too.more_routing') cannot be imported: RuntimeError: this module "
                    "does not import (mistaken_routes_too.py, line 9)"
                ),
            ):
                assert len([text for text in told if part in text]) == 1, part

    def test_what_a_module_says_before_it_fails_is_told_too(self, configure: Any) -> None:
        configure("tests.mistaken_routes_too.more_routing")
        with pytest.raises(InvalidSettings) as refused:
            Routing.of_layer()
        lease, failed = map(without_folder, refused.value.mistakes)
        assert lease.endswith("not 0. (mistaken_routes_too.py, line 8)")
        assert failed.endswith("this module does not import (mistaken_routes_too.py, line 9)")

    def test_a_route_with_a_mistake_raises_wherever_the_routing_is_not_looked_for(self) -> None:
        with pytest.raises(ValueError, match=r"^attempts must be a whole number from 1, not 0\.$"):
            route("one", first, attempts=0)
        with pytest.raises(TypeError, match=r"^consumer\(\) needs a channel"):
            consumer(first)  # type: ignore[arg-type]

    def test_a_module_that_is_missing_is_said_of_the_line_that_wants_it(
        self, configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "lacking.py").write_text("channel_routing = []\nimport no_such_module\n")
        monkeypatch.syspath_prepend(tmp_path)
        configure("lacking.channel_routing")
        with pytest.raises(InvalidSettings, match=r"'no_such_module' \(.*lacking\.py, line 2\)$"):
            Routing.of_layer()
        configure("no.such.module")
        with pytest.raises(InvalidSettings, match=r"cannot be imported: No module named 'no'$"):
            Routing.of_layer()

    def test_what_a_routing_is_refused_is_said_of_its_own_line(self, configure: Any) -> None:
        configure("tests.broken_routes.channel_routing")
        with pytest.raises(InvalidSettings, match=r"not 'no spaces'\. \(.*broken_routes\.py, line 7\)$"):
            Routing.of_layer()

    def test_settings_changed_by_a_test_are_looked_at_again(self, configure: Any) -> None:
        assert "one" not in Routing.of_layer()
        configure("tests.routes.channel_routing")
        assert "one" in Routing.of_layer()
        assert Routing.of_layer() is Routing.of_layer()

    def test_what_is_imported_too_late_is_told(self, caplog: Any) -> None:
        Routing.of_layer()
        consumer("late")(first)
        assert "late" not in Routing.of_layer()
        assert "@consumer('late') on tests.routes.first was imported after" in caplog.text
        assert "import consumers.py of the installed apps" in caplog.text

    def test_what_is_imported_in_time_is_not(self, caplog: Any) -> None:
        consumer("early")(first)
        Routing.of_layer()
        consumer("early")(first)  # its module was imported again
        assert "early" in Routing.of_layer() and not caplog.text


class TestNamedInTheSettings:
    def test_only_what_is_named_is_routed_and_our_own(self, configure: Any) -> None:
        configure("tests.routes.nested_routing")
        assert sorted(Routing.of_layer().plans) == [
            "four",
            "mailrail.mail.default",
            "mailrail.operations",
            "one",
            "send-invite",
            "tasks.default",
            "tasks.reports",
            "three",
            "two",
        ]

    def test_what_apps_register_counts_beside_the_list(self, configure: Any) -> None:
        consumer("registered")(first)
        configure("tests.routes.channel_routing")
        assert {"one", "registered", "send-invite"} <= Routing.of_layer().plans.keys()

    def test_a_channel_in_both_is_refused_and_both_places_are_named(self, configure: Any) -> None:
        consumer(["fine", "two"])(first)
        configure("tests.routes.channel_routing")
        with pytest.raises(InvalidSettings) as refused:
            Routing.of_layer()
        assert str(refused.value) == (
            "Channel 'two' is routed in two places: to tests.routes.second by CHANNEL_LAYERS['default']['CONFIG']"
            "['routing'] = 'tests.routes.channel_routing', and to tests.routes.first by its @consumer. Remove one of "
            "the two."
        )

    def test_the_list_of_another_layer_is_all_that_it_routes(self, settings: Any) -> None:
        consumer("alone", atomic=True)(first)  # which that layer could not even do
        second = {"BACKEND": MEMORY, "CONFIG": {"routing": "tests.routes.a_single_route"}}
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": DATABASE}, "second": second}
        assert "alone" in Routing.of_layer()
        assert [r.name for r in Routing.of_layer("second").plans["alone"].routes] == ["tests.routes.first"]
        assert not Routing.of_layer("second").plans["alone"].routes[0].policy.atomic

    def test_the_projects_routes_stand_before_ours(self, configure: Any) -> None:
        configure("tests.routes.shadowing_routing")
        plan = Routing.of_layer().plans["send-invite"]
        assert [r.name for r in plan.routes] == [
            "tests.routes.first",
            "mailrail.invitations.consumers.send_invite",
        ]
        assert found(plan, {}) == (first, {})

    @pytest.mark.parametrize("name", ["a_tuple", "a_single_route"])
    def test_a_tuple_or_a_single_route_will_do(self, configure: Any, name: str) -> None:
        configure(f"tests.routes.{name}")
        assert Routing.of_layer().plans.keys() & {"one", "alone"}

    @pytest.mark.parametrize(
        "path",
        ["no.such.routing", "tests.routes.missing", "tests.mistaken_routes_too.more_routing", "nodots", ""],
    )
    def test_a_routing_that_does_not_import_is_named_with_its_setting(
        self, configure: Any, path: str
    ) -> None:
        configure(path)
        where = rf"(?m)^CHANNEL_LAYERS\['default'\]\['CONFIG'\]\['routing'\] = {path!r} cannot be imported: "
        with pytest.raises(InvalidSettings, match=where):
            Routing.of_layer()

    @pytest.mark.parametrize("name", ["no_list", "a_dict", "a_list_of_pairs"])
    def test_what_is_no_list_of_routes_is_named_with_its_setting(self, configure: Any, name: str) -> None:
        configure(f"tests.routes.{name}")
        with pytest.raises(InvalidSettings, match=rf"\['routing'\] = 'tests.routes.{name}' must be a list"):
            Routing.of_layer()

    def test_each_layer_has_its_own(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {
            alias: {"BACKEND": MEMORY, "CONFIG": {"routing": f"tests.routes.{name}"}}
            for alias, name in (("default", "channel_routing"), ("second", "a_single_route"))
        }
        assert "one" in Routing.of_layer() and "one" not in Routing.of_layer("second")
        assert "alone" in Routing.of_layer("second") and "alone" not in Routing.of_layer("default")

    def test_atomic_depends_on_the_layer(self, configure: Any) -> None:
        configure("tests.routes.atomic", "mailrail.layers.DatabaseChannelLayer")
        assert "one" in Routing.of_layer()
        configure("tests.routes.atomic")
        with pytest.raises(InvalidSettings, match="atomic"):
            Routing.of_layer()


def no_argument() -> None: ...


def two_arguments(message: Any, user: Any) -> None: ...


def keyword_only(message: Any, *, user: Any) -> None: ...


def defaults(message: Any, user: Any = None, *, kind: str = "") -> None: ...


class Consumers:
    def method(self, message: Any) -> None: ...


class TestArgumentsOfConsumers:
    @pytest.mark.parametrize(
        "target", [no_argument, two_arguments, keyword_only, Consumers.method, lambda: None]
    )
    def test_one_that_cannot_take_a_message_is_refused(self, target: Any) -> None:
        with pytest.raises(
            TypeError, match=rf"^{re.escape(target.__qualname__)}\(.*cannot be called with one"
        ):
            route("a", target)

    @pytest.mark.parametrize(
        "target",
        [first, later, defaults, Consumers().method, print, functools.partial(two_arguments, user=1)],
    )
    def test_whatever_can_be_called_with_one_is_taken(self, target: Any) -> None:
        assert route("a", target).function is target

    def test_groups_of_filters_are_arguments(self) -> None:
        assert route("a", two_arguments, kind="^(?P<user>.*)$").function is two_arguments
        with pytest.raises(TypeError, match=r"keywords \(kind\): got an unexpected keyword argument 'kind'"):
            route("a", Consumers().method, kind="^(?P<kind>paid)$")

    def test_a_dotted_path_is_looked_at_by_the_check(self) -> None:
        with pytest.raises(
            InvalidSettings, match=r"^route\('a', 'tests.test_routing.no_argument'\): no_argument\(\)"
        ):
            Routing([route("a", "tests.test_routing.no_argument")])


class TestMiddleware:
    def test_the_first_one_named_is_outermost(self, settings: Any) -> None:
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.outer", "tests.routes.inner"]}
        route("a", first).consume("message", year="2026")
        assert [name for name, *_ in routes.called] == ["outer", "inner", "first"]
        assert {(message, tuple(arguments)) for _, message, arguments in routes.called} == {
            ("message", ("year",))
        }

    def test_the_consumer_itself_stays_bare(self, settings: Any) -> None:
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.outer"]}
        assert route("a", first).function is first

    def test_a_registered_consumer_follows_the_settings_of_a_test(self, settings: Any) -> None:
        consumer("wrapped")(first)
        made = Routing.of_layer().plans["wrapped"].routes[0]
        made.consume("bare")
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.outer"]}
        made.consume("wrapped")
        assert [name for name, *_ in routes.called] == ["first", "outer", "first"]


@pytest.mark.parametrize(("value", "limit"), [(5, 5.0), (None, None), (0, None), ("soon", None)])
def test_a_time_limit_may_be_a_function_of_the_message(value: Any, limit: float | None, caplog: Any) -> None:
    limited = route("one", first, timeout=lambda message: message["limit"])
    run = ConsumerRun(limited, [IncomingMessage(Message("one", {"limit": value}), limited)], {})
    assert run.limit is None
    run.ask_limit()
    assert run.limit == limit
    assert ("the limit of the settings applies" in caplog.text) == (value in (0, "soon"))
    with pytest.raises(ValueError, match="a batch has one limit"):
        route("one", first, timeout=lambda message: 1, batch=2)


def decided(value: Any) -> Any:
    def decide(message: IncomingMessage, error: TimeoutError) -> Any:
        assert "ran longer than its limit of 1 seconds" in str(error)
        if isinstance(value, Exception):
            raise value
        return value

    return decide


@pytest.mark.parametrize(
    ("value", "kind", "delay"),
    [
        (7, "retried", 7.0),
        (None, "buried", 0.0),
        (Discard("not worth it"), "discarded", 0.0),
        (ValueError("a bug"), "retried", 5.0),
        ("soon", "retried", 5.0),
    ],
)
def test_a_function_decides_what_becomes_of_a_message_at_its_time_limit(
    value: Any, kind: str, delay: float, caplog: Any
) -> None:
    limited = route("one", first, timeout=1, backoff=[5], on_timeout=decided(value))
    message = IncomingMessage(Message("one", {}, attempt=1), limited)
    ConsumerRun(limited, [message], {}).give_up()
    outcome = message.outcome
    assert outcome and (outcome.kind, outcome.delay, outcome.timed_out) == (kind, delay, True)
    assert ("the options of the route decide" in caplog.text) == (delay == 5.0)


def test_what_is_no_function_cannot_decide_at_a_time_limit() -> None:
    with pytest.raises(TypeError, match="on_timeout must be a function of a message and its TimeoutError"):
        route("one", first, on_timeout=5)  # type: ignore[arg-type]
