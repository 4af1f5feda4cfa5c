"""Store invitations: one row each, with recipient, sender and status times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Self

from django.apps import apps
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models, router, transaction
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import get_language, gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail import uuid7
from mailrail.addresses import spellings
from mailrail.conf import settings
from mailrail.moments import MomentField, from_now, seconds_between
from mailrail.monitoring.progress import WorkProgress
from mailrail.namespace import OwnRows, current, namespace_field

from . import keys
from .addresses import normalise, validate_address
from .links import base_url
from .progress import progress_of
from .signals import invitation_accepted, invitation_revoked

MAX_LANGUAGE_LENGTH = 35  # RFC 5646, 4.4.1
PAGE_SIZE = 200
"""Addresses of one query: statements of old SQLite versions may have 999 values."""


def default_expiry() -> datetime | None:
    """Return when an invitation made now expires."""
    lifetime = settings.invitation_lifetime
    return None if lifetime is None else from_now(lifetime)


def current_language() -> str:
    """Return the active language (in a request, the user's), or an empty string if none is active."""
    return get_language() or ""


class InvitationStatus(models.TextChoices):
    """Name the status of an invitation. It is computed from its times, never stored."""

    WAITING = "waiting", pgettext_lazy("invitation", "waiting")
    SENT = "sent", pgettext_lazy("invitation", "sent")
    ACCEPTED = "accepted", pgettext_lazy("invitation", "accepted")
    REVOKED = "revoked", pgettext_lazy("invitation", "revoked")
    EXPIRED = "expired", pgettext_lazy("invitation", "expired")


class InvitationQuerySet(models.QuerySet[Any]):
    """Query invitations by key, status and mailbox."""

    def get_by_key(self, key: object) -> Any:
        """Return the invitation with this key, whatever its status.

        Raises ``DoesNotExist`` for anything else. An unknown id takes as long as a forged key of a known one.
        """
        if keys.is_well_formed(key):
            public_id = key[: keys.PUBLIC_ID_LENGTH]
            row = self.filter(public_id=public_id).first()
            invitation = row or self.model(public_id=public_id, email="nobody@example.com")
            if invitation.has_key(key) and row:
                return row
        raise self.model.DoesNotExist("No invitation has this key.")

    def was_key(self, key: object) -> bool:
        """Tell whether this was the key of an invitation before it was sent again with a new one."""
        if not keys.is_well_formed(key):
            return False
        row = self.filter(public_id=key[: keys.PUBLIC_ID_LENGTH]).first()
        return row is not None and row.had_key(key)

    def with_status(self, status: str) -> Self:
        """Return the invitations of this status."""
        undecided: dict[str, Any] = {"accepted_at": None, "revoked_at": None}
        now = timezone.now()
        if status == InvitationStatus.ACCEPTED:
            return self.filter(accepted_at__isnull=False)
        if status == InvitationStatus.REVOKED:
            return self.filter(revoked_at__isnull=False)
        if status == InvitationStatus.EXPIRED:
            return self.filter(**undecided, expires_at__lte=now)
        still_good = self.filter(models.Q(expires_at=None) | models.Q(expires_at__gt=now), **undecided)
        return still_good.filter(sent__isnull=status == InvitationStatus.WAITING)

    def to_mailboxes(self, addresses: Iterable[str]) -> Self:
        """Return the invitations to these addresses in any spelling; pass at most ``PAGE_SIZE`` addresses."""
        written = [spelling for address in addresses for spelling in spellings(address)]
        return self.annotate(mailbox=Lower("email")).filter(mailbox__in=written)


class InvitationManager(OwnRows.from_queryset(InvitationQuerySet)):  # type: ignore[misc]  # made at run time
    """Manage ``Invitation.objects``: the invitations of this project's namespace."""


class InvitationBatch(models.Model):
    """Store a list of addresses until its sender confirms it, and its totals afterwards."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    sender = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="+",
        verbose_name=pgettext_lazy("invitation", "sender"),
    )
    created = MomentField(pgettext_lazy("when an invitation was", "created"), default=timezone.now)
    confirmed_at = MomentField(
        pgettext_lazy("when an invitation was", "confirmed"), null=True, db_default=None
    )
    message = models.TextField(pgettext_lazy("invitation", "message"), blank=True, default="", db_default="")
    addresses = models.JSONField(pgettext_lazy("invitation", "email addresses"), default=list, db_default=[])
    """The addresses to invite; empty after the confirmation."""
    total = models.PositiveIntegerField(_("how many"), default=0, db_default=0)
    understood = models.JSONField(default=list, db_default=[])
    """The first addresses that differ from the text written, as fields of ``addresses.Reading``."""
    understood_count = models.PositiveIntegerField(default=0, db_default=0)
    problems = models.JSONField(default=list, db_default=[])
    """The first lines that invite nobody, as fields of ``addresses.LineProblem``."""
    problem_count = models.PositiveIntegerField(default=0, db_default=0)
    namespace = namespace_field()

    objects: ClassVar[models.Manager[InvitationBatch]] = OwnRows()

    class Meta:
        verbose_name = _("list of invitations")
        verbose_name_plural = _("lists of invitations")

    def __str__(self) -> str:
        return str(self.id)

    def mailrail_progress(self) -> WorkProgress:
        """Return how far its mailing is, for ``{% mailrail_progress batch %}``."""
        return progress_of(written_invitations().filter(batch_id=self.pk))


class AbstractInvitation(models.Model):
    """Store an invitation. Its ``key`` opens it, and is computed, never stored.

    Subclass it for fields of your own, with ``indexes = invitation_indexes("yourapp")`` in its ``Meta``, and name the
    subclass in ``MAILRAIL["INVITATION_MODEL"]``.
    """

    email = models.EmailField(pgettext_lazy("invitation", "email address"), validators=[validate_address])
    sender = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="%(app_label)s_%(class)ss",
        verbose_name=pgettext_lazy("invitation", "sender"),
    )
    created = MomentField(pgettext_lazy("when an invitation was", "created"), auto_now_add=True)
    sent = MomentField(pgettext_lazy("when an invitation was", "sent"), null=True, blank=True, editable=False)
    accepted_at = MomentField(
        pgettext_lazy("when an invitation was", "accepted"), null=True, blank=True, editable=False
    )
    accepted_by = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        related_name="%(app_label)s_%(class)ss_accepted",
        verbose_name=_("accepted by"),
        null=True,
        blank=True,
        editable=False,
        db_default=None,
    )
    revoked_at = MomentField(
        pgettext_lazy("when an invitation was", "revoked"), null=True, blank=True, editable=False,
        db_default=None,
    )  # fmt: skip
    expires_at = MomentField(
        pgettext_lazy("invitation", "expires"), null=True, blank=True, default=default_expiry, db_default=None,
        help_text=_("Empty: never."),
    )  # fmt: skip
    message = models.TextField(
        pgettext_lazy("invitation", "message"), max_length=2000, blank=True, default="", db_default="",
        help_text=_("A few words of your own, for the email."),
    )  # fmt: skip
    role = models.CharField(
        pgettext_lazy("invitation", "role"), max_length=100, blank=True, default="", db_default="",
        help_text=_("The role of the invited person, in your project's terms."),
    )  # fmt: skip
    payload = models.JSONField(
        pgettext_lazy("invitation", "payload"), default=dict, blank=True, db_default={}
    )
    language = models.CharField(
        pgettext_lazy("invitation", "language"), max_length=MAX_LANGUAGE_LENGTH, blank=True,
        default=current_language, db_default="",
        help_text=_("Of the email, for example “zh-hans”. Empty: that of the site."),
    )  # fmt: skip
    batch = models.ForeignKey(
        InvitationBatch, on_delete=models.SET_NULL, related_name="+", null=True, blank=True, editable=False,
        db_default=None,
    )  # fmt: skip
    failed_at = MomentField(null=True, editable=False, db_default=None)
    """When its message was buried, so that nobody mails it before somebody requeues that; empty: it was not."""
    public_id = models.CharField(
        max_length=keys.PUBLIC_ID_LENGTH, unique=True, default=keys.new_public_id, editable=False
    )
    salt = models.CharField(max_length=keys.SALT_LENGTH, default=keys.new_salt, editable=False)
    generation = models.PositiveIntegerField(
        default=1, editable=False, help_text=_("Increase it to invalidate every key sent so far.")
    )
    queued_at = MomentField(default=timezone.now, null=True, editable=False, db_default=None)
    """When the invitation was last queued for the worker; quotas count by this time."""
    mails = models.PositiveIntegerField(default=1, editable=False, db_default=1)
    """Emails queued for the invitation up to ``queued_at``, each within 24 hours of the one before."""

    namespace = namespace_field()

    objects = InvitationManager()

    class Meta:
        abstract = True
        verbose_name = pgettext_lazy("invitation", "invitation")
        verbose_name_plural = pgettext_lazy("invitation", "invitations")
        ordering = ("-pk",)
        default_permissions = ("add", "change", "delete", "view", "resend", "revoke")

    def __str__(self) -> str:
        return gettext("%(sender)s invited %(email)s") % {"sender": self.sender, "email": self.email}

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the invitation with its address normalized (``addresses.normalise``)."""
        self.email = normalise(self.email)
        super().save(*args, **kwargs)

    @property
    def sender_name(self) -> str:
        """Return the sender's full name, or else the username, on one line, for the guest."""
        full = getattr(self.sender, "get_full_name", str)()
        return " ".join((full or "").split()) or str(self.sender)

    @property
    def key(self) -> str:
        """Return the secret in the link: 48 letters, digits, ``-`` and ``_``. It changes with email and generation."""
        return keys.make_key(self.public_id, self.generation, self.email, self.salt)

    def has_key(self, key: str) -> bool:
        """Tell, in constant time, whether this is the key under ``SECRET_KEY`` or one of its fallbacks."""
        return keys.is_key_of(key, self.public_id, self.generation, self.email, self.salt)

    def had_key(self, key: str) -> bool:
        """Tell whether this was the key of one of the ten generations before."""
        before = range(max(1, self.generation - 10), self.generation)
        return any(keys.is_key_of(key, self.public_id, n, self.email, self.salt) for n in before)

    @property
    def content(self) -> dict[str, Any]:
        """Return the content for ``send-invite``: ``{"id": …}``, with the generation from the second one on.

        So a new generation has a message of its own, which does not wait for the end of an earlier one.
        """
        return {"id": self.pk} if self.generation == 1 else {"id": self.pk, "generation": self.generation}

    @property
    def status(self) -> InvitationStatus:
        """Return the status; ``status.label`` is its translated label."""
        if self.accepted_at:
            return InvitationStatus.ACCEPTED
        if self.revoked_at:
            return InvitationStatus.REVOKED
        if self.expires_at and seconds_between(self.expires_at, timezone.now()) >= 0:
            return InvitationStatus.EXPIRED
        return InvitationStatus.SENT if self.sent else InvitationStatus.WAITING

    @property
    def is_open(self) -> bool:
        """Tell whether the invitation can be accepted."""
        return self.status in (InvitationStatus.WAITING, InvitationStatus.SENT)

    def accept_path(self) -> str:
        """Return the path of the accept page. It holds the key, so only the invited person may see it.

        It is not ``get_absolute_url``, because the admin redirects every member of staff there, whatever their
        permissions (``/admin/r/…``).
        """
        return reverse("mailrail_invitations:accept", args=[self.key])

    def accept_url(self) -> str:
        """Return the absolute URL of the accept page, for email (see ``links.base_url``)."""
        return base_url() + self.accept_path()

    def accept(self, user: Any = None) -> bool:
        """Mark an open invitation as accepted by this user; return whether this call did it, if several run at once.

        ``invitation_accepted`` is sent in the same transaction. The user's right is not checked here. Raises
        ``DoesNotExist`` if the invitation was deleted meanwhile.
        """
        now = timezone.now()
        good = models.Q(expires_at=None) | models.Q(expires_at__gt=now)
        this_link = models.Q(generation=self.generation)
        with transaction.atomic(using=self._written_to()):
            if not self._change(good & this_link, accepted_at=now, accepted_by=user):
                return False
            invitation_accepted.send(type(self), invitation=self, user=user)
        return True

    def revoke(self) -> bool:
        """Disable the link, unless the invitation was accepted or revoked; return whether this call did it.

        ``invitation_revoked`` is sent in the same transaction.
        """
        with transaction.atomic(using=self._written_to()):
            if not self._change(models.Q(), revoked_at=timezone.now()):
                return False
            invitation_revoked.send(type(self), invitation=self)
        return True

    def _change(self, condition: models.Q, **values: Any) -> bool:
        """Change an invitation that is neither accepted nor revoked. Of concurrent changes, the first one wins."""
        objects = type(self)._base_manager.using(self._written_to())
        undecided = objects.filter(condition, pk=self.pk, accepted_at=None, revoked_at=None)
        changed = bool(undecided.update(**values))
        if changed:
            for name, value in values.items():
                setattr(self, name, value)
        else:
            self.refresh_from_db(using=objects.db)
        return changed

    def _written_to(self) -> str:
        """Return the database for writes; the invitation may have been read from a replica."""
        return router.db_for_write(type(self), instance=self)


def invitation_indexes(prefix: str) -> tuple[models.Index, ...]:
    """Return the indexes of a table of invitations; their names begin with ``prefix``, 19 letters at most."""
    return (
        # for reconciliation, which reads the few unsent rows only
        models.Index(fields=["id"], name=f"{prefix}_unsent", condition=models.Q(sent=None, accepted_at=None)),
        # for the admin's filters by statuses that may be rare
        models.Index(fields=["id"], name=f"{prefix}_accepted", condition=models.Q(accepted_at__isnull=False)),
        models.Index(fields=["id"], name=f"{prefix}_revoked", condition=models.Q(revoked_at__isnull=False)),
        models.Index(fields=["sender", "queued_at"], name=f"{prefix}_sender"),
        models.Index(fields=["queued_at"], name=f"{prefix}_queued"),
        models.Index(Lower("email"), name=f"{prefix}_mailbox"),
    )


class Invitation(AbstractInvitation):
    """Store an invitation in projects that need no fields of their own."""

    class Meta(AbstractInvitation.Meta):
        indexes = invitation_indexes("mailrail")


def written_invitations() -> InvitationQuerySet:
    """Return all invitations from the database for writes, because a replica may lag behind."""
    return every_invitation(router.db_for_write(get_invitation_model()))


def every_invitation(using: str | None = None) -> InvitationQuerySet:
    """Return all invitations on this database; by default on the one for reads."""
    model = get_invitation_model()
    # A project's model may have another manager, which does not filter by namespace.
    rows: InvitationQuerySet = model._default_manager.using(using).filter(namespace=current())
    return rows


def get_invitation_model() -> type[Any]:
    """Return the model that ``MAILRAIL["INVITATION_MODEL"]`` names."""
    try:
        model = apps.get_model(settings.invitation_model, require_ready=False)
    except (LookupError, ValueError) as error:
        raise ImproperlyConfigured(
            f"MAILRAIL['INVITATION_MODEL'] is {settings.invitation_model!r}, which is no model of an app in "
            f"INSTALLED_APPS: {error}"
        ) from None
    if not issubclass(model, AbstractInvitation):
        raise ImproperlyConfigured(
            f"MAILRAIL['INVITATION_MODEL'] is {settings.invitation_model!r}, which is no subclass of "
            "mailrail.invitations.models.AbstractInvitation."
        )
    return model
