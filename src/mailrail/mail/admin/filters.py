"""The filters of the list of emails. None of them asks the table which values there are."""

from __future__ import annotations

import json
from typing import Any

from django.db import connections, models
from django.db.models import Q, QuerySet
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import pgettext_lazy

from mailrail.keyset_admin import Filter, WordFilter, few_of

from ..mailers.config import UNNAMED, delivering
from ..models import Email, MailerState, Status
from .translations import DEFERRED, WORDS


class EmailStatusFilter(Filter):
    """By an index in the order of the list; those that wait for their next attempt are looked for among the queued."""

    title = pgettext_lazy("email", "status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        queued, *others = Status.choices
        return [queued, (DEFERRED, WORDS[DEFERRED]), *others]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        self.is_windowed = self.value() == DEFERRED
        if self.is_windowed:
            return queryset.filter(status=Status.QUEUED, next_try_at__gt=timezone.now())
        return queryset.filter(status=self.value()) if self.value() in Status.values else queryset


class MailerFilter(Filter):
    """Filter by the mailers that the settings name, and those that are paused."""

    title = pgettext_lazy("email", "mailer")
    parameter_name = "mailer"
    is_windowed = True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        aliases = {*delivering(), *MailerState.objects.values_list("pk", flat=True)}
        if self.value() is not None:
            aliases.add(str(self.value()))
        return [(alias, alias or pgettext_lazy("email", "default")) for alias in sorted(aliases)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset if self.value() is None else queryset.filter(mailer=self.value() or UNNAMED)


class TagFilter(WordFilter):
    """Filter emails by a tag."""

    title = pgettext_lazy("email", "tag")
    parameter_name = "tag"
    is_windowed = True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        if connections[queryset.db].vendor == "postgresql":
            return queryset.filter(tags__contains=[self.value()])
        as_text: QuerySet[Any] = queryset.annotate(tags_text=Cast("tags", models.TextField()))
        return as_text.filter(tags_text__contains=json.dumps(self.value()))


class AboutFilter(WordFilter):
    """Filter emails by their related object, with an index that does not know their order."""

    title = pgettext_lazy("email", "object")
    parameter_name = "about"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        condition = Q(related_object=self.value())
        ids = few_of(Email.objects.using(queryset.db).filter(condition))
        self.is_windowed = ids is None
        return queryset.filter(condition if ids is None else Q(pk__in=ids))
