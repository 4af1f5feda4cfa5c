"""The records: one row per email, which says what is to be sent, to whom, and how far it got.

The message on the channel carries a row's id and says "now"; the row is what people look at. Workers of the release
before, or after, can read all times, values and states. Columns have database defaults, and migrations only add.
``objects`` of each model are those of the namespace of this project (``mailrail.namespace``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from django.db.models.base import ModelState
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail import uuid7
from mailrail.addresses import normal_form
from mailrail.moments import MomentField
from mailrail.namespace import MAX_PREFIX_LENGTH, OwnNameField, OwnNames, OwnRows, Qualified, namespace_field
from mailrail.terminal import single_line


class Status(models.TextChoices):
    """How an email stands."""

    QUEUED = "queued", pgettext_lazy("email", "queued")
    """Waits for its time, a rate, its next attempt, or its mailer."""
    SENDING = "sending", pgettext_lazy("email", "sending")
    """On its way: the final dot may have left. Found by a worker that has not sent it: nobody knows the outcome."""
    SENT = "sent", pgettext_lazy("email", "sent")
    """Accepted by the server for every recipient, but for those on the suppression list."""
    PARTIAL = "partial", pgettext_lazy("email", "partly sent")
    """Accepted for some recipients, and failed for others: final for all."""
    FAILED = "failed", pgettext_lazy("email", "failed")
    HELD = "held", pgettext_lazy("email", "held")
    """By a person, or because nobody knows whether it was sent."""
    CANCELLED = "cancelled", pgettext_lazy("email", "cancelled")
    EXPIRED = "expired", pgettext_lazy("email", "expired")
    SUPPRESSED = "suppressed", pgettext_lazy("email", "suppressed")
    """All its recipients are on the suppression list."""


FINAL = ("sent", "partial", "failed", "cancelled", "expired", "suppressed")
"""Statuses in which an email stays, unless a person sends it again."""
NOT_FOR_ALL = ("failed", "partial")
"""Of these, those that an email has which failed for one recipient at least."""


def new_id() -> UUID:
    """Return an id for a new record. Ids are in the order of their making."""
    return uuid7()


class Email(models.Model):
    """An email as it was given to the backend, and what became of it.

    ``recipients``: a list of ``{"address": …, "status": …}``. ``code``, ``enhanced``, ``text`` and ``at`` follow once
    there is a reply, and ``ambiguous`` once a delivery may have happened without one. ``content``: what ``dump``
    returns. ``events``: what happened, the last ones, each ``{"at": …, "what": …}`` with ``stage``, ``code``,
    ``enhanced``, ``text`` and ``mailer`` where they apply.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    mailer = models.CharField(
        pgettext_lazy("email", "mailer"),
        max_length=100,
        db_default="",
        help_text=_("Alias of the mailer that delivers it."),
    )
    sender = models.TextField(
        pgettext_lazy("email", "sender"), db_default="", help_text=_("The envelope's: where bounces go.")
    )
    subject = models.TextField(pgettext_lazy("email", "subject"), db_default="")
    sensitive = models.BooleanField(
        pgettext_lazy("email", "sensitive"),
        default=False,
        db_default=False,
        help_text=_("Only its recipients may read it: its subject and content are not shown."),
    )
    content = models.JSONField(pgettext_lazy("email", "content"), default=dict, db_default={})
    message_id = models.CharField(_("Message-ID"), max_length=255, db_default="")
    date = MomentField(
        pgettext_lazy("email", "date"), default=timezone.now, help_text=_("In its Date header.")
    )
    size = models.BigIntegerField(
        pgettext_lazy("email", "size"), db_default=0, help_text=_("Bytes of its attachments and bodies.")
    )

    priority = models.SmallIntegerField(pgettext_lazy("email", "priority"), db_default=0)
    send_at = MomentField(_("not before"), null=True, db_default=None)
    expires_at = MomentField(_("not after"), null=True, db_default=None)

    key = models.CharField(  # noqa: DJ001 - NULL: has none
        pgettext_lazy("email", "key"),
        max_length=255,
        null=True,
        db_default=None,
        help_text=_("At most one email has it."),
    )
    digest = models.CharField(
        pgettext_lazy("email", "digest"),
        max_length=64,
        db_default="",
        help_text=_("Of what the key stands for."),
    )
    tags = models.JSONField(pgettext_lazy("email", "tags"), default=list, db_default=[])
    related_object = models.CharField(
        pgettext_lazy("email", "about"), max_length=255, db_default="", help_text="app_label.model:pk"
    )
    created_at = MomentField(pgettext_lazy("when an email was", "queued"), default=timezone.now)
    emptied_at = MomentField(
        _("content removed"),
        null=True,
        db_default=None,
        help_text=_("Since when its bodies, headers and attachments are gone."),
    )
    namespace = namespace_field()

    # What changes when an email is sent comes last: PostgreSQL logs the part of a row from the first byte that differs.
    via = models.CharField(
        pgettext_lazy("email", "via"),
        max_length=100,
        db_default="",
        default="",
        help_text=_("Alias of the mailer that stands in for it, for the last attempt."),
    )
    attempts = models.IntegerField(pgettext_lazy("email", "attempts"), db_default=0, default=0)
    version = models.IntegerField(db_default=0, default=0, editable=False)
    """Raised by every change of its status (an optimistic lock): of two who change the same version, one wins."""
    dispatch = models.IntegerField(db_default=0, default=0, editable=False)
    """The number of the message that may deliver it: each unhold and each resend has a new one, and voids the older."""
    next_try_at = MomentField(
        pgettext_lazy("email", "next try"),
        null=True,
        db_default=None,
        help_text=_("Since its last attempt has failed: when the next one is due."),
    )
    changed_at = MomentField(pgettext_lazy("when an email was", "changed"), default=timezone.now)
    sent_at = MomentField(pgettext_lazy("when an email was", "sent"), null=True, db_default=None)
    status = models.CharField(
        pgettext_lazy("email", "status"),
        max_length=10,
        choices=Status,
        default=Status.QUEUED,
        db_default="queued",
    )
    recipients = models.JSONField(pgettext_lazy("email", "recipients"), default=list, db_default=[])
    events = models.JSONField(pgettext_lazy("email", "events"), default=list, db_default=[])

    objects: ClassVar[models.Manager[Email]] = OwnRows()

    class Meta:
        verbose_name = pgettext_lazy("email", "email")
        verbose_name_plural = pgettext_lazy("email", "emails")
        ordering = ("-id",)
        permissions = (
            ("view_email_content", _("Can view the content of email")),
            ("resend_email", _("Can resend email")),
            ("cancel_email", _("Can cancel email")),
            ("hold_email", _("Can hold and unhold email")),
        )
        indexes = (
            # Ascending: new ids come at the end of a status, where a full page of the index is not split in halves.
            models.Index(fields=["namespace", "status", "id"], name="mailrail_mail_status"),
            models.Index(
                fields=["related_object"],
                name="mailrail_mail_related",
                condition=~models.Q(related_object=""),
            ),
            # Reconciliation: the oldest first, however many others there are. PostgreSQL does not know that the queued
            # emails are the newest. With the index above, it may read the table in the order of ids instead.
            models.Index(
                fields=["namespace", "id"],
                name="mailrail_mail_queued",
                condition=models.Q(status=Status.QUEUED.value),
            ),
            # Those below are written once for each email, when it is final: what is queued and sent pays nothing.
            # The search of the admin; nobody outside knows a Message-ID before it is sent.
            models.Index(
                fields=["message_id"],
                name="mailrail_mail_message_id",
                condition=models.Q(status__in=FINAL),
            ),
            # mailq: those that failed last.
            models.Index(
                fields=["namespace", "-changed_at"],
                name="mailrail_mail_failed",
                condition=models.Q(status=Status.FAILED.value),
            ),
            # The same, and not in one index: PostgreSQL would read all of that for the admin's list of either status.
            models.Index(
                fields=["namespace", "-changed_at"],
                name="mailrail_mail_partial",
                condition=models.Q(status=Status.PARTIAL.value),
            ),
            # prunemail: whose content is old enough to go.
            models.Index(
                fields=["namespace", "changed_at"],
                name="mailrail_mail_has_content",
                condition=models.Q(status__in=FINAL, emptied_at=None),
            ),
        )
        constraints = (
            # Not by unique=True: most have no key, and each of their versions would be written into two indexes more.
            models.UniqueConstraint(
                fields=["namespace", "key"], name="mailrail_mail_key", condition=models.Q(key__isnull=False)
            ),
        )

    def __str__(self) -> str:
        return single_line(str(self.id if self.sensitive or not self.subject else self.subject))

    @property
    def failed_recipients(self) -> list[str]:
        """Return the addresses for which it has failed for good."""
        return addresses_with(self.recipients, Status.FAILED)


def addresses_with(recipients: Any, status: str) -> list[str]:
    """Return the addresses among ``Email.recipients`` that have this status. Other hands may have written these."""
    entries = recipients if isinstance(recipients, list) else ()
    matching = (
        recipient
        for recipient in entries
        if isinstance(recipient, dict) and recipient.get("status") == status
    )
    return [str(recipient.get("address", "")) for recipient in matching]


def email_of(columns: Mapping[str, Any], using: str | None = None) -> Email:
    """Make an email of these values as unpickling makes one: Django's own way takes five times as long.

    ``columns``: by the names of their attributes; all of them, or the others are fetched when they are asked for.
    ``using``: the database that it is from, if it is.
    """
    email = Email.__new__(Email)
    email._state = ModelState()
    email._state.adding, email._state.db = using is None, using
    email.__dict__.update(columns)
    return email


class File(models.Model):
    """Bytes that emails refer to by their SHA-256: stored once, however many emails of a namespace refer to them.

    In ``data``, or under that name in the Django storage that ``MAILRAIL["MAIL_STORAGE"]`` names.
    """

    sha256 = models.CharField(max_length=64, primary_key=True)
    size = models.BigIntegerField(db_default=0)
    data = models.BinaryField(null=True, db_default=None)
    used_at = MomentField(default=timezone.now, help_text=_("When it was last stored."))
    namespace = namespace_field()

    objects: ClassVar[models.Manager[File]] = OwnRows()

    class Meta:
        verbose_name = _("stored file")
        verbose_name_plural = _("stored files")

    def __str__(self) -> str:
        return self.sha256


class EmailFile(models.Model):
    """Which email needs which file."""

    email = models.ForeignKey(Email, on_delete=models.CASCADE, related_name="files")
    file = models.ForeignKey(File, on_delete=models.PROTECT, related_name="emails", db_constraint=False)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["email", "file"], name="mailrail_mail_file_once"),)

    def __str__(self) -> str:
        return f"{self.email_id} {self.file_id}"


class _MailboxField(OwnNameField):
    """A field that stores an address, and looks for it, in its normal form; digests as they are."""

    def get_prep_value(self, value: Any) -> Any:
        return super().get_prep_value(_normal(value))

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = _normal(super().pre_save(model_instance, add))
        setattr(model_instance, self.attname, value)
        return value


def _normal(address: Any) -> Any:
    if address is None or isinstance(address, Qualified) or str(address).startswith("sha256:"):
        return address
    return normal_form(str(address))


class Suppression(models.Model):
    """An address that gets no more email, and why. However it is written, it is kept in its normal form."""

    address = _MailboxField(
        pgettext_lazy("email", "address"), max_length=320 + MAX_PREFIX_LENGTH, primary_key=True
    )
    reason = models.CharField(
        pgettext_lazy("email", "reason"),
        max_length=20,
        default="bounce",
        help_text=_("bounce, complaint, or a person's own word"),
    )
    note = models.TextField(pgettext_lazy("email", "note"), blank=True, default="")
    created_at = MomentField(pgettext_lazy("email", "since"), default=timezone.now)

    objects: ClassVar[models.Manager[Suppression]] = OwnNames("address")

    class Meta:
        verbose_name = _("suppressed address")
        verbose_name_plural = _("suppressed addresses")

    def __str__(self) -> str:
        return str(self.address)


class MailerState(models.Model):
    """A mailer that is not simply working. No row: it is."""

    mailer = OwnNameField(
        pgettext_lazy("email", "mailer"), max_length=100 + MAX_PREFIX_LENGTH, primary_key=True
    )
    paused_by = models.CharField(
        _("paused by"), max_length=10, db_default="", help_text=_("person, outage, or nobody")
    )
    person = models.CharField(_("paused by whom"), max_length=200, default="", db_default="")
    reason = models.TextField(pgettext_lazy("email", "reason"), db_default="")
    since = MomentField(pgettext_lazy("email", "since"), default=timezone.now)
    probe_at = MomentField(_("next try"), null=True, db_default=None)
    probes = models.IntegerField(pgettext_lazy("email", "tries"), db_default=0)

    objects: ClassVar[models.Manager[MailerState]] = OwnNames("mailer")

    class Meta:
        verbose_name = pgettext_lazy("email", "mailer")
        verbose_name_plural = pgettext_lazy("email", "mailers")
        permissions = (("pause_mailerstate", _("Can pause and resume mailers")),)

    def __str__(self) -> str:
        return str(self.mailer)


class RefusedSender(models.Model):
    """A sender that a mailer's server refuses: its mail by that mailer is held.

    ``sender``: the bare address, in lower case; empty: the null sender. ``in_a_row``: no sender was let through since.
    """

    mailer = OwnNameField(pgettext_lazy("email", "mailer"), max_length=100 + MAX_PREFIX_LENGTH)
    sender = models.CharField(pgettext_lazy("email", "sender"), max_length=320)
    reason = models.TextField(pgettext_lazy("email", "reason"), db_default="", default="")
    since = MomentField(pgettext_lazy("email", "since"), default=timezone.now)
    in_a_row = models.BooleanField(db_default=True, default=True, editable=False)

    objects: ClassVar[models.Manager[RefusedSender]] = OwnNames("mailer")

    class Meta:
        verbose_name = _("refused sender")
        verbose_name_plural = _("refused senders")
        constraints = (
            models.UniqueConstraint(fields=["mailer", "sender"], name="mailrail_mail_refused_sender_once"),
        )

    def __str__(self) -> str:
        return f"{self.mailer} {self.sender}".strip()


class MailerLogin(models.Model):
    """The login of a mailer: who tries it first, and whether the server has accepted it.

    ``key``: of server, user name and password, as a hash. ``until``: for so long others wait for the one who tries.
    """

    mailer = OwnNameField(max_length=100 + MAX_PREFIX_LENGTH, primary_key=True)
    key = models.CharField(max_length=64, db_default="", default="")
    accepted_at = models.DateTimeField(null=True, db_default=None, default=None)
    until = models.DateTimeField(default=timezone.now)

    objects: ClassVar[models.Manager[MailerLogin]] = OwnNames("mailer")

    def __str__(self) -> str:
        return str(self.mailer)


class MailerThrottle(models.Model):
    """How fast mail leaves by a mailer, to one domain or (empty) to all, where that is not simply as fast as it can.

    ``share`` of ``pace``: emails a second, while the server asks for less; a share of 1 is no limit. ``reservations``:
    up to when times are reserved for emails that wait for a rate, ``{seconds of the rate: {priority: Unix time}}``.
    """

    mailer = OwnNameField(pgettext_lazy("email", "mailer"), max_length=100 + MAX_PREFIX_LENGTH)
    domain = models.CharField(pgettext_lazy("email", "domain"), max_length=255, db_default="", default="")
    share = models.FloatField(pgettext_lazy("email", "share"), db_default=1.0, default=1.0)
    pace = models.FloatField(
        pgettext_lazy("email", "pace"),
        db_default=0.0,
        default=0.0,
        help_text=_("Emails a second before it was asked for less."),
    )
    reason = models.TextField(pgettext_lazy("email", "reason"), db_default="", default="")
    since = MomentField(pgettext_lazy("email", "since"), null=True, db_default=None, default=None)
    changed_at = MomentField(pgettext_lazy("email", "changed"), default=timezone.now)
    reservations = models.JSONField(default=dict, db_default={}, editable=False)
    version = models.IntegerField(db_default=0, default=0, editable=False)

    objects: ClassVar[models.Manager[MailerThrottle]] = OwnNames("mailer")

    class Meta:
        verbose_name = _("throttle of a mailer")
        verbose_name_plural = _("throttles of mailers")
        constraints = (
            models.UniqueConstraint(fields=["mailer", "domain"], name="mailrail_mail_throttle_once"),
        )

    def __str__(self) -> str:
        return f"{self.mailer} {self.domain}".strip()


class MailerConnection(models.Model):
    """One of the connections that a mailer may have at once; whoever holds it renews it, or it is free again."""

    mailer = OwnNameField(max_length=100 + MAX_PREFIX_LENGTH)
    number = models.IntegerField()
    holder = models.CharField(max_length=64, db_default="", default="")
    until = MomentField(default=timezone.now)

    objects: ClassVar[models.Manager[MailerConnection]] = OwnNames("mailer")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["mailer", "number"], name="mailrail_mail_connection_once"),
        )
        indexes = (models.Index(fields=["holder"], name="mailrail_mail_holder"),)

    def __str__(self) -> str:
        return f"{self.mailer} {self.number}"
