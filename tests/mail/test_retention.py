"""How long emails are kept, what is erased, and what stays."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.files.storage import FileSystemStorage, Storage
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import modify_settings
from django.utils import timezone

from mailrail import mail
from mailrail.errors import InvalidSettings
from mailrail.mail import Email, Status
from mailrail.mail.delivery.load import load_messages
from mailrail.mail.models import EmailFile, File, Suppression
from mailrail.mail.queueing import files
from mailrail.mail.records import erasure, retention
from mailrail.mail.records.suppressions import hash_address
from mailrail.testing import drain

from ..processes import until
from ..smtp_server import ScriptedServer

BIG = b"big" * 50_000


@pytest.fixture(autouse=True)
def queues(queueing: Callable[..., None], on: str) -> None:
    queueing(1)


def message(*to: str, body: str = "A body.\n", big: bytes = b"", **options: Any) -> EmailMessage:
    made = EmailMessage("Hello", body, "me@example.com", to or ("you@example.com",), **options)
    if big:
        made.attach("big.bin", big, "application/octet-stream")
    return made


def aged(emails: list[Email], days: float, status: Status = Status.SENT) -> list[Email]:
    """As if they had been queued, and had ended, so long ago."""
    moment = timezone.now() - timedelta(days=days)
    for email in emails:
        id = retention.first_id(moment).int + email.pk.int % 2**80
        old = Email.objects.get(pk=email.pk)
        links = [link.file_id for link in old.files.all()]
        old.delete()
        old.pk, old.status, old.created_at, old.changed_at = type(email.pk)(int=id), status, moment, moment
        for each in old.recipients:
            each["status"] = status.value if status in ("sent", "failed") else "queued"
        old.save(force_insert=True)
        EmailFile.objects.bulk_create(EmailFile(email=old, file_id=link) for link in links)
        email.pk = old.pk
    return emails


def prune(*arguments: str) -> str:
    out = io.StringIO()
    call_command("prunemail", *arguments, stdout=out, stderr=out)
    return out.getvalue()


# -- by age -----------------------------------------------------------------------------------------------------------


def test_bodies_go_first_and_records_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHUNK_SIZE", 2)
    old = aged(mail.queue_many([message(big=BIG) for _ in range(5)]), 40)
    older = aged(mail.queue_many([message(big=BIG + b"2")]), 400)
    young = aged(mail.queue_many([message(big=BIG + b"3")]), 1)
    output = prune("--bodies-after", "30", "--records-after", "365")
    assert "1 records deleted" in output and "5 emails emptied" in output
    assert not Email.objects.filter(pk=older[0].pk).exists()
    for email in Email.objects.filter(pk__in=[each.pk for each in old]):
        assert (email.content, email.subject, email.status) == ({}, "Hello", Status.SENT)
        assert email.emptied_at is not None and email.recipients[0]["address"] == "you@example.com"
    [kept] = load_messages([Email.objects.get(pk=young[0].pk)], young[0]._state.db or "default").loaded
    assert kept.message.body == "A body.\n"
    assert [file.size for file in File.objects.all()] == [len(BIG) + 1]
    assert "0 records deleted" in prune("--bodies-after", "30", "--records-after", "365")


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SENDING, Status.HELD])
def test_what_has_not_ended_is_kept_however_old(status: Status) -> None:
    [email] = aged(mail.queue_many([message(big=BIG)]), 4000, status)
    prune("--bodies-after", "0", "--records-after", "0")
    assert Email.objects.get(pk=email.pk).content["large"] and File.objects.count() == 1


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.SUPPRESSED])
def test_every_end_counts(status: Status) -> None:
    aged(mail.queue_many([message()]), 10, status)
    assert "1 records deleted" in prune("--records-after", "9")


def test_the_age_counts_from_the_end() -> None:
    """One that was queued a year before it was to be sent is not deleted right after."""
    [email] = aged(mail.queue_many([message()]), 400)
    Email.objects.filter(pk=email.pk).update(changed_at=timezone.now() - timedelta(days=2))
    prune("--bodies-after", "30", "--records-after", "30")
    assert Email.objects.get().content
    prune("--bodies-after", "1")
    assert not Email.objects.get().content
    prune("--records-after", "1")
    assert not Email.objects.exists()


def test_a_dry_run_changes_nothing() -> None:
    aged(mail.queue_many([message(), message()]), 40)
    output = prune("--bodies-after", "30", "--records-after", "30", "--dry-run")
    assert "2 records would be deleted" in output and "2 emails would be emptied" in output
    assert Email.objects.filter(emptied_at=None).count() == 2


def test_settings_say_how_long(settings: Any) -> None:
    aged(mail.queue_many([message()]), 40)
    with pytest.raises(CommandError, match="MAIL_KEEP_BODIES"):
        prune()
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_KEEP_BODIES": 86400 * 30}
    assert prune().startswith("1 emails emptied")
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_KEEP_RECORDS": 86400 * 30}
    assert prune().startswith("1 records deleted")
    settings.MAILRAIL = {"MAIL_KEEP_RECORDS": "30 days"}
    with pytest.raises(CommandError, match="MAIL_KEEP_RECORDS") as caught:
        prune()
    assert isinstance(caught.value.__cause__, InvalidSettings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bodies-after", "-1"], "bodies-after"),
        (["--records-after", "nan"], "records-after"),
        (["--records-after", "1e9"], "records-after"),
        (["--address", "nobody"], "--address must be an email address"),
        (["--address", "a@b.c", "--bodies-after", "1"], "without"),
        (["--forget-suppression"], "belongs to --address"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        prune(*arguments)


def test_an_emptied_email_is_not_sent_again() -> None:
    [email] = aged(mail.queue_many([message()]), 40, Status.FAILED)
    prune("--bodies-after", "30")
    assert mail.resend(email.pk).refused == {email.pk: "its content was removed"}
    assert Email.objects.get().status == Status.FAILED


def test_an_email_that_somebody_holds_just_now_is_passed_by(on: str, elsewhere: Callable[..., Any]) -> None:
    if on == "default":
        pytest.skip("SQLite locks the whole file")
    first, second = aged(mail.queue_many([message(), message()]), 40, Status.FAILED)
    with transaction.atomic(on):
        assert mail.resend(first.pk).done
        elsewhere(prune, "--bodies-after", "30", "--records-after", "30")
    assert [(email.pk, email.status) for email in Email.objects.all()] == [(first.pk, Status.QUEUED)]
    assert Email.objects.get().content and second.pk != first.pk


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def storage(settings: Any, tmp_path: Path) -> Path:
    """The folder in which large files are kept."""
    backend = "django.core.files.storage.FileSystemStorage"
    settings.STORAGES = {
        **settings.STORAGES,
        "attachments": {"BACKEND": backend, "OPTIONS": {"location": str(tmp_path)}},
    }
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_STORAGE": "attachments"}
    return tmp_path / files.FOLDER


def make_old(path: Path) -> None:
    ago = (timezone.now() - timedelta(days=2)).timestamp()
    os.utime(path, (ago, ago))


def test_a_file_stays_for_as_long_as_one_email_needs_it(storage: Path) -> None:
    first, second = mail.queue_many([message(big=BIG), message(big=BIG)])
    aged([first], 40)
    prune("--bodies-after", "30")
    assert len(list(storage.iterdir())) == File.objects.count() == 1
    aged([second], 40)
    prune("--records-after", "30")
    assert list(storage.iterdir()) == [] and not File.objects.exists()


def test_files_of_emails_that_were_deleted_by_other_hands_go(storage: Path) -> None:
    mail.queue(message(big=BIG))
    Email.objects.all().delete()
    assert len(list(storage.iterdir())) == 1
    assert "1 more files deleted that no email needs" in prune("--bodies-after", "30")
    assert list(storage.iterdir()) == [] and not File.objects.exists()


def test_what_a_rolled_back_transaction_left_in_the_storage_goes_once_it_is_old(
    storage: Path, on: str
) -> None:
    with transaction.atomic(on):
        mail.queue(message(big=BIG))
        transaction.set_rollback(True, using=on)
    (storage / "somebody-elses").write_text("stays")
    kept = mail.queue(message(big=BIG + b"2"))
    names = {path.name for path in storage.iterdir()}
    prune("--bodies-after", "30")
    assert {path.name for path in storage.iterdir()} == names  # too young
    for path in storage.iterdir():
        make_old(path)
    assert "1 files deleted that transactions have left behind" in prune("--bodies-after", "30")
    assert {path.name for path in storage.iterdir()} == {"somebody-elses", *kept.content["large"]}


def somebody_waits(on: str) -> bool:
    with connections[on].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def test_senders_of_the_same_file_do_not_wait_for_each_other(on: str, elsewhere: Callable[..., Any]) -> None:
    """A logo that is in all emails would put all requests in a row, until their transactions end."""
    if on == "default":
        pytest.skip("SQLite has one writer")
    mail.queue(message(big=BIG))
    with transaction.atomic(on):
        mail.queue(message(big=BIG))
        waiting = elsewhere.submit(mail.queue, message(big=BIG))  # type: ignore[attr-defined]
        waiting.result(timeout=10)
    assert File.objects.count() == 1 and EmailFile.objects.count() == 3


def test_a_file_that_is_needed_again_in_an_open_transaction_is_not_pruned(
    on: str, elsewhere: Callable[..., Any]
) -> None:
    if on == "default":
        pytest.skip("SQLite has one writer")
    [old] = aged([mail.queue(message(big=BIG))], 40)
    with transaction.atomic(on):
        mail.queue(message(big=BIG))
        pruning = elsewhere.submit(prune, "--records-after", "30")  # type: ignore[attr-defined]
        until(lambda: somebody_waits(on))
        assert not pruning.done()
    pruning.result(timeout=20)
    assert not Email.objects.filter(pk=old.pk).exists() and File.objects.count() == 1


def test_a_file_that_somebody_else_has_just_removed_stops_nobody(
    storage: Path, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two prunemail at the same time do."""
    with transaction.atomic(on):
        mail.queue_many([message(big=BIG), message(big=BIG + b"2")])
        transaction.set_rollback(True, using=on)
    for path in storage.iterdir():
        make_old(path)
    known = files._known

    def known_meanwhile(digests: Any, using: str) -> set[str]:
        min(storage.iterdir()).unlink()
        return known(digests, using)

    monkeypatch.setattr(files, "_known", known_meanwhile)
    assert "1 files deleted that transactions have left behind" in prune("--bodies-after", "30")
    assert list(storage.iterdir()) == []


def test_a_file_that_is_stored_again_while_it_is_removed_is_there(
    storage: Path, on: str, elsewhere: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who stores it waits until it is gone, and writes it anew."""
    mail.queue(message(big=BIG))
    Email.objects.all().delete()
    removing = threading.Event()
    delete = FileSystemStorage.delete

    def queue_meanwhile() -> Email:
        removing.wait(30)
        return mail.queue(message(big=BIG))

    def delete_while_somebody_waits(self: Any, name: str) -> None:
        removing.set()
        if on == "postgres":  # on SQLite nobody can see who waits
            until(lambda: somebody_waits(on))
        delete(self, name)

    monkeypatch.setattr(FileSystemStorage, "delete", delete_while_somebody_waits)
    queued = elsewhere.submit(queue_meanwhile)  # type: ignore[attr-defined]
    prune("--bodies-after", "30")
    email = queued.result(timeout=30)
    assert [path.name for path in storage.iterdir()] == email.content["large"]
    [loaded] = load_messages([Email.objects.get()], on).loaded
    assert loaded.message.attachments[0].content == BIG


def test_a_storage_that_cannot_list_is_told(
    storage: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    mail.queue(message(big=BIG))
    monkeypatch.setattr(FileSystemStorage, "listdir", Storage.listdir)
    assert "cannot list its files" in prune("--bodies-after", "30")


# -- by address -------------------------------------------------------------------------------------------------------

ANN = "Ann.Example@example.com"


def everything() -> str:
    """All that is stored of email, as text, in lower case."""
    rows = [*Email.objects.values(), *Suppression.objects.values()]
    return json.dumps(rows, default=str, ensure_ascii=False).lower()


@pytest.mark.parametrize(
    "status", [Status.QUEUED, Status.HELD, Status.SENT, Status.FAILED, Status.CANCELLED, Status.SUPPRESSED]
)
def test_emails_to_an_erased_address_alone_are_deleted_whatever_their_status(status: Status) -> None:
    aged(mail.queue_many([message(f"Ann <{ANN}>", big=BIG)]), 0, status)
    other = mail.queue(message("ann.example@example.org"))
    assert prune("--address", ANN).startswith("1 emails deleted")
    assert Email.objects.get().pk == other.pk and not File.objects.exists()
    assert drain("mailrail.mail", raise_errors=False)


def test_an_ended_email_to_others_too_loses_address_and_content() -> None:
    [email] = aged(mail.queue_many([message(ANN, "bob@example.com", headers={"X-For": ANN}, big=BIG)]), 1)
    Email.objects.filter(pk=email.pk).update(
        events=[{"at": "x", "what": "refused", "text": f"550 <{ANN.upper()}> is no more"}],
        key=f"welcome-{ANN}",
        tags=["a", ANN],
        related_object=f"shop.customer:{ANN}",
    )
    assert "1 emptied that others got, too" in prune("--address", ANN.lower())
    left = Email.objects.get()
    assert [each["address"] for each in left.recipients] == ["bob@example.com"]
    assert (left.content, left.subject, left.key, left.status) == ({}, "", None, Status.SENT)
    assert left.tags == ["a", "[erased]"] and not File.objects.exists()
    assert "ann.example" not in everything()


@pytest.mark.parametrize("address", [ANN, "größe@example.com"])
def test_an_email_that_only_mentions_the_address_is_emptied(address: str) -> None:
    aged(mail.queue_many([message(body=f"Write to {address}!\n"), message(reply_to=[ANN])]), 1)
    mentions = 2 if address == ANN else 1
    assert f"{mentions} emptied" in prune("--address", address)
    assert address.lower() not in everything()
    assert Email.objects.count() == 2


OTHERS = [
    "jo" + ANN,
    "jo." + ANN,
    "x+" + ANN,
    "jo-" + ANN,
    ANN + ".au",
    ANN + "munity",
    ANN.replace("Ann", "Änn"),
]
NO_OTHERS = [
    f"Write to {ANN}.",
    f"mailto:{ANN}?subject=x",
    f"-{ANN}",
    f"_{ANN}_, or *{ANN}*",
    f"https://example.com/?email={ANN}&a=1",
    f"/next?to=%2F%3Femail%3D{ANN}",
    f"\n{ANN}\n",
    f"ann's: '{ANN}'",
]


@pytest.mark.parametrize("other", OTHERS)
def test_an_address_that_holds_the_erased_one_is_somebody_elses(other: str, on: str) -> None:
    emails = [mail.queue(message(other, body=f"Hello {other}")), *aged([mail.queue(message(other))], 1)]
    Email.objects.filter(pk=emails[0].pk).update(
        key=f"welcome-{other}", tags=[other], related_object=f"{other}/7"
    )
    before = list(Email.objects.order_by("pk").values())
    assert prune("--address", ANN, "--dry-run").startswith("0 emails hold")
    assert prune("--address", ANN).startswith("0 emails deleted, 0 emptied that others got, too, 0 that")
    assert list(Email.objects.order_by("pk").values()) == before and len(before) == len(emails)


@pytest.mark.parametrize("text", NO_OTHERS)
def test_whatever_is_around_the_address_it_is_erased(text: str, on: str) -> None:
    [email] = aged([mail.queue(message(body=text))], 1)
    Email.objects.update(events=[{"at": "x", "what": "refused", "text": text}])
    assert "1 emptied" in prune("--address", ANN)
    assert "ann.example" not in everything()
    email.refresh_from_db()
    assert email.events[0]["text"] == text.replace(ANN, "[erased]")


def test_labels_made_of_the_address_are_erased_and_those_of_others_stay(on: str) -> None:
    [email] = aged([mail.queue(message(f"jo-{ANN}", ANN))], 1)
    Email.objects.update(
        key=f"welcome-jo-{ANN}", tags=[f"to-{ANN}.v2", f"to-jo-{ANN}"], related_object=f"x:{ANN}-7"
    )
    assert "1 emptied" in prune("--address", ANN)
    email.refresh_from_db()
    assert (email.key, email.related_object) == (f"welcome-jo-{ANN}", "x:[erased]-7")
    assert email.tags == ["to-[erased].v2", f"to-jo-{ANN}"]


def test_a_message_id_made_of_the_address_is_erased(on: str) -> None:
    aged([mail.queue(message("bob@example.com", headers={"Message-ID": f"<order-7/{ANN}>"}))], 1)
    assert "1 emptied" in prune("--address", ANN)
    assert "ann.example" not in everything()
    assert prune("--address", ANN).startswith("0 emails deleted, 0 emptied")


def test_others_still_get_what_waits_for_them(queueing: Callable[..., None]) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        mail.queue(message(ANN, "bob@example.com", cc=[f"Ann <{ANN}>"]))
        assert "1 that others wait for will not be sent to" in prune("--address", ANN)
        assert "ann.example" not in everything()
        drain("mailrail.mail")
        [arrived] = server.mails
    assert arrived.recipients == ("bob@example.com",) and b"Ann" not in arrived.content
    assert Email.objects.get().status == Status.SENT


def test_an_email_that_waited_for_the_erased_one_alone_has_ended() -> None:
    email = mail.queue(message("bob@example.com", ANN))
    email.recipients[0]["status"] = "sent"
    Email.objects.update(recipients=email.recipients)
    prune("--address", ANN)
    left = Email.objects.get()
    assert left.status == Status.SENT and left.emptied_at is not None and "ann.example" not in everything()


@pytest.mark.parametrize("status", [Status.SENDING, Status.QUEUED])
def test_what_cannot_be_erased_yet_is_named_and_fails_the_command(status: Status) -> None:
    email = mail.queue(message("bob@example.com", *[ANN] * (status is Status.SENDING), body=f"Hello {ANN}"))
    Email.objects.update(status=status)
    with pytest.raises(CommandError, match=str(email.pk)):
        prune("--address", ANN)
    assert ANN.lower() in everything()
    Email.objects.update(status=Status.SENT)
    prune("--address", ANN)
    assert "ann.example" not in everything()


class Finished(EmailMessage):
    """Writes its message in its own way, so that its bytes are kept."""

    def message(self, **options: Any) -> Any:
        return super().message(**options)


def test_erasing_changes_neither_the_age_of_what_has_ended_nor_what_only_waits() -> None:
    [ended] = aged([mail.queue(message("bob@example.com", ANN))], 400)
    waits = mail.queue(message("bob@example.com", body=f"Hello {ANN}"))
    before = Email.objects.filter(pk=waits.pk).values().get()
    with pytest.raises(CommandError, match=str(waits.pk)):
        prune("--address", ANN)
    assert Email.objects.filter(pk=waits.pk).values().get() == before
    assert "1 records deleted" in prune("--records-after", "365")
    assert not Email.objects.filter(pk=ended.pk).exists()


def test_finished_bytes_that_others_wait_for_are_left_until_they_are_sent() -> None:
    email = mail.queue(Finished("Hello", "A body.\n", "me@example.com", ["bob@example.com", ANN]))
    assert email.content["kind"] == "finished"
    with pytest.raises(CommandError, match=str(email.pk)):
        prune("--address", ANN)
    Email.objects.update(status=Status.SENT)
    prune("--address", ANN)
    assert not Email.objects.get().content and "ann.example" not in everything()


def test_an_erased_address_stays_suppressed_and_cannot_be_read_off(
    queueing: Callable[..., None], on: str
) -> None:
    Suppression.objects.create(address=ANN.lower(), reason="complaint", note=f"<{ANN}> complained")
    prune("--address", ANN)
    row = Suppression.objects.get()
    assert (row.address, row.reason, row.note) == (hash_address(ANN.lower()), "complaint", "")
    with ScriptedServer() as server:
        queueing(server.port)
        mail.queue(message(f"Ann <{ANN}>"))
        drain("mailrail.mail")
        assert server.mails == []
    assert Email.objects.get().status == Status.SUPPRESSED
    prune("--address", ANN, "--forget-suppression")
    assert not Suppression.objects.exists() and not Email.objects.exists()


def test_the_admin_s_log_forgets_the_address_and_what_the_emails_were_called() -> None:
    """It keeps the name that an object had when somebody did something to it."""
    erased = mail.queue(EmailMessage("For Ann", "A body.", "me@example.com", [ANN]))
    other = mail.queue(EmailMessage("For Bob", "A body.", "me@example.com", ["bob@example.com"]))
    suppressed = Suppression.objects.create(address=ANN.lower(), reason="manual")
    longer = Suppression.objects.create(address="jo" + ANN.lower(), reason="manual")
    user = User.objects.create_user("staff", email=ANN)
    names = {}
    for object in (erased, other, suppressed, longer, user):
        kind = ContentType.objects.get_for_model(object)
        entry = LogEntry.objects.create(
            user=user,
            content_type=kind,
            object_id=str(object.pk),
            object_repr=ANN if object is user else str(object),
            action_flag=2,
            change_message=f"Done to {ANN}.",
        )
        names[entry.pk] = object
    prune("--address", ANN, "--dry-run")
    assert LogEntry.objects.filter(change_message__contains=ANN).count() == 5
    prune("--address", ANN)
    found = {
        names[entry.pk]: (entry.object_id, entry.object_repr, entry.change_message)
        for entry in LogEntry.objects.all()
    }
    assert found == {
        erased: (str(erased.pk), "[erased]", "Done to [erased]."),
        other: (str(other.pk), "For Bob", "Done to [erased]."),
        suppressed: (hash_address(ANN.lower()), "[erased]", "Done to [erased]."),
        longer: (longer.pk, longer.pk, "Done to [erased]."),
        user: (str(user.pk), ANN, f"Done to {ANN}."),
    }


def test_a_project_without_the_admin_has_no_log() -> None:
    mail.queue(message(ANN))
    with modify_settings(INSTALLED_APPS={"remove": ["django.contrib.admin"]}):
        assert prune("--address", ANN).startswith("1 emails deleted")


def test_a_dry_run_erases_nothing() -> None:
    mail.queue(message(ANN))
    assert prune("--address", ANN, "--dry-run") == f"1 emails hold {ANN.lower()}\n"
    assert Email.objects.count() == 1


def test_erasure_walks_through_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PAGE_SIZE", 2)
    mail.queue_many([message(ANN), *(message() for _ in range(4)), message(ANN)])
    assert prune("--address", ANN).startswith("2 emails deleted")
    assert Email.objects.count() == 4


def test_records_of_other_hands_do_not_stop_it(on: str) -> None:
    email = mail.queue(message())
    Email.objects.filter(pk=email.pk).update(recipients=["x", {"address": 3}, {"address": ANN}], events=[ANN])
    Email.objects.filter(pk=email.pk).update(status=Status.FAILED)
    odd = mail.queue(message("bob@example.com"))
    Email.objects.filter(pk=odd.pk).update(recipients={"a": ANN}, content=[ANN], status=Status.FAILED)
    waits = mail.queue(message("bob@example.com"))
    Email.objects.filter(pk=waits.pk).update(recipients=["x", {"address": ANN}])
    prune("--address", ANN)
    assert "ann.example" not in everything()


@pytest.fixture(autouse=True)
def _no_files_left() -> Iterator[None]:
    yield
    orphans = EmailFile.objects.exclude(email__in=Email.objects.all())
    assert not orphans.exists()
