"""Every page that people see, in every state it has: a function each, which goes there and returns the status."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page

from mailrail.invitations import addresses, invite, resend, revoke
from mailrail.invitations.bulk import confirm, draft
from mailrail.invitations.models import Invitation
from mailrail.invitations.views import SentInvitations
from mailrail.mail.models import Suppression

from ..chromium import Windows

GUEST = "guest@example.com"
MESSAGE = "Come and see what we have made of it.\n\nThere is room for one more."


class Stage:
    """Somebody who invites, what they write, and the window that shows the page."""

    page: Page

    def __init__(self, windows: Windows, settings: Any, monkeypatch: Any, ada: User) -> None:
        self.windows, self.settings, self.monkeypatch, self.ada = windows, settings, monkeypatch, ada
        self.guest, self.message = GUEST, MESSAGE

    def open(self, path: str, user: User | None = None) -> int:
        self.page = self.windows.open(user)
        response = self.page.goto(path)
        assert response is not None
        return response.status

    def submit(self, button: str, **fields: str) -> int:
        """Fill in the fields with these labels (``_`` for a space) and press the button."""
        for label, text in fields.items():
            self.page.get_by_label(label.replace("_", " ")).first.fill(text)
        with self.page.expect_navigation() as navigation:
            self.page.get_by_role("button", name=button).click()
        return navigation.value.status

    def invite(self, to: str = "", **fields: Any) -> Invitation:
        invitation: Invitation = invite(to or self.guest, self.ada, message=self.message, **fields)
        return invitation

    def open_link(self, invitation: Invitation, user: User | None = None) -> int:
        return self.open(invitation.accept_path(), user)

    def configure(self, **changed: Any) -> None:
        self.settings.MAILRAIL = {**self.settings.MAILRAIL, **changed}

    def list_to_confirm(self, *texts: str) -> Any:
        entries = [addresses.Entry(line, text) for line, text in enumerate(texts, start=1)]
        return draft(entries, self.ada, self.message)


def an_empty_list(stage: Stage) -> int:
    return stage.open("/invites/", stage.ada)


def a_list(stage: Stage) -> int:
    stage.monkeypatch.setattr(SentInvitations, "paginate_by", 5)
    now = timezone.now()
    for number in range(6):
        stage.invite(f"guest-{number}@example.com")
    stage.invite("accepted@example.com").accept(stage.ada)
    revoke(stage.invite("revoked@example.com"))
    expired, sent = stage.invite("expired@example.com").pk, stage.invite().pk
    Invitation.objects.filter(pk=expired).update(expires_at=now - timedelta(days=1), sent=now)
    Invitation.objects.filter(pk=sent).update(sent=now)
    return stage.open("/invites/", stage.ada)


def invited(stage: Stage) -> int:
    stage.open("/invites/new/", stage.ada)
    stage.submit("Send the invitation", Email_address=stage.guest)
    return 200


def inviting(stage: Stage) -> int:
    return stage.open("/invites/new/", stage.ada)


def inviting_with_a_wrong_address(stage: Stage) -> int:
    inviting(stage)
    return stage.submit("Send the invitation", Email_address="guest@example")


def inviting_beyond_the_quota(stage: Stage) -> int:
    stage.configure(INVITATIONS_PER_SENDER=1)
    stage.invite("other@example.com")
    inviting(stage)
    return stage.submit("Send the invitation", Email_address=stage.guest)


def inviting_many(stage: Stage) -> int:
    return stage.open("/invites/bulk/", stage.ada)


def inviting_many_with_nobody(stage: Stage) -> int:
    inviting_many(stage)
    return stage.submit("Look through the list")


def preview(stage: Stage) -> int:
    stage.invite("known@example.com")
    Suppression.objects.create(address="gone@example.com", reason="bounce")
    texts = (stage.guest, "known@example.com", "gone@example.com", stage.guest, "not an address")
    pasted = ("张三 <zhang＠example.com>", "Dora Example <dora@example.com>。")
    return stage.open(f"/invites/bulk/{stage.list_to_confirm(*texts, *pasted).pk}/", stage.ada)


def preview_beyond_the_quota(stage: Stage) -> int:
    stage.configure(INVITATIONS_PER_SENDER=1)
    listed = stage.list_to_confirm("one@example.com", "two@example.com")
    stage.open(f"/invites/bulk/{listed.pk}/", stage.ada)
    return stage.submit("Send the invitations")


def progress(stage: Stage, sent: int = 3) -> int:
    listed = stage.list_to_confirm(*(f"guest-{number}@example.com" for number in range(8)))
    confirm(listed)
    done = list(Invitation.objects.values_list("pk", flat=True)[:sent])
    Invitation.objects.filter(pk__in=done).update(sent=timezone.now())
    return stage.open(f"/invites/bulk/{listed.pk}/progress/", stage.ada)


def progress_with_failures(stage: Stage) -> int:
    listed = stage.list_to_confirm(*(f"guest-{number}@example.com" for number in range(8)))
    confirm(listed)
    last = Invitation.objects.latest("pk")
    Invitation.objects.exclude(pk=last.pk).update(sent=timezone.now())
    Invitation.objects.filter(pk=last.pk).update(failed_at=timezone.now())
    status = stage.open(f"/invites/bulk/{listed.pk}/progress/", stage.ada)
    stage.page.get_by_text("What has failed").click()
    return status


def progress_at_its_end(stage: Stage) -> int:
    return progress(stage, sent=8)


def invitation_before_log_in(stage: Stage) -> int:
    return stage.open_link(stage.invite())


def invitation(stage: Stage) -> int:
    return stage.open_link(stage.invite(), User.objects.create_user("guest", stage.guest))


def invitation_of_another_account(stage: Stage) -> int:
    return stage.open_link(stage.invite(), stage.ada)


def accepted(stage: Stage) -> int:
    guest = User.objects.create_user("guest", stage.guest)
    (accepted := stage.invite()).accept(guest)
    return stage.open_link(accepted, guest)


def used(stage: Stage) -> int:
    (used := stage.invite()).accept()
    return stage.open_link(used)


def replaced(stage: Stage) -> int:
    path = (replaced := stage.invite()).accept_path()
    resend(replaced)
    return stage.open(path)


def expired(stage: Stage) -> int:
    expired = stage.invite()
    Invitation.objects.update(expires_at=timezone.now())
    return stage.open_link(expired)


def revoked(stage: Stage) -> int:
    revoke(revoked := stage.invite())
    return stage.open_link(revoked)


def withdrawn(stage: Stage) -> int:
    withdrawn = stage.invite()
    User.objects.update(is_active=False)
    return stage.open_link(withdrawn)


def no_such_invitation(stage: Stage) -> int:
    return stage.open("/invites/accept/forged/")


def signing_up(stage: Stage) -> int:
    stage.open_link(stage.invite())
    return stage.submit("Sign up")


TWO_PASSWORDS = {"Username": "guest", "Password": "a long word", "Password_confirmation": "a longer word"}


def signing_up_with_two_passwords(stage: Stage) -> int:
    signing_up(stage)
    return stage.submit("Sign up and accept the invitation", **TWO_PASSWORDS)


PAGES: dict[Callable[[Stage], int], int] = {
    an_empty_list: 200,
    a_list: 200,
    invited: 200,
    inviting: 200,
    inviting_with_a_wrong_address: 200,
    inviting_beyond_the_quota: 200,
    inviting_many: 200,
    inviting_many_with_nobody: 200,
    preview: 200,
    preview_beyond_the_quota: 200,
    progress: 200,
    progress_with_failures: 200,
    progress_at_its_end: 200,
    invitation_before_log_in: 200,
    invitation: 200,
    invitation_of_another_account: 403,
    accepted: 200,
    used: 410,
    replaced: 410,
    expired: 410,
    revoked: 410,
    withdrawn: 410,
    no_such_invitation: 404,
    signing_up: 200,
    signing_up_with_two_passwords: 200,
}
"""With the statuses that they have to have."""
