"""The forms: one invitation, or a pasted list of them. Saving sends a message for each on ``send-invite``."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from mailrail import Channel

from . import addresses
from .models import Invitation


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for the type checker
    """Invites one person. The view sets ``form.instance.sender`` before it saves."""

    class Meta:
        model = Invitation
        fields = ("email",)

    def clean_email(self) -> str:
        """Return the address as it is stored."""
        return addresses.normalise(self.cleaned_data["email"])

    def save(self, commit: bool = True) -> Any:
        """Save the invitation and send its message, both or neither, and return it.

        With ``commit=False`` nothing is saved and nothing sent: whoever saves the instance later sends it, too.
        """
        if not commit:
            return super().save(commit=False)
        database = router.db_for_write(Invitation, instance=self.instance)
        with transaction.atomic(using=database):
            invitation = super().save()
            Channel("send-invite").send({"id": invitation.pk}, using=database)
        return invitation


class BulkInvitationForm(forms.Form):
    """Invites everybody on a pasted list. Either the whole list is good, or nobody is invited."""

    max_addresses: ClassVar[int] = 10_000
    max_errors_shown: ClassVar[int] = 20

    addresses = forms.Field(
        label=_("Email addresses"),
        help_text=_("One per line; commas and semicolons separate them, too."),
        widget=forms.Textarea(attrs={"rows": 12, "autocomplete": "off", "spellcheck": "false"}),
    )

    def clean_addresses(self) -> list[str]:
        """Return the addresses as they are stored; an error names the line and what is wrong with it."""
        pasted = list(addresses.entries(str(self.cleaned_data["addresses"])))
        if not pasted:
            raise ValidationError(self.fields["addresses"].error_messages["required"], "required")
        if len(pasted) > self.max_addresses:
            raise ValidationError(
                _("These are %(count)d addresses; %(most)d can be invited at once."),
                code="too_many",
                params={"count": len(pasted), "most": self.max_addresses},
            )
        good, errors = addresses.read_list(pasted)
        if errors:
            raise ValidationError(self._first_few(errors))
        return good

    def _first_few(self, errors: list[ValidationError]) -> list[ValidationError]:
        shown, more = errors[: self.max_errors_shown], len(errors) - self.max_errors_shown
        if more > 0:
            text = ngettext(
                "…and %(count)d more line like these.", "…and %(count)d more lines like these.", more
            )
            shown.append(ValidationError(text, code="more", params={"count": more}))
        return shown

    def save(self, sender: AbstractBaseUser) -> list[Invitation]:
        """Save an invitation for each address and send their messages, all or none, and return them in order."""
        database = router.db_for_write(Invitation)
        with transaction.atomic(using=database):
            invitations = Invitation.objects.using(database).bulk_create(
                Invitation(email=email, sender=sender)  # type: ignore[misc]  # AUTH_USER_MODEL
                for email in self.cleaned_data["addresses"]
            )
            Channel("send-invite").send_many(({"id": it.pk} for it in invitations), using=database)
        return invitations
