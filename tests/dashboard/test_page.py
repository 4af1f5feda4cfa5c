"""What the live page says of facts, in the reader's language."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mailrail.dashboard.models import Operation
from mailrail.dashboard.operation_words import outcome_of
from mailrail.dashboard.page import Pages, build
from mailrail.dashboard.queries import MAX_PAGE, MAX_SEARCH_LENGTH, PageQuery
from mailrail.dashboard.viewers import OPERATE, SEE_ARGUMENTS
from mailrail.health import Problem
from mailrail.monitoring.channels import by_need
from mailrail.monitoring.facts import (
    ChannelFacts,
    Count,
    FlowFacts,
    Pause,
    SlotFacts,
    TroubleFacts,
    WorkerFacts,
    WorkFacts,
)

from .observed import HOSTILE, NOW, observed, viewer

FIRST = PageQuery()


def rows(
    section: str, *channels: ChannelFacts, of: Any = None, query: PageQuery = FIRST, **facts: Any
) -> Any:
    """Return the rows of a section, their cells as texts."""
    content = build(observed(*channels, **facts), of or viewer(), query).content
    return [
        {**row, "texts": {name: cell["t"] for name, cell in row["cells"].items()}}
        for row in content["sections"][section]["rows"]
    ]


@pytest.mark.parametrize(
    ("kind", "unknown"),
    [
        ("layer", {"channels", "workers", "troubles", "mail", "work", "operations"}),
        ("unknown", {"mail", "work", "operations"}),
        ("workers", set()),
    ],
)
def test_a_section_that_could_not_be_asked_for_does_not_say_that_it_has_nothing(
    kind: str, unknown: set[str]
) -> None:
    problems = (Problem("a", "a: b", NOW, kind),)
    sections = build(observed(problems=problems), viewer(), PageQuery()).content["sections"]
    assert {
        name for name, section in sections.items() if "cannot be found out" in section["empty"]
    } == unknown


# -- is it well? -------------------------------------------------------------------------------------------------------


def test_without_problems_all_is_well() -> None:
    health = build(observed(), viewer(), PageQuery()).content["health"]
    assert health == {"state": "ok", "text": "All is well", "problems": []}


def test_the_first_problem_is_told_in_one_line_with_its_beginning() -> None:
    problems = (
        Problem("an app's rule", "The till is empty", NOW - 3600, "till", "smtp"),
        Problem("a message is due", "a message on mails is due", NOW - 600, "channel", "mails"),
    )
    health = build(observed(problems=problems), viewer(), PageQuery()).content["health"]
    assert health["state"] == "bad"
    assert health["text"] == "The till is empty, since 13:46; and 1 more problem"
    assert [problem["key"] for problem in health["problems"]] == ["till:smtp", "channel:mails"]
    assert health["problems"][1]["text"] == "Channel mails: a message has been due for 10 min"


def test_a_problem_of_another_day_names_the_day() -> None:
    problems = (Problem("old", "old", NOW - 2 * 86400, "layer", "default"),)
    [problem] = build(observed(problems=problems), viewer(), PageQuery()).content["health"]["problems"]
    assert problem["since"] == "11/28/2026 14:46"


def test_the_page_speaks_the_language_of_its_reader() -> None:
    channel = ChannelFacts("default", "mails", pause=Pause(NOW, "ada", "audit"))
    [row] = rows("channels", channel, of=viewer(language="zh-hans"))
    health = build(observed(), viewer(language="zh-hans"), PageQuery()).content["health"]
    assert health["text"] == "一切正常"
    assert row["texts"]["note"] == "ada：自 14:46 起暂停：audit"


# -- channels ----------------------------------------------------------------------------------------------------------


def test_numbers_are_grouped_and_estimates_look_so() -> None:
    channel = ChannelFacts(
        "default", "mails", Count(1200, True), Count(1200), dead=Count(3), sent_per_minute=2.345
    )
    [row] = rows("channels", channel)
    assert (row["texts"]["ready"], row["texts"]["scheduled"], row["texts"]["dead"]) == (
        "≈1,200",
        "1,200",
        "3",
    )
    assert (row["texts"]["sent"], row["texts"]["done"]) == ("2.3", "")
    assert row["cells"]["ready"]["n"] == 1200 and row["cells"]["dead"]["s"] == row["state"] == "warn"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (2e5, "2 d")],
)
def test_a_duration_is_told_in_a_unit_that_it_fills_twice(seconds: float, text: str) -> None:
    [row] = rows("channels", ChannelFacts("default", "mails", oldest_due=seconds))
    assert row["texts"]["oldest"] == text


def test_a_channel_without_route_or_with_a_pause_says_so() -> None:
    lost = ChannelFacts("default", "lost", Count(1), is_routed=False)
    paused = ChannelFacts("default", "paused", pause=Pause(NOW - 60, "ada", "the audit"))
    found = rows("channels", lost, paused)
    assert found[0]["texts"]["note"] == "no route: nobody here consumes it"
    assert found[1]["texts"]["note"] == "paused since 14:45 by ada: the audit"


def test_a_thousand_channels_are_shown_in_pages_with_those_first_that_need_somebody() -> None:
    quiet = [ChannelFacts("default", f"quiet-{number:04}") for number in range(1034)]
    sick = ChannelFacts("default", "zzz", dead=Count(1))
    section = build(observed(*by_need([*quiet, sick])), viewer(), PageQuery()).content["sections"]["channels"]
    assert (section["total"], section["page"], section["pages"], len(section["rows"])) == (1035, 1, 21, 50)
    assert section["rows"][0]["key"] == "default/zzz"
    last = build(observed(*quiet), viewer(), PageQuery(page=99)).content["sections"]["channels"]
    assert (last["page"], len(last["rows"])) == (21, 34)


def test_a_search_finds_parts_of_names_and_says_when_there_is_none() -> None:
    channels = [ChannelFacts("default", name) for name in ("send-Invite", "reports")]
    assert [row["key"] for row in rows("channels", *channels, query=PageQuery("INV"))] == [
        "default/send-Invite"
    ]
    section = build(observed(*channels), viewer(), PageQuery("nope")).content["sections"]["channels"]
    assert (section["rows"], section["empty"]) == ([], "No channel has “nope” in its name.")
    assert section["q"] == "nope"


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ({}, PageQuery()),
        ({"q": " a ", "page": "3"}, PageQuery("a", 3)),
        ({"q": "x" * 999, "page": "-4"}, PageQuery("x" * MAX_SEARCH_LENGTH, 1)),
        ({"q": 7, "page": "none"}, PageQuery()),
        ({"q": None, "page": 10**30}, PageQuery("", MAX_PAGE)),
        ({"page": float("inf")}, PageQuery()),
        ({"page": ["2"]}, PageQuery()),
        ({"q": "a\ud800"}, PageQuery("a?")),
    ],
)
def test_whatever_a_browser_asks_for_is_a_query(parameters: dict[str, Any], query: PageQuery) -> None:
    assert PageQuery.read(parameters) == query


def test_actions_are_offered_to_those_who_may_carry_them_out() -> None:
    channel = ChannelFacts("default", "mails", Count(1), dead=Count(1))
    may_all = viewer(
        OPERATE, "mailrail.requeue_message", "mailrail.discard_message", "mailrail.cancel_message"
    )
    assert rows("channels", channel)[0]["actions"] == []
    assert rows("channels", channel, of=viewer("mailrail.requeue_message"))[0]["actions"] == []
    assert rows("channels", channel, of=viewer(OPERATE))[0]["actions"] == ["pause"]
    assert rows("channels", channel, of=may_all)[0]["actions"] == ["pause", "requeue", "discard", "cancel"]


# -- mail, workers, work, troubles -------------------------------------------------------------------------------------


def test_the_verdict_names_a_mailer_once_with_what_its_server_said() -> None:
    problem = Problem("", "mailer 'smtp' has been out for 660 s: 421 try later", NOW - 660, "mailer", "smtp")
    flow = FlowFacts("smtp", outage=Pause(NOW - 660, reason="421 try later"))
    health = build(observed(problems=(problem,), flows=[flow]), viewer(), FIRST).content["health"]
    assert health["text"] == "Mailer smtp is out: 421 try later, since 14:35"


def test_the_verdict_says_how_much_waits_for_a_mailer_that_is_out_and_when_it_is_tried_next() -> None:
    problem = Problem("", "mailer 'smtp' has been out for 660 s: 421 try later", NOW - 660, "mailer", "smtp")
    outage = Pause(NOW - 660, reason="421 try later")
    flow = FlowFacts("smtp", waiting={"outage": Count(4120, True), "time": Count(1)}, outage=outage)
    flow = replace(flow, next_probe_at=NOW + 30, stands_in="backup")
    health = build(observed(problems=(problem,), flows=[flow]), viewer(), FIRST).content["health"]
    more = "≈4,121 emails wait; next try at 14:47; backup stands in"
    assert health["text"] == f"Mailer smtp is out: 421 try later, since 14:35; {more}"
    assert health["problems"][0]["text"] == f"Mailer smtp is out: 421 try later; {more}"


@pytest.mark.parametrize(
    ("problem", "english", "chinese"),
    [
        (Problem("none", "none", kind="workers"), "No workers are running", "没有 worker 在运行"),
        (
            Problem("x", "x", NOW - 600, "email", "smtp"),
            "Mailer smtp: an email has been due for 10 min",
            "发信服务 smtp：一封邮件已到期 10 分钟",
        ),
        (
            Problem(
                "the layer 'default' cannot be used",
                "the layer 'default' cannot be used: refused",
                None,
                "layer",
                "a",
            ),
            "The layer a cannot be used: refused",
            "通道层 a 无法使用：refused",
        ),
        (
            Problem("no answer", "no answer", None, "layer", "a"),
            "The layer a does not answer",
            "通道层 a 没有响应",
        ),
    ],
)
def test_problems_are_told_in_the_language_of_the_reader(
    problem: Problem, english: str, chinese: str
) -> None:
    for language, text in (("en", english), ("zh-hans", chinese)):
        health = build(observed(problems=(problem,)), viewer(language=language), FIRST).content["health"]
        assert health["problems"][0]["text"] == text


def test_a_mailer_says_what_its_mail_waits_for() -> None:
    flow = FlowFacts(
        "smtp",
        waiting={"outage": Count(40), "time": Count(1200, True), "rate": Count(0)},
        pace=2.5,
        pace_reason="rate 150/m",
        connections=3,
        max_connections=4,
        outage=Pause(NOW - 660, reason="421 try later"),
        stands_in="backup",
        next_probe_at=NOW + 12,
        seconds_left=500,
    )
    [row] = rows("mail", flows=[flow])
    assert row["state"] == "bad"
    assert row["texts"]["waiting"] == "≈1,240"
    assert row["texts"]["reasons"] == "40 outage; ≈1,200 its time"
    assert (row["texts"]["pace"], row["texts"]["connections"]) == ("2.5 a second: rate 150/m", "3 / 4")
    assert row["texts"]["left"] == "8 min"
    assert row["texts"]["note"] == "out since 14:35: 421 try later; backup stands in; next try in 12 s"


def test_a_project_without_the_mail_queue_has_no_mail_on_its_page(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail.mail"]
    assert "mail" not in build(observed(), viewer(), PageQuery()).content["sections"]


def test_workers_say_what_they_do_and_which_are_silent_or_of_another_release() -> None:
    workers = [
        WorkerFacts(
            "a", "web1", 7, "1.0", "r2", age=3.0, threads=8, slots=(SlotFacts("mails", "id", NOW - 240),)
        ),
        WorkerFacts("b", release="r1", is_other_release=True, age=4.0, memory=50 * 1024**2),
        WorkerFacts("c", is_silent=True, age=17.0),
    ]
    found = rows("workers", workers=workers)
    assert [(row["key"], row["state"]) for row in found] == [
        ("default/c", "bad"),
        ("default/b", "warn"),
        ("default/a", ""),
    ]
    assert [row["texts"]["seen"] for row in found] == ["17 s ago", "just now", "just now"]
    assert found[1]["texts"]["memory"] == "50.0\xa0MB"
    assert found[2]["texts"]["slots"] == "1 of 8 busy; mails for 4 min"
    assert (found[2]["texts"]["host"], found[2]["texts"]["pid"]) == ("web1", "7")


def test_without_workers_the_page_says_how_to_start_one() -> None:
    section = build(observed(), viewer(), PageQuery()).content["sections"]["workers"]
    assert section["empty"] == "No worker has been seen. Start one: manage.py runworker"


def test_long_work_has_a_bar() -> None:
    work = WorkFacts(
        "invitations", "friends", "mailrail_invitations.Invitation", "7", Count(40), Count(2), Count(100)
    )
    [row] = rows("work", work=[work])
    assert row["texts"]["progress"] == "40 of 100"
    assert row["bar"] == {"done": 40, "failed": 2, "total": 100}


def test_no_problem_and_no_operation_names_an_address() -> None:
    problems = (Problem("a rule", "a rule: ada@example.com is away", kind="unknown"),)
    health = build(observed(problems=problems), viewer(), PageQuery()).content["health"]
    assert health["text"] == "a rule: … is away"
    assert outcome_of(Operation(error="KeyError: ada@example.com")) == "Failed after 0: KeyError: …"


def test_what_a_task_says_of_its_progress_is_for_those_who_may_see_arguments() -> None:
    work = WorkFacts("task", "shop.sync", "mailrail_tasks.taskrecord", "7", text="ada@example.com")
    [others], [may] = rows("work", work=[work]), rows("work", work=[work], of=viewer(SEE_ARGUMENTS))
    assert others["texts"]["title"] == "shop.sync"
    assert may["texts"]["title"] == "shop.sync: ada@example.com"


def test_troubles_lead_to_what_is_dead_and_to_what_waits() -> None:
    trouble = TroubleFacts("channel", "mails", "ValueError", 5, 2, NOW - 60, NOW)
    of = viewer("mailrail.view_storedmessage", "mailrail.view_buriedmessage")
    [row] = rows("troubles", of=of, troubles=[trouble])
    assert row["texts"]["note"] == "2 failed for good; 3 tried again"
    assert row["cells"]["where"]["h"] == "/admin/mailrail/storedmessage/?layer=default&channel=mails"
    assert (
        row["cells"]["what"]["h"]
        == "/admin/mailrail/buriedmessage/?layer=default&channel=mails&error=ValueError"
    )
    [row] = rows("troubles", troubles=[trouble])
    assert "h" not in row["cells"]["where"] and "h" not in row["cells"]["what"]


# -- as JSON -----------------------------------------------------------------------------------------------------------


def hostile() -> Any:
    return observed(
        ChannelFacts("default", HOSTILE, pause=Pause(NOW, HOSTILE, HOSTILE)),
        problems=(Problem("", HOSTILE, NOW, "mailer", HOSTILE),),
        workers=[WorkerFacts(HOSTILE, HOSTILE, release=HOSTILE, slots=(SlotFacts(HOSTILE, HOSTILE, NOW),))],
        flows=[
            FlowFacts(
                HOSTILE, outage=Pause(NOW, reason=HOSTILE), stands_in=HOSTILE, pace=1, pace_reason=HOSTILE
            )
        ],
        work=[WorkFacts(HOSTILE, HOSTILE, "a.B", HOSTILE)],
        troubles=[TroubleFacts("mailer", HOSTILE, HOSTILE, 1, 1, NOW, NOW)],
    )


def test_nothing_that_others_wrote_steers_a_terminal_or_hides() -> None:
    page = build(hostile(), viewer(), PageQuery())
    texts = [
        cell["t"] + cell.get("i", "")
        for section in page.content["sections"].values()
        for row in section["rows"]
        for cell in row["cells"].values()
    ]
    assert sum("onerror" in text for text in texts) >= 10
    assert not any("\u202e" in text or "\x1b" in text for text in [*texts, page.content["health"]["text"]])


def test_the_json_is_the_page() -> None:
    page = build(hostile(), viewer(), PageQuery())
    assert json.loads(page.body) == json.loads(json.dumps(page.content))


def test_a_page_whose_moment_alone_has_changed_has_the_same_tag() -> None:
    before, after = observed(), observed()
    object.__setattr__(after[0], "at", NOW + 1)
    assert build(before, viewer(), PageQuery()).etag == build(after, viewer(), PageQuery()).etag
    assert (
        build(before, viewer(language="zh-hans"), PageQuery()).etag
        != build(before, viewer(), PageQuery()).etag
    )


def test_equal_viewers_share_a_page_and_others_do_not() -> None:
    pages, samples = Pages(), observed()
    first = pages.get(samples, viewer(), PageQuery())
    assert pages.get(samples, viewer(), PageQuery()) is first
    assert pages.get(samples, viewer(OPERATE), PageQuery()) is not first
    assert pages.get(observed(), viewer(), PageQuery()) is not first
