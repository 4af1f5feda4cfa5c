"""Take the actions of the live page: who may, on what, and whether they are carried out at once or by a worker.

A small one is carried out in the request. All that a filter means is a record and a message on ``mailrail.operations``:
so it survives a restart, and the browser that asked for it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import IntegrityError, router, transaction
from django.http import HttpRequest, QueryDict
from django.utils import timezone
from django.utils.translation import gettext

from mailrail import Channel
from mailrail.log import logger_of
from mailrail.moments import from_timestamp
from mailrail.pauses import MAX_BY_LENGTH, MAX_REASON_LENGTH
from mailrail.storable import storable
from mailrail.terminal import single_line
from mailrail.transient import OUTAGES

from . import operation_runs
from .models import Operation
from .operation_targets import Refused, Units, units_of
from .operation_words import CHANNEL, outcome_of, title_of

logger = logger_of("mailrail.dashboard")

MOST_TRIES = 3
"""Tries to store a record, as the same operation may end just when the database has refused a second one."""


@dataclass(frozen=True, slots=True)
class ActionAnswer:
    """Tell the browser what was done, or is being done, or why not. ``operation``: the key of its row."""

    text: str
    status: int = 200
    operation: str | None = None


def act(request: HttpRequest) -> ActionAnswer:
    """Carry out the ``action`` of a form, or have a worker do so.

    ``target``: keys of rows of the ``section``; or ``scope=all``: all whose key contains ``q``. ``ids``: messages of
    one channel; without, all that ``error_class``, ``state`` or ``status`` mean are meant. ``at``: the moment of the
    numbers that were shown. ``reason``: why. ``form``: a text by which a form that is sent again is known.
    """
    form = request.POST
    try:
        if form.get("section") == "operations":
            return _cancel(form)
        units = units_of(form)
        if missing := [name for name in units.permissions if not request.user.has_perm(name)]:
            raise Refused(gettext("You have no permission to do this: %(name)s.") % {"name": missing[0]}, 403)
        return _take(request, units)
    except Refused as error:
        return ActionAnswer(str(error), error.status)


def _take(request: HttpRequest, units: Units) -> ActionAnswer:
    using = router.db_for_write(Operation)
    operation, is_new = _recorded(request, _operation(request, units), using)
    if not is_new:
        text = gettext("That is under way already, as %(name)s has asked for it.")
        return ActionAnswer(text % {"name": single_line(operation.by) or "?"}, operation=str(operation.pk))
    logger.info("%s by %s: %s", operation.action, operation.by, operation.reason or "no reason given")
    if not units.is_small:
        Channel(CHANNEL).send({"id": str(operation.pk)}, unique=True, using=using)
        return ActionAnswer(
            gettext("It has begun. How far it is stands under “Operations”."), operation=str(operation.pk)
        )
    try:
        operation_runs.run(operation.pk)
    except OUTAGES as error:  # whoever asked reads it now, and may ask again
        operation_runs.fail(operation.pk, error)
    operation.refresh_from_db(using=using)
    return ActionAnswer(outcome_of(operation), 400 if operation.error else 200, str(operation.pk))


def _operation(request: HttpRequest, units: Units) -> Operation:
    form = request.POST
    asked = json.dumps([form.get("action"), units.kind, sorted(map(json.dumps, units.units)), units.filters])
    return Operation(
        action=form["action"],
        kind=units.kind,
        units=units.units,
        filters=units.filters,
        until=_moment(form),
        user_id=str(request.user.pk),
        by=storable(request.user.get_username())[:MAX_BY_LENGTH],
        reason=storable(form.get("reason", "").strip())[:MAX_REASON_LENGTH],
        form=storable(form.get("form", ""))[:64],
        subject=hashlib.sha256(asked.encode()).hexdigest(),
        total=units.total,
    )


def _moment(form: QueryDict) -> Any:
    """Return the moment of the numbers that were shown, never one to come."""
    now = timezone.now()
    try:
        return min(from_timestamp(float(form.get("at", ""))), now)
    except (ValueError, OverflowError, OSError):
        return now


def _recorded(request: HttpRequest, operation: Operation, using: str) -> tuple[Operation, bool]:
    """Store the record of an operation, or return the one that is open, or that the same form has made.

    Without its entry in the admin's log, there is no record: reconciliation would carry it out. Raises
    ``IntegrityError`` where that log refuses the entry, such as that of an operator who was deleted meanwhile.
    """
    rows, tries = Operation.objects.using(using), 0
    while True:
        if operation.form and (same := rows.filter(form=operation.form).first()):
            return same, False
        try:
            with transaction.atomic(using):
                operation.save(using=using, force_insert=True)
                _log(request, operation)
            return operation, True
        except IntegrityError:
            if same := rows.filter(subject=operation.subject, ended_at=None).first():
                return same, False
            tries += 1
            if tries == MOST_TRIES:
                raise


def _cancel(form: QueryDict) -> ActionAnswer:
    if form.get("action") != "cancel":
        raise Refused(gettext("There is no such action."))
    try:
        is_cancelled = [
            operation_runs.cancel(UUID(key)) for key in form.getlist("target") or _open_ones(form)
        ]
    except ValueError:
        raise Refused(gettext("There is no such operation.")) from None
    if not any(is_cancelled):
        return ActionAnswer(gettext("It had ended already."))
    return ActionAnswer(gettext("Cancelled. What it has done stays done."))


def _open_ones(form: QueryDict) -> list[str]:
    rows = Operation.objects.using(router.db_for_write(Operation)).filter(ended_at=None)
    return [str(pk) for pk in rows.values_list("pk", flat=True)] if form.get("scope") == "all" else []


def _log(request: HttpRequest, operation: Operation) -> None:
    """Log who does what, to what, and why: once, however many messages there are, and none of their contents."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(Operation),
        object_id=str(operation.pk),
        object_repr=title_of(operation)[:200],
        action_flag=CHANGE,
        change_message=single_line(operation.reason),
    )
