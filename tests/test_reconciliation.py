"""Records whose message is missing get it again, and nobody else gets anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from zlib import crc32

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db.models import QuerySet
from django.utils import timezone

from mailrail import Channel
from mailrail.invitations.bulk import confirm
from mailrail.invitations.forms import BulkInvitationForm, InvitationForm
from mailrail.invitations.models import Invitation
from mailrail.layers import DurableLayer, get_layer
from mailrail.reconciliation import Reconciler, ScanPosition, _registered, reconcile, reconcilers, take_turn
from mailrail.routing import Routing
from mailrail.worker.maintenance import Maintenance

from .listed import dead_on, waiting_on
from .ports import free_port
from .processes import until
from .servers import ValkeyServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

LEASE = 15.0


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis", "redis with an outbox"])
def layer(request: pytest.FixtureRequest, settings: Any, valkey: ValkeyServer) -> DurableLayer:
    """The default layer, of every kind; the records are in the default database."""
    kind = request.param
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "memory": ("InMemoryChannelLayer", {}),
        "sqlite": ("DatabaseChannelLayer", {}),
        "postgres": ("DatabaseChannelLayer", {"using": "postgres"}),
        "redis": ("RedisChannelLayer", {"hosts": [valkey.url]}),
        "redis with an outbox": ("RedisChannelLayer", {"hosts": [valkey.url], "outbox": True}),
    }
    backend, config = configs[kind]
    config = {**config, "routing": "tests.routes.on_redis"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"mailrail.layers.{backend}", "CONFIG": config}}
    return get_layer()


@pytest.fixture
def one_layer(settings: Any) -> DurableLayer:
    """Where the kind does not matter."""
    config = {"routing": "tests.routes.on_redis"}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.InMemoryChannelLayer", "CONFIG": config}
    }
    return get_layer()


@pytest.fixture
def invitations(layer: DurableLayer) -> Reconciler:
    """The reconciler of the invitations' app."""
    Routing.of_layer()
    [found] = [reconciler for reconciler in reconcilers(layer) if reconciler.channel == "send-invite"]
    return found


@pytest.fixture
def invitations_of_one(one_layer: DurableLayer) -> Reconciler:
    Routing.of_layer()
    [found] = [reconciler for reconciler in reconcilers(one_layer) if reconciler.channel == "send-invite"]
    return found


@pytest.fixture
def registered() -> Iterator[None]:
    """What a test registers is gone afterwards."""
    before = list(_registered)
    yield
    _registered[:] = before


@pytest.fixture
def ada(django_user_model: Any) -> Any:
    return django_user_model.objects.create(username="ada")


def invite(ada: Any, count: int, age: float = 3600.0) -> list[int]:
    """Rows of that age, without messages; their keys."""
    rows = Invitation.objects.bulk_create(
        Invitation(email=f"{n}@example.com", sender=ada) for n in range(count)
    )
    Invitation.objects.update(created=timezone.now() - timedelta(seconds=age))
    return [row.pk for row in rows]


def send(*pks: int) -> None:
    Channel("send-invite").send_many(({"id": pk} for pk in pks), unique=True)


def waiting(layer: DurableLayer, channel: str = "send-invite") -> list[int]:
    if layer.outbox:  # as workers do: a sender relays a part of many
        layer.outbox.relay()
    return sorted(message.content["id"] for message in waiting_on(layer, channel, 10_000))


class TestFinding:
    def test_only_records_without_a_message_get_one(
        self, layer: DurableLayer, invitations: Reconciler, ada: Any
    ) -> None:
        claimed, retried, dead, scheduled, missing, done = invite(ada, 6)
        send(claimed, retried, dead)
        for claim in layer.claim("w", {"send-invite": 9}, LEASE).claims:
            if claim.content["id"] == dead:
                layer.bury(claim, "boom")
            elif claim.content["id"] == retried:
                layer.retry(claim, 60.0, "later")
        Channel("send-invite").send({"id": scheduled}, unique=True, delay=60)
        Invitation.objects.filter(pk=done).update(sent=timezone.now())
        assert invitations.run() == 1
        assert waiting(layer) == sorted([retried, scheduled, missing])
        assert invitations.run() == 0
        [_] = dead_on(layer, "send-invite")

    def test_after_everything_is_lost_everything_is_sent_once(
        self, layer: DurableLayer, invitations: Reconciler, ada: Any
    ) -> None:
        pks = invite(ada, 1234)
        send(*pks)
        assert invitations.run() == 0
        assert waiting(layer) == pks
        layer.cancel("send-invite", [m.id for m in waiting_on(layer, "send-invite", 10_000)])
        assert invitations.run() == 1234
        assert waiting(layer) == pks
        assert invitations.run() == 0

    def test_young_records_are_left_alone(
        self, layer: DurableLayer, invitations: Reconciler, ada: Any
    ) -> None:
        [pk] = invite(ada, 1, age=200.0)
        assert invitations.run() == 0
        assert invitations.run(older_than=100) == 1
        assert waiting(layer) == [pk]

    def test_a_record_that_was_done_meanwhile_is_left_alone(
        self, one_layer: DurableLayer, registered: None, ada: Any
    ) -> None:
        """Its consumer ended between the look at the record and the look at the layer."""
        first, second = invite(ada, 2)

        def content(invitation: Invitation) -> dict[str, int]:
            Invitation.objects.filter(pk=first).update(sent=timezone.now())
            return {"id": invitation.pk}

        @reconcile("send-invite", content=content)
        def unsent(before: datetime) -> Any:
            return Invitation.objects.filter(sent=None, created__lt=before)

        assert _registered[-1].run() == 1
        assert waiting(one_layer) == [second]

    def test_the_forms_send_what_is_looked_for(
        self, layer: DurableLayer, invitations: Reconciler, ada: Any
    ) -> None:
        bulk = BulkInvitationForm({"addresses": "a@example.com b@example.com".replace(" ", "\n")})
        assert bulk.is_valid()
        confirm(bulk.save(ada))
        form = InvitationForm({"email": "c@example.com"})
        form.instance.sender = ada
        form.save()
        assert len(waiting(layer)) == 3
        assert invitations.run(older_than=0) == 0

    def test_a_long_backlog_is_looked_at_in_parts(
        self,
        one_layer: DurableLayer,
        invitations_of_one: Reconciler,
        ada: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each look goes on where the one before has ended; what is missing is not counted."""
        monkeypatch.setattr("mailrail.reconciliation.PAGE_SIZE", 10)
        monkeypatch.setattr("mailrail.reconciliation.MAX_PAGES_PER_TURN", 2)
        pks = invite(ada, 65)
        send(*pks[:25], *pks[45:])  # two pages and a half are whole, then two and a half are not
        place = ScanPosition()
        looks = [(invitations_of_one.run(place=place), place.after) for _ in range(4)]
        assert looks == [(0, pks[19]), (20, None), (0, pks[19]), (0, pks[39])]
        assert waiting(one_layer) == pks

    def test_one_worker_at_a_time_looks(self, layer: DurableLayer, settings: Any) -> None:
        settings.MAILRAIL = {"RECONCILE_EVERY": 60}
        assert [take_turn(layer) for _ in range(3)] == [True, False, False]
        layer.advance_time(61)
        assert [take_turn(layer) for _ in range(2)] == [True, False]

    def test_not_at_all_if_the_settings_say_so(self, one_layer: DurableLayer, settings: Any) -> None:
        settings.MAILRAIL = {"RECONCILE_EVERY": None}
        assert not take_turn(one_layer)


class TestBesideAWorker:
    def test_an_app_that_fails_is_logged_and_the_others_are_looked_at(
        self, one_layer: DurableLayer, settings: Any, registered: None, ada: Any, caplog: Any
    ) -> None:
        settings.MAILRAIL = {"RECONCILE_EVERY": 0.2}
        _registered[:] = []

        @reconcile("groups")
        def broken(before: datetime) -> QuerySet[Group]:
            raise RuntimeError("no groups today")

        @reconcile("send-invite")
        def unsent(before: datetime) -> Any:
            return Invitation.objects.filter(sent=None, created__lt=before)

        over = threading.Event()
        maintenance = Maintenance(one_layer, over, scan=lambda: None)
        maintenance.start()
        try:
            for _ in range(2):  # again and again
                [pk] = invite(ada, 1)
                until(lambda pk=pk: pk in waiting(one_layer), what="the message")  # type: ignore[misc]
        finally:
            over.set()
            maintenance.stop()
        assert "broken failed" in caplog.text and "no groups today" in caplog.text

    def test_a_server_of_several_that_is_down_keeps_nobody_from_the_others(
        self, settings: Any, registered: None, ada: Any, valkey: ValkeyServer
    ) -> None:
        settings.MAILRAIL = {"RECONCILE_EVERY": 0.2}
        _registered[:] = []
        hosts = [valkey.url, f"redis://127.0.0.1:{free_port()}"]
        if crc32(b"mailrail.reconcile") % 2:
            hosts.reverse()
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": hosts}}
        }
        layer: Any = get_layer()
        names = [f"channel-{n}" for n in range(20)]
        up = layer._store.of("mailrail.reconcile")
        there = next(name for name in names if layer._store.of(name) is not up)
        here = next(name for name in names if layer._store.of(name) is up)
        for channel in (there, here):
            reconcile(channel)(lambda before: Invitation.objects.filter(sent=None, created__lt=before))
        over = threading.Event()
        maintenance = Maintenance(layer, over, scan=lambda: None)
        maintenance.start()
        try:
            [pk] = invite(ada, 1)
            until(lambda: waiting(layer, here) == [pk], what="the message")
        finally:
            over.set()
            maintenance.stop()


class TestRegistering:
    def test_the_content_is_what_the_app_says(self, one_layer: DurableLayer, registered: None) -> None:
        @reconcile("groups", content=lambda group: {"name": group.name}, older_than=timedelta(0))
        def all_of_them(before: datetime) -> QuerySet[Group]:
            return Group.objects.order_by("-name")

        Group.objects.create(name="b")
        Group.objects.create(name="a")
        Channel("groups").send({"name": "a"}, unique=True)
        assert _registered[-1].run() == 1
        assert [m.content for m in waiting_on(one_layer, "groups")] == [{"name": "a"}, {"name": "b"}]

    def test_the_priority_is_what_the_app_says(self, one_layer: DurableLayer, registered: None) -> None:
        @reconcile("groups", priority=lambda group: len(group.name), older_than=0)
        def all_of_them(before: datetime) -> QuerySet[Group]:
            return Group.objects.all()

        group = Group.objects.create(name="four")
        assert _registered[-1].run() == 1
        assert [(m.content, m.priority) for m in waiting_on(one_layer, "groups")] == [({"id": group.pk}, 4)]

    def test_an_imported_again_module_registers_once(self, registered: None) -> None:
        def find(before: datetime) -> QuerySet[Group]:
            return Group.objects.all()

        before = len(_registered)
        reconcile("groups")(find)
        assert reconcile("groups")(find) is find
        assert len(_registered) == before + 1

    def test_only_the_layer_that_carries_its_messages_is_looked_at(
        self, settings: Any, registered: None
    ) -> None:
        memory = {
            "BACKEND": "mailrail.layers.InMemoryChannelLayer",
            "CONFIG": {"routing": "tests.routes.on_redis"},
        }
        settings.CHANNEL_LAYERS = {"default": memory, "second": memory}
        _registered[:] = []
        reconcile("groups")(lambda before: Group.objects.all())
        reconcile("others", layer="second")(lambda before: Group.objects.all())
        assert [reconciler.channel for reconciler in reconcilers(get_layer())] == ["groups"]
        assert [reconciler.channel for reconciler in reconcilers(get_layer("second"))] == ["others"]

    def test_what_is_no_queryset_is_named(self, one_layer: DurableLayer, registered: None) -> None:
        @reconcile("groups")
        def numbers(before: datetime) -> Any:
            return [1, 2]

        with pytest.raises(TypeError, match=r"numbers must return a QuerySet of records, not list"):
            _registered[-1].run()

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("no spaces",), "A channel name"),
            (("groups",), "older_than must be seconds or a timedelta, zero or more"),
        ],
    )
    def test_what_cannot_be_is_refused(self, registered: None, arguments: Any, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            reconcile(*arguments, older_than=-1 if "older" in told else 0)(lambda before: Group.objects.all())

    def test_a_decorator_without_a_channel_is_refused_as_nothing_would_be_registered(self) -> None:
        def unsent(before: Any) -> Any: ...

        with pytest.raises(TypeError, match=r'needs a channel, not .*unsent.*: @reconcile\("name"\)\.$'):
            reconcile(unsent)  # type: ignore[arg-type]


def call(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


class TestCommand:
    def test_it_looks_now(self, one_layer: DurableLayer, ada: Any) -> None:
        [pk] = invite(ada, 1, age=100.0)
        unsent = "mailrail.invitations.consumers.unsent: {} sent again\n"
        assert unsent.format(0) in call("channels", "reconcile")
        assert unsent.format(1) in call("channels", "reconcile", "--older-than", "60")
        assert waiting(one_layer) == [pk]
        assert '"mailrail.invitations.consumers.unsent": 0' in call("channels", "--json", "reconcile")

    def test_it_refuses_what_makes_no_sense(self, one_layer: DurableLayer, registered: None) -> None:
        with pytest.raises(
            CommandError, match="must be seconds, zero or more and at most 100 years, not '-1'"
        ):
            call("channels", "reconcile", "--older-than=-1")
        Routing.of_layer()
        _registered[:] = []
        with pytest.raises(CommandError, match="No app says which records"):
            call("channels", "reconcile")
