"""Invite one person, or a list of them, with forms."""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar

from django import forms
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import router
from django.template.defaultfilters import filesizeformat
from django.utils.functional import lazy
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail import Channel
from mailrail.write_transactions import write_transaction

from . import addresses, bulk
from .limits import check_limits
from .models import Invitation, InvitationBatch, every_invitation
from .rights import check_rights
from .tables import file_entries
from .workbooks import can_read_workbooks


class AddressField(forms.EmailField):
    """Accept an address as people paste it: with a name, in brackets, in full width."""

    # Browsers reject such texts in a field of type email, so it is a text field.
    widget = forms.TextInput(attrs={"inputmode": "email"})

    def to_python(self, value: Any) -> Any:
        """Return the address in the text, or the text itself if it is ambiguous."""
        text = super().to_python(value)
        return addresses.understand(text) if isinstance(text, str) else text

    def run_validators(self, value: Any) -> None:
        """Run ``validate_address`` only: it finds what Django's validator finds, with a better reason."""
        if value not in self.empty_values:
            addresses.validate_address(value)


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for the type checker
    """Invite one person. The view sets ``form.instance.sender`` before it saves."""

    class Meta:
        model = Invitation
        fields = ("email", "message")
        field_classes: ClassVar = {"email": AddressField}
        widgets: ClassVar = {
            "email": forms.TextInput(  # not of type email: a browser would reject names around the address
                attrs={"autocomplete": "off", "inputmode": "email", "spellcheck": "false"}
            ),
            "message": forms.Textarea(attrs={"rows": 4}),
        }

    def save(self, commit: bool = True) -> Any:
        """Save the invitation and send its message, both or neither, and return it.

        With ``commit=False`` nothing is saved or sent: the caller saves the instance and sends its message later.
        Raises ``SenderRefused`` and ``RecipientRefused``.
        """
        if not commit:
            return super().save(commit=False)
        database = router.db_for_write(type(self.instance), instance=self.instance)
        with write_transaction(database):
            self._check(database)
            invitation = super().save()
            Channel("send-invite").send({"id": invitation.pk}, unique=True, using=database)
        return invitation

    def _check(self, database: str) -> None:
        if self.is_valid() and self.instance.sender_id is not None:  # otherwise save() raises
            check_rights(self.instance.sender, self.instance)
            check_limits(every_invitation(database), self.instance.sender, [self.cleaned_data["email"]])


def _file_label() -> str:
    return (
        gettext("Or a CSV file or a workbook (.xlsx)") if can_read_workbooks() else gettext("Or a CSV file")
    )


def _file_types() -> str:
    return ".csv,.txt,.tsv,text/csv,.xlsx" if can_read_workbooks() else ".csv,.txt,.tsv,text/csv"


class BulkInvitationForm(forms.Form):
    """Read addresses, pasted or in a CSV file or workbook. Saving stores them for a preview and invites nobody."""

    max_addresses: ClassVar[int] = bulk.MAX_ADDRESSES

    addresses = forms.Field(
        label=pgettext_lazy("invitation", "Email addresses"),
        help_text=_("One per line, or separated by commas or semicolons; with names or without."),
        widget=forms.Textarea(attrs={"rows": 12, "autocomplete": "off", "spellcheck": "false"}),
        required=False,
    )
    file = forms.FileField(
        label=lazy(_file_label, str)(),
        help_text=_(
            "If there are several columns, the one headed “email” is read, or else the one with the most addresses."
        ),
        widget=forms.FileInput(attrs={"accept": lazy(_file_types, str)()}),
        required=False,
    )
    message = forms.CharField(
        label=pgettext_lazy("invitation", "Message"),
        help_text=_("A few words of your own, for the email."),
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 4}),
        required=False,
    )

    def clean(self) -> dict[str, Any]:
        """Add ``entries``: those of the list, line by line, valid or not."""
        data = super().clean() or self.cleaned_data
        if self.errors:
            return data
        pasted, file = str(data.get("addresses") or ""), data.get("file")
        if file and pasted.strip():
            raise ValidationError(_("Paste the addresses or choose a file, not both."), "both")
        if file and file.size > bulk.MAX_FILE_BYTES:
            most = filesizeformat(bulk.MAX_FILE_BYTES)
            raise ValidationError(_("The file is larger than %(most)s."), "large", {"most": most})
        field = "file" if file else "addresses"
        try:
            all_entries = file_entries(file.read()) if file else addresses.entries(pasted)
            entries = list(islice(all_entries, self.max_addresses + 1))
            self._check_count(len(entries) + sum(1 for _more in all_entries))
        except ValidationError as error:
            self.add_error(field, error)
        else:
            data["entries"] = entries
        return data

    def _check_count(self, count: int) -> None:
        if not count:
            raise ValidationError(self.fields["addresses"].error_messages["required"], "required")
        if count > self.max_addresses:
            raise ValidationError(
                _("There are %(count)d addresses; %(most)d can be invited at once."),
                code="too_many",
                params={"count": count, "most": self.max_addresses},
            )

    def save(self, sender: AbstractBaseUser) -> InvitationBatch:
        """Sort the list out and store it; ``bulk.confirm`` invites."""
        return bulk.draft(self.cleaned_data["entries"], sender, self.cleaned_data["message"])
