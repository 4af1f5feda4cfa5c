"""Each mailer has a channel, whose name can be read back; limiters give back what no email needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import django
import pytest
from django.test import override_settings

from mailrail.errors import LayerUnavailable
from mailrail.layers import get_layer
from mailrail.mail import Email, queue, queue_many
from mailrail.mail.mailers import circuit, connection_limits, waiting
from mailrail.mail.mailers import limiter as limiters
from mailrail.mail.mailers.channels import channel_of, is_mail, mailer_of
from mailrail.mail.mailers.config import delivering
from mailrail.mail.mailers.limiter import ClaimSize, MailerLimiter
from mailrail.mail.models import MailerConnection, MailerState
from mailrail.messages import Message, check_channel_name
from mailrail.moments import from_now
from mailrail.reconciliation import reconcilers
from mailrail.routing import Allowance, Rate, Routing
from mailrail.testing import sent

from ..listed import waiting_on
from ..processes import until
from .conftest import CHANNEL, MAILER, messages

Configure = Callable[..., None]
ALIASES = ["smtp", "bulk-mail", "Bulk_2", "a.b", "a..b", ".", "käse", "邮件", "a/b c", "2e", ".2e", "x" * 85]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_read_back_from_its_channel(alias: str) -> None:
    channel = channel_of(alias)
    assert check_channel_name(channel) and is_mail(channel) and mailer_of(channel) == alias


def test_no_two_aliases_share_a_channel(queueing: Configure, second: Configure) -> None:
    long = ["x" * 86, "x" * 99 + "a", "x" * 99 + "b", "邮" * 40]
    channels = {
        channel_of(alias) for alias in (*ALIASES, *long, "default" if django.VERSION >= (6, 1) else "")
    }
    assert len(channels) == len(ALIASES) + len(long) + 1
    assert all(check_channel_name(channel) for channel in channels)
    queueing(1)
    second(long[0], 1)
    assert mailer_of(channel_of(long[0])) == long[0] and mailer_of(channel_of(long[1])) is None


def test_the_mailer_without_an_alias_is_the_default_one_until_there_are_mailers() -> None:
    if django.VERSION < (6, 1):
        assert channel_of("") == "mailrail.mail.default" and mailer_of("mailrail.mail.default") == ""
        return
    with override_settings(MAILERS={"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}):
        assert channel_of("") != channel_of("default") and mailer_of(channel_of("")) == ""


@pytest.mark.django_db(transaction=True)
def test_a_record_without_its_message_gets_it_on_the_channel_of_its_mailer(
    queueing: Configure, second: Configure
) -> None:
    queueing(1)
    second("other", 1)
    queue_many(messages(2), mailer=MAILER)
    queue(messages(1)[0], mailer="other")
    layer = get_layer()
    for channel in (CHANNEL, "mailrail.mail.other"):
        layer.cancel(channel, [message.id for message in waiting_on(layer, channel)])
    assert sent("mailrail.mail") == []
    Routing.of_layer()
    by_pattern = [it for it in reconcilers(layer) if it.channel == "mailrail.mail.*"]
    assert sum(reconciler.run(0.0) for reconciler in by_pattern) == 3
    assert sorted(message.channel for message in sent("mailrail.mail")) == sorted(
        [CHANNEL] * 2 + ["mailrail.mail.other"]
    )
    assert sum(reconciler.run(0.0) for reconciler in by_pattern) == 0


@pytest.fixture
def limiter(queueing: Configure, policy: Configure) -> MailerLimiter:
    queueing(1)
    policy(RATE="10/h, 100/d", CONNECTIONS=4)
    return MailerLimiter(CHANNEL, get_layer())


def tokens() -> tuple[int, int]:
    """Take what both buckets have, and give it back."""
    layer, left = get_layer(), []
    for window, rate in (("3600", Rate(10, 3600)), ("86400", Rate(100, 86400))):
        bucket = f"mail:{delivering()[0]}::{window}"
        left.append(layer.take(bucket, 100, rate).granted)
        layer.take(bucket, -left[-1], rate)
    return left[0], left[1]


def raise_unavailable(*args: Any) -> NoReturn:
    raise LayerUnavailable("It is away.")


def connections() -> int:
    return MailerConnection.objects.exclude(holder="").count()


class TestHowManyAreClaimed:
    """Once for each batch that can begin, and no more than leave in a tenth of a second."""

    def test_the_first_claims_leave_some_of_a_short_backlog_to_other_processes(self) -> None:
        size = ClaimSize()
        for wanted, now, limit in ((400, 0.0, 200), (200, 0.005, 100)):
            assert size.limit(wanted, now) == limit
            size.claimed(limit, now)

    @pytest.mark.parametrize(("seconds", "limit"), [(0.02, 200), (0.0625, 160), (0.125, 100), (60.0, 100)])
    def test_later_ones_take_what_leaves_in_a_tenth_of_a_second(self, seconds: float, limit: int) -> None:
        size = ClaimSize()
        assert size.limit(200, 1.0) == 100
        size.claimed(100, 1.0)
        assert size.limit(200, 1.0 + seconds) == limit

    def test_no_more_than_the_worker_has_room_for(self) -> None:
        assert ClaimSize().limit(30, 0.0) == 30

    def test_claims_that_find_nothing_say_nothing_of_the_rate(self) -> None:
        size = ClaimSize()
        size.limit(200, 0.0)
        size.claimed(100, 0.0)
        for now in (0.01, 0.02):
            size.limit(200, now)
            size.claimed(0, now)
        assert size.limit(200, 0.08) == 125

    @pytest.mark.django_db
    def test_the_limiter_of_a_mailer_without_limits_asks_it(self, queueing: Configure) -> None:
        queueing(1)
        limiter = MailerLimiter(CHANNEL, get_layer())
        assert limiter.allow(400) == Allowance(200)
        limiter.claimed([Message(CHANNEL, {"id": "1"})])
        assert limiter.allow(200) == Allowance(100)


@pytest.mark.django_db(transaction=True)
class TestReserving:
    def claims(self, count: int) -> list[Any]:
        return [Message(CHANNEL, {"id": str(n)}) for n in range(count)]

    def test_the_first_look_reserves_nothing(self, limiter: MailerLimiter) -> None:
        assert limiter.allow(200) == Allowance(1) and limiter.claimed([]) == ()
        assert tokens() == (10, 100) and connections() == 0

    def test_a_batch_collects_what_was_reserved_and_gives_back_what_it_does_not_use(
        self, limiter: MailerLimiter
    ) -> None:
        [first] = self.claims(1)
        assert limiter.allow(200) == Allowance(1) and limiter.claimed([first]) == [] and connections() == 1
        assert limiter.allow(200).limit == 9 and connections() == 4 and tokens() == (0, 90)
        claims = self.claims(4)
        assert limiter.claimed(claims) == () and tokens() == (5, 95)
        batch = limiters.collect(claim.id for claim in claims)
        assert batch.tokens.total() == 8 and len(batch.connections) == 1
        assert not limiters.collect(claim.id for claim in claims).tokens  # once
        batch.give_back()
        assert tokens() == (9, 99) and connections() == 1
        limiters.collect([first.id]).give_back()
        assert tokens() == (10, 100) and connections() == 0

    def test_a_claim_that_failed_gives_back_with_the_next_one(self, limiter: MailerLimiter) -> None:
        limiter.allow(200)
        limiter.claimed(claims := self.claims(1))
        limiters.collect([claims[0].id]).give_back()
        assert limiter.allow(200).limit == 10 and limiter.allow(200).limit == 10
        limiter.claimed([])
        assert tokens() == (10, 100) and connections() == 0

    def test_what_no_batch_collects_is_given_back_in_time(
        self, limiter: MailerLimiter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limiters, "MAX_UNUSED_S", 0.0)
        limiter.allow(200)
        limiter.claimed(self.claims(1))
        limiters.give_back_unused()
        assert tokens() == (10, 100) and connections() == 0

    def test_an_email_that_a_process_of_its_own_sends_keeps_nothing_here(
        self, limiter: MailerLimiter
    ) -> None:
        [lost] = [replace(claim, losses=1) for claim in self.claims(1)]
        limiter.allow(200)
        assert limiter.claimed([lost]) == []
        assert tokens() == (10, 100) and connections() == 0

    @pytest.mark.parametrize("is_claimed", [True, False])
    def test_a_process_that_asks_no_more_gives_back_what_it_holds(
        self, limiter: MailerLimiter, monkeypatch: pytest.MonkeyPatch, is_claimed: bool
    ) -> None:
        limiter.allow(200)
        limiter.claimed(claims := self.claims(1))
        limiters.collect([claims[0].id]).give_back()
        monkeypatch.setattr(limiters, "MAX_UNUSED_S", 0.0)
        assert limiter.allow(200).limit == 10
        if is_claimed:
            limiter.claimed(self.claims(10))
        until(lambda: connections() == 0 and tokens() == (10, 100), 20)

    def test_an_outage_of_the_layer_keeps_no_connection(
        self, limiter: MailerLimiter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiter.allow(200)
        limiter.claimed(first := self.claims(1))
        limiter.allow(200)
        limiter.claimed(second := self.claims(2))
        limiter.allow(200)
        assert connections() == 4
        monkeypatch.setattr(get_layer(), "take", raise_unavailable)
        limiters.collect([first[0].id]).give_back()
        limiters.collect([second[0].id]).give_back()
        limiter.claimed([])
        assert connections() == 0
        limiter._has_backlog = True
        with pytest.raises(LayerUnavailable):
            limiter.allow(200)
        assert connections() == 0

    def test_all_is_given_back_whatever_fails_first(
        self, limiter: MailerLimiter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grants = [
            limiters.Grant([], 1, connection_limits.reserve(limiter.mailer or "", 1, "default"))
            for _ in range(3)
        ]
        monkeypatch.setattr(limiters, "MAX_UNUSED_S", -1.0)
        monkeypatch.setattr(waiting, "watch", lambda name, is_over: None)
        for grant in grants:
            grant.limits = [None]  # type: ignore[list-item]  # nobody can take tokens of that
            limiters.keep([id(grant)], grant)
        assert connections() == 3
        with pytest.raises(AttributeError):
            limiters.give_back_unused()
        assert connections() == 0

    @pytest.mark.parametrize("missing", ["tokens", "connections", ""])
    def test_no_email_probes_a_mailer_that_is_out_and_over_its_limits(
        self, limiter: MailerLimiter, missing: str
    ) -> None:
        mailer = delivering()[0]
        circuit.trip(mailer, "It is away.", Email.objects.db)
        MailerState.objects.update(probe_at=from_now(-1))
        circuit.look_again(Email.objects.db)
        if missing == "tokens":
            get_layer().take(f"mail:{mailer}::3600", 10, Rate(10, 3600))
        elif missing == "connections":
            rows = (MailerConnection(mailer=mailer, number=n, until=from_now(3600)) for n in range(1, 5))
            MailerConnection.objects.bulk_create(rows)
        assert limiter.allow(200).limit == (0 if missing else 1)
        assert limiter.claimed([]) == () and tokens() == (0 if missing == "tokens" else 10, 100)
        assert connections() == 0
        if missing:  # nor does a batch that is under way
            assert not circuit.permission_of(mailer, Email.objects.db).limit

    def test_a_stand_in_delivers_for_a_mailer_whose_probe_is_over_its_rate(
        self, limiter: MailerLimiter, policy: Configure, second: Configure
    ) -> None:
        mailer = delivering()[0]
        policy(RATE="10/h", FAILOVER=["backup"])
        second("backup", 1)
        get_layer().take(f"mail:{mailer}::3600", 10, Rate(10, 3600))
        circuit.trip(mailer, "It is away.", Email.objects.db)
        MailerState.objects.update(probe_at=from_now(-1))
        circuit.look_again(Email.objects.db)
        assert limiter.allow(200) == Allowance(100)

    def test_with_all_connections_in_use_nothing_is_claimed_and_no_token_taken(
        self, limiter: MailerLimiter
    ) -> None:
        limiter.allow(200)
        limiter.claimed(claims := self.claims(1))
        limiters.collect([claims[0].id]).give_back()
        MailerConnection.objects.update(holder="another", until="2100-01-01T00:00:00Z")
        assert limiter.allow(200).limit == 0 and tokens() == (10, 100)
        assert not Email.objects.exists()
