"""``{% mailrail_progress object %}``: what it shows of any object, and what it says of one that tells nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.template import Context, Template
from django.utils.html import strip_tags
from django.utils.translation import override

from mailrail.monitoring import FailedItem, WorkProgress

from .processes import ROOT


def shown(value: Any, arguments: str = "", **context: Any) -> str:
    template = Template(f"{{% load mailrail %}}{{% mailrail_progress value {arguments} %}}")
    return template.render(Context({"value": value, **context}))


def words(html: str) -> str:
    visible = re.sub(r"<(\w+)[^>]* hidden>.*?</\1>|<noscript>.*?</noscript>", "", html, flags=re.DOTALL)
    return " ".join(strip_tags(visible).split())


class Import:
    def mailrail_progress(self) -> WorkProgress:
        return WorkProgress(40, 100, 2, [FailedItem("row 7", "no price", "/rows/7/")])


def test_any_object_shows_what_is_done_failed_and_waiting() -> None:
    html = shown(Import(), 'label="Rows"')
    assert words(html) == (
        "Rows: 40 of 100 · 2 failed · 58 waiting At least 25 percent are done What has failed "
        "row 7: no price …and 1 more"
    )
    assert 'role="progressbar"' in html and 'aria-valuenow="42"' in html
    assert '<a href="/rows/7/">row 7</a>' in html
    assert 'width="40.00"' in html and 'x="40.00" width="2.00"' in html


@pytest.mark.parametrize(
    ("progress", "text", "state"),
    [
        (WorkProgress(0, 8), "Done: 0 of 8 · 8 waiting", "open"),
        (WorkProgress(8, 8), "Done: 8 of 8 It has ended.", "over"),
        (WorkProgress(6, 8, 2), "Done: 6 of 8 · 2 failed It has ended: 2 failed.", "over"),
        (WorkProgress(3, 8, is_over=True), "Done: 3 of 8 It has ended.", "over"),
        (WorkProgress(12345, text="reading"), "Done: 12,345 reading", "open"),
        (WorkProgress(1.5, 3.25), "Done: 1.50 of 3.25 · 1.75 waiting At least 25 percent are done", "open"),
        (WorkProgress(9, 8), "Done: 9 of 8 It has ended.", "over"),
        (WorkProgress(0, 0), "Done: 0 of 0 It has ended.", "over"),
    ],
)
def test_a_progress_says_how_far_it_is_and_whether_more_is_to_come(
    progress: WorkProgress, text: str, state: str
) -> None:
    html = shown(progress)
    assert words(html) == text
    assert f'data-state="{state}"' in html
    assert ("Look again" in html) == (state == "open")


def test_where_nobody_knows_how_much_there_is_the_bar_has_no_value() -> None:
    assert "aria-valuenow" not in shown(WorkProgress(7))


def test_a_number_is_written_as_the_reader_does_and_widths_are_not() -> None:
    with override("de"):
        html = shown(WorkProgress(1234.5, 5000))
    assert "1.234,50 of 5.000" in html
    assert 'width="24.69"' in html


def test_several_on_a_page_load_the_script_once_and_have_ids_of_their_own() -> None:
    loop = "{% load mailrail %}{% for each in all %}{% mailrail_progress each %}{% endfor %}"
    template = Template(loop + '{% mailrail_progress all.0 id="x" %}')
    html = template.render(Context({"all": [WorkProgress(1, 2), WorkProgress(1, 3)]}))
    assert html.count("<script") == html.count("<link") == 1
    assert re.findall(r'class="mailrail-progress" id="([^"]+)"', html) == [
        "mailrail-progress-1",
        "mailrail-progress-2",
        "x",
    ]


def test_a_nonce_of_the_page_is_on_its_script_and_its_style() -> None:
    assert shown(WorkProgress(1, 2), csp_nonce="n0nce").count('nonce="n0nce"') == 2
    assert "nonce" not in shown(WorkProgress(1, 2))


def test_names_and_reasons_are_text() -> None:
    html = shown(
        WorkProgress(0, 1, 1, [FailedItem("<script>", "<b>", "/a?b=1&c=2")], text="<i>"),
        "label=label",
        label="<u>",
    )
    assert re.findall(r"<script>|<b>:|<i>|<u>", html.replace("<b></b>", "")) == []
    assert "&lt;script&gt;" in html and "/a?b=1&amp;c=2" in html


class TellsNothing:
    def mailrail_progress(self) -> str:
        return "half"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "cannot show ''. Give it an object whose method mailrail_progress()"),
        (7, "cannot show 7."),
        (TellsNothing(), "TellsNothing object at .* returned 'half'"),
    ],
)
def test_an_object_that_tells_no_progress_is_named(value: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said.replace("(", r"\(").replace(")", r"\)")):
        shown(value)


@pytest.mark.parametrize(
    "values", [{"done": -1}, {"done": float("nan")}, {"done": 1, "total": "2"}, {"done": 1, "failed": None}]
)
def test_a_number_that_is_none_is_refused_by_its_name(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"WorkProgress: \w+ must be a number, 0 or more, not"):
        WorkProgress(**values)


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", " JavaScript:alert(1)", "java\nscript:1", "data:text/html,1"]
)
def test_a_link_that_is_no_page_is_refused(url: str) -> None:
    with pytest.raises(
        ValueError, match=r"FailedItem: url must be that of a page, such as get_absolute_url\(\), not"
    ):
        WorkProgress(done=1, failures=[FailedItem("row 1", "no price", url)])
    pages = [FailedItem("1", url="/a/?b=c:d"), FailedItem("2", url="https://example.com")]
    assert WorkProgress(done=1, failures=pages).failures == pages


def test_the_example_of_the_how_to_shows_its_rows() -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/progress.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(example, names)
    rows = [
        {"name": "row 1", "done": True, "error": ""},
        {"name": "row 2", "done": False, "error": "no price"},
        {"name": "row 3", "done": False, "error": ""},
    ]
    assert words(shown(names["Import"](rows))) == (
        "Done: 1 of 3 · 1 failed · 1 waiting At least 50 percent are done What has failed row 2: no price"
    )
