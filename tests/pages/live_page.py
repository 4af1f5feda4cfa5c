"""A live page that a test writes: what its server says, as the JSON that the page is drawn from."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.urls import include, path

AT = 1_796_050_800.0


def cell(text: object, state: str = "", **more: Any) -> dict[str, Any]:
    return {"t": str(text), **({"s": state} if state else {}), **more}


def row(key: str, state: str = "", *, actions: str = "", bar: Any = None, **cells: Any) -> dict[str, Any]:
    shown = {name: value if isinstance(value, dict) else cell(value) for name, value in cells.items()}
    made = {"key": key, "state": state, "cells": shown, "actions": actions.split()}
    return made if bar is None else {**made, "bar": bar}


def channel(name: str, state: str = "", *, actions: str = "pause", **cells: Any) -> dict[str, Any]:
    usual = {
        "ready": 0,
        "scheduled": 0,
        "claimed": 0,
        "dead": 0,
        "oldest": "",
        "sent": "",
        "done": "",
        "failed": "",
    }
    return row(f"default/{name}", state, actions=actions, **{"name": name, **usual, "note": "", **cells})


def section(*rows: dict[str, Any], empty: str = "There is nothing.", **more: Any) -> dict[str, Any]:
    return {"rows": list(rows), "empty": empty, "total": len(rows), "page": 1, "pages": 1, **more}


def worker(number: int, state: str = "", **cells: Any) -> dict[str, Any]:
    usual = {
        "name": f"web-{number}-41{number}",
        "host": f"web-{number}.internal",
        "pid": f"41{number}",
        "version": "1.0.0",
        "release": "2026.11.30",
        "seen": "2 s",
        "memory": "84.2 MB",
        "slots": "mailrail.mail.deliver for 3 s; tasks.reports for 41 s",
        "note": "",
    }
    return row(f"w{number}", state, **{**usual, **cells})


# fmt: off
def outage() -> dict[str, Any]:
    """A page in the middle of an outage of a mailer."""
    problems = [
        {
            "key": "mailer:default",
            "text": "Mailer default: Connection refused (smtp.example.com:587). 12,480 emails wait; next try 14:14.",
            "since": "14:02",
            "href": "#mail",
        },
        {
            "key": "workers",
            "text": "A worker has been silent for 38 s: web-3-413.",
            "since": "14:12",
            "href": "#workers",
        },
        {
            "key": "channel:import-photos",
            "text": "The oldest due message of import-photos has waited for 9 min.",
            "since": "14:04",
            "href": "",
        },
    ]
    return {
        "at": AT,
        "interval": 2,
        "health": {"state": "bad", "text": "3 things are wrong, since 14:02", "problems": problems},
        "sections": {
            "mail": section(
                row(
                    "default", "bad", actions="pause send_now requeue",
                    name="default", sent=cell("0", n=0), waiting=cell("≈12,480", "bad", n=12480),
                    reasons="outage ≈12,300; retry 180", failed=cell("7", "warn", n=7, h="#failed"),
                    oldest=cell("11 min", "bad"), pace="4 /s: rate", connections="0 of 8", left="52 min",
                    note=cell("Out since 14:02: Connection refused. “spare” stands in. Next try 14:14.", "bad"),
                ),
                row(
                    "spare", actions="pause", name="spare", sent=cell("118", n=118), waiting=cell("0", n=0),
                    reasons="", failed=cell("0", n=0), oldest="", pace="2 /s: limit of the server",
                    connections="2 of 2", left="", note="Stands in for “default”.",
                ),
            ),
            "channels": section(
                channel(
                    "import-photos", "bad", actions="pause requeue discard", ready=cell("≈1,200", "warn", n=1200),
                    claimed=4, dead=cell("31", "bad", n=31, h="#dead"), oldest=cell("9 min", "bad"),
                    sent=cell("240", n=240), done=cell("96", n=96), failed=cell("12", "bad", n=12),
                ),
                channel(
                    "send-invite", "warn", actions="resume requeue", ready=cell("512", n=512), oldest="3 min",
                    note="Paused since 14:10 by ada: the template has a wrong link",
                ),
                channel("crm-sync", "warn", ready=14, oldest="1 h", note=cell("No route: nobody consumes it", "warn")),
                channel("mailrail.mail.deliver", ready=3, claimed=8, scheduled=cell("≈12,480"), sent="640", done="118"),
                channel("tasks.default", claimed=2, scheduled=18, sent="31", done="31", failed="0.2"),
                channel("tasks.reports", claimed=1, sent="0.4", done="0.3"),
                empty="There are no channels yet.", total=1034, pages=21,
            ),
            "workers": section(
                worker(1), worker(2),
                worker(3, "bad", seen=cell("38 s", "bad"), note=cell("silent", "bad")),
                worker(4, "warn", release=cell("2026.11.28", "warn"), note=cell("other release", "warn")),
                empty="No worker has been seen. Start one: manage.py runworker",
            ),
            "work": section(
                row("i1", title=cell("Autumn newsletter", h="#list"), kind="invitation list", since="13:40",
                    progress="3,120 of 10,000", failed="14", bar={"done": 3120, "failed": 14, "total": 10000}),
                row("b1", title="Yearly reports", kind="batch", since="14:01",
                    progress="412 of 500", failed="0", bar={"done": 412, "failed": 0, "total": 500}),
                empty="No long work runs.",
            ),
            "troubles": section(
                row("t1", "bad", where="default", what="451 4.3.0 Temporary lookup failure, try again in #### s",
                    count="1,208", last="14:13", first="14:02", note="retried"),
                row("t2", where="import-photos", what="PIL.UnidentifiedImageError", count="43", last="14:12",
                    first="09:30", note=cell("31 dead", h="#dead")),
                empty="Nothing has gone wrong in the last day.",
            ),
            "operations": section(
                row("o1", title="Requeue dead messages of import-photos", by="ada", state="runs",
                    progress="6,200 of 10,000", bar={"done": 6200, "failed": 0, "total": 10000}),
                empty="Nobody has done anything here lately.",
            ),
        },
    }
# fmt: on


def well() -> dict[str, Any]:
    """A page of a site where nothing happens."""
    page = outage()
    page["health"] = {"state": "ok", "text": "All is well", "problems": []}
    empty = "No worker has been seen. Start one: manage.py runworker"
    page["sections"]["workers"] = section(empty=empty)
    page["sections"]["mail"]["rows"] = page["sections"]["mail"]["rows"][1:]
    page["sections"]["channels"]["rows"] = page["sections"]["channels"]["rows"][3:]
    for name in ("work", "troubles", "operations"):
        page["sections"][name]["rows"] = []
    return page


def lines(span: str) -> dict[str, Any]:
    """Lines with a gap, of the last hour, day or week."""
    length, step = {"hour": (3600, 60), "day": (86400, 900), "week": (604800, 3600)}[span]
    count = length // step
    wave = [math.sin(n / count * 9) + 1.2 + 0.15 * math.sin(n * 2.7) for n in range(count)]
    out = [0 if n > count * 0.8 else value for n, value in enumerate(wave)]
    seconds = [None if n > count * 0.8 else 0.02 + value / 20 for n, value in enumerate(wave)]
    return {
        "from": AT - length,
        "to": AT,
        "step": step,
        "lines": {
            "sent": [round(value * 300) for value in wave],
            "done": [round(value * 280) for value in out],
            "failed": [round(value * 6) if n > count * 0.75 else 0 for n, value in enumerate(wave)],
            "oldest": [max(1, (n - count * 0.8) * step) for n in range(count)],
            "start_p50": seconds,
            "start_p95": [None if value is None else value * 6 for value in seconds],
            "run_p50": [None if value is None else value * 2 for value in seconds],
            "run_p95": [None if value is None else value * 9 for value in seconds],
        },
    }


class Said:
    """What the server says from now on, and what it was asked."""

    def __init__(self) -> None:
        self.page = outage()
        self.status = 200
        self.asked: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.posted: list[dict[str, list[str]]] = []
        self.answer: tuple[int, dict[str, Any]] = (200, {"text": "Done.", "operation": None})
        self.live = ""


said = Said()


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "mailrail_dashboard/index.html", {"page": said.page, "live": said.live})


def data(request: HttpRequest) -> HttpResponseBase:
    said.asked.append(request.GET.dict())
    text = json.dumps(said.page)
    etag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
    status = said.status
    if status == 200 and request.headers.get("If-None-Match") == etag:
        status = 304
    said.statuses.append(status)
    body = text if status == 200 else "{}" if status != 304 else ""
    return HttpResponse(body, "application/json", status, headers={"ETag": etag})


def history(request: HttpRequest) -> HttpResponse:
    said.asked.append(request.GET.dict())
    return JsonResponse(lines(request.GET["span"]))


def actions(request: HttpRequest) -> HttpResponse:
    said.posted.append({key: request.POST.getlist(key) for key in request.POST})
    status, answer = said.answer
    return JsonResponse(answer, status=status)


pages = (
    [
        path("", index, name="index"),
        path("data/", data, name="data"),
        path("lines/", history, name="lines"),
        path("actions/", actions, name="actions"),
    ],
    "mailrail_dashboard",
)
urlpatterns = [path("live/", include(pages))]
