"""The record: one row per invitation, which says whom, by whom, and how far it got."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, pgettext
from django.utils.translation import gettext_lazy as _

from mailrail.conf import settings

from . import keys
from .addresses import normalise, validate_address


class InvitationManager(models.Manager["Invitation"]):
    """``Invitation.objects``."""

    def get_by_key(self, key: object) -> Invitation:
        """Return the invitation with this key.

        Raises ``Invitation.DoesNotExist`` for anything else whatsoever, and takes as long for an id that nobody
        has as for a forged key of somebody's.
        """
        if keys.is_well_formed(key):
            public_id = key[: keys.PUBLIC_ID_LENGTH]
            found = self.filter(public_id=public_id).first()
            invitation = found or self.model(public_id=public_id, email="nobody@example.com")
            if invitation.has_key(key) and found:
                return found
        raise self.model.DoesNotExist("No invitation has this key.")


class Invitation(models.Model):
    """Somebody invited somebody. ``key`` opens it; it is computed, never stored."""

    email = models.EmailField(_("email address"), validators=[validate_address])
    sender = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="mailrail_invitations",
        verbose_name=_("sender"),
    )
    created = models.DateTimeField(_("created"), auto_now_add=True)
    sent = models.DateTimeField(_("sent"), null=True, blank=True, editable=False)
    accepted_at = models.DateTimeField(_("accepted"), null=True, blank=True, editable=False)
    public_id = models.CharField(
        max_length=keys.PUBLIC_ID_LENGTH, unique=True, default=keys.new_public_id, editable=False
    )
    salt = models.CharField(max_length=keys.SALT_LENGTH, default=keys.new_salt, editable=False)
    generation = models.PositiveIntegerField(
        default=1, editable=False, help_text=_("Raise it to make every key sent so far useless.")
    )

    objects = InvitationManager()

    class Meta:
        verbose_name = _("invitation")
        verbose_name_plural = _("invitations")
        ordering = ("-pk",)

    def __str__(self) -> str:
        return gettext("%(sender)s invited %(email)s") % {"sender": self.sender, "email": self.email}

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, with the address as it is always stored (``addresses.normalise``)."""
        self.email = normalise(self.email)
        super().save(*args, **kwargs)

    @property
    def key(self) -> str:
        """The secret in the link: 48 letters, digits, ``-`` and ``_``. It changes with email and generation."""
        return keys.make_key(self.public_id, self.generation, self.email, self.salt)

    def has_key(self, key: str) -> bool:
        """Tell, in constant time, whether this is the key, under ``SECRET_KEY`` or one of its fallbacks."""
        return keys.is_key_of(key, self.public_id, self.generation, self.email, self.salt)

    @property
    def status(self) -> str:
        """How far it got, in a word for people."""
        if self.accepted_at:
            return pgettext("invitation", "accepted")
        return pgettext("invitation", "sent") if self.sent else pgettext("invitation", "waiting")

    def accept_path(self) -> str:
        """Return the path of the page where it is accepted, which holds the key: only the invited may see it.

        Not ``get_absolute_url``: the admin redirects every member of staff there, whatever their permissions
        (``/admin/r/…``).
        """
        return reverse("mailrail_invitations:accept", args=[self.key])

    def accept_url(self) -> str:
        """Return that page's address from outside, for email.

        The site is ``MAILRAIL["BASE_URL"]``, else the current one of ``django.contrib.sites``;
        ``ImproperlyConfigured`` if there is neither.
        """
        return _base_url().rstrip("/") + self.accept_path()

    def accept(self) -> bool:
        """Mark it accepted, unless it is already; return whether this call did it, of however many at once.

        Raises ``Invitation.DoesNotExist`` if it was deleted meanwhile.
        """
        now = timezone.now()
        waiting = Invitation.objects.using(self._state.db).filter(pk=self.pk, accepted_at=None)
        if waiting.update(accepted_at=now):
            self.accepted_at = now
            return True
        self.refresh_from_db(fields=["accepted_at"])
        return False


def _base_url() -> str:
    if settings.base_url:
        return settings.base_url
    if apps.is_installed("django.contrib.sites"):
        from django.contrib.sites.models import Site

        return f"https://{Site.objects.get_current().domain}"
    raise ImproperlyConfigured(
        'Links in email need to know where the site is: set MAILRAIL["BASE_URL"], for example '
        '"https://example.com", or put "django.contrib.sites" into INSTALLED_APPS.'
    )
