"""Serve the health pages without session, user and transaction. Under ASGI they run on a thread, as they may wait."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import connections, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..conf import settings
from .readiness import Readiness, Watch, look


def _look() -> Readiness:
    """Check readiness. Without a limit, only an unusable layer makes the site unready."""
    limit = settings.ready_oldest_due
    return look(limit=limit, workers=0 if limit is None else None, outages_from=limit)


watch = Watch(_look)


def _page(view: Any) -> Any:
    """Serve a page without login, cache and transaction: opening a transaction would need the database."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return login_not_required(never_cache(require_safe(view)))


@_page
def healthz(request: HttpRequest) -> JsonResponse:
    """Answer 200 whatever else is wrong: restarting this process would not help."""
    return JsonResponse({"alive": True})


@_page
def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 503 if the layer cannot be used, or work is late or a mailer out (``MAILRAIL["READY_OLDEST_DUE"]``)."""
    readiness = watch.ask()
    if readiness.is_ready:
        return JsonResponse({"ready": True})
    return JsonResponse({"ready": False, "reason": readiness.reason}, status=503)
