"""The form of an entry that people make. What it may run is a choice of what code has marked with ``schedulable``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail.redaction import REDACTED, restored, without_hidden
from mailrail.storable import storable

from . import registry
from .checks import check_entry
from .choices import ALL, SKIP
from .definition import SHORTEST_S, Definition
from .enqueuing import bind_arguments, database, task_of
from .entries import definition_of
from .models import ScheduleEntry
from .times import Cron
from .zones import load_zone, zone_data

TASK, CHANNEL = "task", "channel"
_column: Any = ScheduleEntry._meta.get_field
QUEUE_AND_LANES = "mailrail.schedule.E004"
LONGEST_S = 366 * 24 * 3600
"""Seconds between two runs, and of ``jitter``, at most: as a form takes them."""


def target_choices() -> list[tuple[Any, Any]]:
    """Return what entries may run, as choices of a select: ``task:<path>`` and ``channel:<name>``."""
    groups = (
        (pgettext_lazy("schedule", "Tasks"), TASK, registry.schedulable_tasks()),
        (pgettext_lazy("schedule", "Channels"), CHANNEL, registry.schedulable_channels()),
    )
    named = [(label, [(f"{kind}:{name}", name) for name in names]) for label, kind, names in groups if names]
    return [("", "---------"), *named]


def target_of(entry: Any) -> str:
    """Return the choice for what a row or a definition runs."""
    if entry.task:
        return f"{TASK}:{entry.task}"
    return f"{CHANNEL}:{entry.channel}" if entry.channel else ""


class JsonField(forms.JSONField):
    """Show halves of surrogate pairs as JSON writes them, as no page can hold them otherwise."""

    def to_python(self, value: Any) -> Any:
        """Refuse numbers that are too long, and lists that are nested too deep, as Django's field does not."""
        try:
            read = super().to_python(value)
            deque(texts_of(read), maxlen=0)
        except (ValueError, RecursionError) as error:
            raise ValidationError(self.error_messages["invalid"], code="invalid") from error
        return read

    def prepare_value(self, value: Any) -> str:
        return str(super().prepare_value(value)).encode("utf-8", "backslashreplace").decode()


class ScheduleEntryForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for the type checker
    """Make and change an entry. Each mistake is shown at its field."""

    target = forms.ChoiceField(
        label=_("What it runs"),
        choices=target_choices,
        help_text=_("A task or a channel that code has marked with @schedulable."),
    )
    seconds = _column("seconds").formfield(
        min_value=SHORTEST_S, max_value=LONGEST_S, help_text=_("Instead of a cron expression.")
    )
    jitter = _column("jitter").formfield(min_value=0, max_value=LONGEST_S)

    class Meta:
        model = ScheduleEntry
        fields = (
            *("name", "cron", "zone", "seconds", "args", "kwargs", "content"),
            *("missed", "overlap", "jitter"),
        )
        field_classes: ClassVar = dict.fromkeys(("args", "kwargs", "content"), JsonField)

    _stored: Mapping[str, Any] = MappingProxyType({})
    """Values as they are stored; the form shows them without what nobody may see."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("target", target_of(self.instance))
        if not self.instance._state.adding:
            self._stored = {name: getattr(self.instance, name) for name in ("args", "kwargs", "content")}
            shown = without_hidden(("kwargs", "content"), {**self._stored, "task": self.instance.task})
            self.initial.update(shown)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise ValidationError(_("The name has characters that cannot be seen."))
        others = ScheduleEntry.objects.using(database()).filter(name=name).exclude(pk=self.instance.pk)
        if name in registry.definitions() or others.exists():
            raise ValidationError(_("The schedule has an entry of this name already."))
        return name

    def clean_cron(self) -> str:
        expression: str = self.cleaned_data["cron"]
        if expression:
            try:
                Cron(expression)
            except (ValueError, ImportError) as error:  # without the extra, there is no cronsim
                raise ValidationError(str(error)) from error
        return expression

    def clean_zone(self) -> str:
        zone: str = self.cleaned_data["zone"]
        if zone:
            try:
                load_zone(zone)
            except ValueError as error:
                data = next((str(data) for data in zone_data()), "")
                text = _("There is no time zone of this name in the data that is used: %(data)s.")
                raise ValidationError(text, params={"data": data}) from error
        return zone

    def clean_args(self) -> Any:
        return self._json("args", list, _("Arguments are a JSON list, such as [7]."))

    def clean_kwargs(self) -> Any:
        return self._json("kwargs", dict, _('Keyword arguments are a JSON object, such as {"year": 2026}.'))

    def clean_content(self) -> Any:
        return self._json("content", dict, _('The content is a JSON object, such as {"id": 7}.'))

    def _json(self, name: str, kind: type[Any], rule: Any) -> Any:
        """Return the JSON of a field; what is empty is an empty list or object."""
        value = self.cleaned_data[name]
        if value is None:
            return kind()
        value = restored(value, self._stored.get(name))
        if REDACTED in texts_of(value):
            text = _(
                "What nobody sees can stay only where it was. Write it again in the place of %(redacted)s."
            )
            raise ValidationError(text, params={"redacted": REDACTED})
        if not isinstance(value, kind):
            raise ValidationError(rule)
        if any(storable(text) != text for text in texts_of(value)):
            raise ValidationError(_("A text has a character that databases cannot store."))
        return value

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        kind, _colon, name = cleaned.get("target", "").partition(":")
        self.instance.task, self.instance.channel = (
            name if kind == wanted else "" for wanted in (TASK, CHANNEL)
        )
        self._check_times(cleaned)
        self._check_unused(cleaned, kind)
        if (cleaned.get("missed"), cleaned.get("overlap")) == (ALL, SKIP):
            text = _("To run each of the missed ticks, runs have to wait for the last one, or run beside it.")
            self.add_error("missed", text)
        return cleaned

    def _check_times(self, cleaned: Mapping[str, Any]) -> None:
        if {"cron", "seconds"} & self.errors.keys():
            return
        if cleaned["cron"] and cleaned["seconds"] is not None:
            self.add_error("seconds", _("Give a cron expression or seconds, not both."))
        elif not cleaned["cron"] and cleaned["seconds"] is None:
            self.add_error("cron", _("Give a cron expression or seconds."))
        elif cleaned["seconds"] is not None and cleaned.get("zone"):
            self.add_error("zone", _("Seconds are counted alike in all zones: leave this empty."))

    def _check_unused(self, cleaned: Mapping[str, Any], kind: str) -> None:
        """Refuse what the target does not take, as it would have no effect."""
        if kind == TASK and cleaned.get("content"):
            self.add_error("content", _("A task has arguments; leave the content empty."))
        if kind == CHANNEL and cleaned.get("args"):
            self.add_error("args", _("A message has content; leave the arguments empty."))
        if kind == CHANNEL and cleaned.get("kwargs"):
            self.add_error("kwargs", _("A message has content; leave the arguments empty."))

    def _post_clean(self) -> None:
        """Try out the entry, as only a whole one can be read."""
        super()._post_clean()  # type: ignore[misc]  # Django's stubs leave it out
        if self.errors:
            return
        try:
            definition = definition_of(self.instance, {})
        except (TypeError, ValueError, ImportError) as error:
            self.add_error(None, str(error))
            return
        if definition is not None:
            self._check_target(definition)

    def _check_target(self, definition: Definition) -> None:
        """Check what system checks do for entries of code, and that the task takes the arguments."""
        for message in check_entry(definition):
            self.add_error("overlap" if message.id == QUEUE_AND_LANES else "target", message.msg)
        if definition.task and not self.errors:
            try:
                bind_arguments(task_of(definition), definition)
            except TypeError as error:
                text = _("The task does not take these arguments: %(error)s.")
                self.add_error("args", ValidationError(text, params={"error": error}))


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts of a JSON value, keys too."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from texts_of(item)
        case dict():
            yield from value
            for item in value.values():
                yield from texts_of(item)
