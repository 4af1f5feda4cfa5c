"""Other languages than English: of the pages, by what the browser asks for; of an email, by what its sender reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core import mail
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.utils import timezone
from django.utils.translation import override

from mailrail.invitations import InvitationRefused, invite, invite_many, resend, revoke
from mailrail.invitations.addresses import Entry
from mailrail.invitations.bulk import confirm, draft
from mailrail.invitations.consumers import compose
from mailrail.invitations.models import Invitation, InvitationBatch, InvitationStatus
from mailrail.mail.models import Suppression
from mailrail.testing import drain
from scripts.catalogues import CHINESE
from tests.visible import english, texts

CHINA = "zh-Hans,zh;q=0.9,en;q=0.8"
KNOWN = (
    *("CST", "CDT", "sender", "guest", "@example.com", "CSV", "Excel", "xlsx", "UTF-8", "“email”"),
    "有效的 Email 地址",  # as Django says it
)


pytestmark = pytest.mark.usefixtures("many_languages")


@pytest.fixture
def chinese(db: None, sender: User) -> Client:
    """The browser of a sender who reads Chinese."""
    client = Client(headers={"accept-language": CHINA})
    client.force_login(sender)
    return client


@pytest.fixture
def guest(db: None) -> Client:
    """The browser of an invited person who reads Chinese and is not logged in."""
    return Client(headers={"accept-language": CHINA})


def read(response: Any, status: int = 200) -> str:
    """The whole of a page, which has to be in Chinese but for names and addresses."""
    assert response.status_code == status
    assert '<html lang="zh-hans"' in response.text
    text = "\n".join(texts(response.text))
    assert re.search(CHINESE, text) and english(text, *KNOWN) == []
    return text


# -- pages ------------------------------------------------------------------------------------------------------------


def test_the_pages_of_a_sender_are_chinese(chinese: Client, sender: User) -> None:
    assert "您还没有邀请过任何人。" in read(chinese.get("/invites/"))
    assert "批量邀请" in read(chinese.get("/invites/bulk/"))
    assert "发送邀请" in read(chinese.get("/invites/new/"))
    text = read(chinese.post("/invites/new/", {"email": "guest@example.com"}, follow=True))
    assert "发给 guest@example.com 的邀请已加入发送队列。" in text
    assert "已发送 0 / 1" in text and "待发送" in text and "发送时间" in text
    invite_many([f"guest{n}@example.com" for n in range(60)], sender)
    text = read(chinese.get("/invites/?page=2"))
    assert "第 2 页，共 2 页" in text and "较新" in text


NO_ADDRESSES = (
    *("", "guest", "guest guest@example.com", "gäst@example.com", '"g"@example.com', "guest@i♥.ws"),
    *("a\0@example.com", f"{'x' * 80}@example.com", f"guest@{'ü' * 70}.example.com"),
)


@pytest.mark.parametrize("wrong", NO_ADDRESSES)
def test_what_is_wrong_with_an_address_is_said_in_chinese(chinese: Client, wrong: str) -> None:
    page = chinese.post("/invites/new/", {"email": wrong})
    assert page.status_code == 200
    [match] = re.findall(r'<ul class="errorlist"[^>]*><li>(.*?)</li>', page.text)
    assert re.search(CHINESE, match) and english(match, *KNOWN) == []


def test_a_list_is_shown_confirmed_and_watched_in_chinese(
    chinese: Client, sender: User, settings: Any
) -> None:
    invite("guest1@example.com", sender)
    Suppression.objects.create(address="guest2@example.com")
    for n in range(5):
        other = User.objects.create_user(f"other{n}")
        invite("guest3@example.com", other)
    given = ["guest1@example.com", "guest2@example.com", "guest3@example.com", "guest4@example.com"]
    pasted = "，".join([*given, "guest4@example.com", "guest"])
    said = read(chinese.post("/invites/bulk/", {"addresses": pasted}, follow=True))
    for text in (
        *("将邀请 1 个地址。", "略过 5 行", "您已邀请过该地址：待发送。", "本站不向该地址发送邮件。"),
        *("该地址近期收到的邀请过多，请明天再试。", "该地址已出现在第 1 行。"),
    ):
        assert text in said
    batch = InvitationBatch.objects.get()
    said = read(chinese.post(f"/invites/bulk/{batch.pk}/", follow=True))
    assert "正在发送邀请" in said and "0 / 1 · 1 等待中" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "这个字段是必填项。"),
        ({"addresses": "guest@example.com", "file": b"guest@example.com"}, "二者只能选其一"),
        ({"file": b"\xff\xff"}, "文件不是 UTF-8 编码"),
        ({"file": b'"' + b"x" * 140_000}, "文件第 1 行不是有效的 CSV"),
        ({"file": b"x" * 2_100_000}, "文件大于"),
        ({"addresses": "a@example.com;" * 10_001}, "共有 10001 个地址，一次最多可邀请 10000 个。"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_in_chinese(
    chinese: Client, given: dict[str, Any], said: str
) -> None:
    if "file" in given:
        given = {**given, "file": SimpleUploadedFile("list.csv", given["file"])}
    page = chinese.post("/invites/bulk/", given)
    assert page.status_code == 200 and said in page.text


def test_the_pages_of_an_invited_person_are_chinese(guest: Client, invitation: Invitation) -> None:
    url = invitation.accept_path()
    text = read(guest.get(url))
    assert "sender 邀请了 guest@example.com。" in text and "登录" in text and "注册" in text
    guest.post(url, {"go": "sign-up"})
    assert "这将是您账号的邮箱地址。" in read(guest.get("/invites/sign-up/"))
    guest.force_login(User.objects.create_user("guest2", "guest2@example.com"))
    assert "您当前登录的账号 guest2 使用的是另一个邮箱地址。" in read(guest.get(url), 403)
    guest.force_login(User.objects.create_user("guest", "guest@example.com"))
    assert "接受邀请" in read(guest.get(url))
    assert re.search(r"邀请已于 \d{4}年\d+月\d+日 接受", read(guest.post(url, follow=True)))


def test_links_that_open_nothing_say_so_in_chinese(
    guest: Client, invitation: Invitation, sender: User
) -> None:
    url = invitation.accept_path()
    assert "没有这个邀请" in read(guest.get("/invites/accept/forged/"), 404)
    resend(invitation)
    assert "此邀请已用新链接重新发送" in read(guest.get(url), 410)
    url = invitation.accept_path()
    Invitation.objects.update(expires_at=timezone.now() - timedelta(1))
    assert "此邀请已过期。" in read(guest.get(url), 410)
    Invitation.objects.update(expires_at=None, accepted_at=timezone.now())
    assert "此邀请已被接受。" in read(guest.get(url), 410)
    Invitation.objects.update(accepted_at=None, revoked_at=timezone.now())
    assert "此邀请已撤回。" in read(guest.get(url), 410)


def test_who_asks_for_english_gets_english(browser: Client, settings: LazySettings) -> None:
    settings.LANGUAGE_CODE = "zh-hans"
    page = browser.get("/invites/", headers={"accept-language": "en"})
    assert "You have invited nobody yet." in page.text and not re.search(CHINESE, page.text)


# -- what a sender is told --------------------------------------------------------------------------------------------


def refusals(sender: User, with_settings: Callable[..., None]) -> Iterator[str]:
    """Every reason there is to refuse, in the language that is active."""

    def refused(act: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(InvitationRefused) as caught:
            act(*arguments)
        return str(caught.value)

    invitation = invite("guest@example.com", sender)
    revoke(invitation)
    yield refused(resend, invitation)
    accepted = invite("guest@example.com", sender)
    accepted.accept()
    yield refused(revoke, accepted)
    Suppression.objects.create(address="guest2@example.com")
    yield refused(invite, "guest2@example.com", sender)
    with_settings(INVITATIONS_PER_RECIPIENT=1)
    yield refused(invite, "guest@example.com", sender)
    with_settings(INVITATIONS_PER_SENDER=1)
    yield refused(invite, "guest3@example.com", sender)
    with_settings(INVITATIONS_PER_DAY=1, INVITATIONS_PER_SENDER=None)
    yield refused(invite, "guest3@example.com", sender)
    sender.is_active = False
    yield refused(invite, "guest3@example.com", sender)


def test_refusals_are_chinese(sender: User, with_settings: Callable[..., None]) -> None:
    with override("zh-hans"):
        said = list(refusals(sender, with_settings))
    assert len(set(said)) == 7
    for text in said:
        assert re.search(CHINESE, text) and english(text, *KNOWN) == []


# -- the email --------------------------------------------------------------------------------------------------------


def test_the_email_is_in_the_language_of_who_invites(chinese: Client) -> None:
    chinese.post("/invites/new/", {"email": "guest@example.com", "message": "欢迎你来！"})
    with override("en-us"):  # as in a worker, where nobody has a request
        drain()
    [email] = mail.outbox
    assert email.subject == "您收到一份邀请！"
    assert isinstance(email, EmailMultiAlternatives)
    [(html, _kind)] = cast("list[tuple[str, str]]", email.alternatives)
    key = Invitation.objects.get().key
    link = f"https://testserver.example/invites/accept/{key}/"
    assert '<html lang="zh-hans"' in html
    for said in (str(email.body), "\n".join(texts(html))):
        assert "sender 邀请了您。" in said and "欢迎你来！" in said
        assert re.search(r"链接有效期至 \d{4}年\d+月\d+日 \d\d:\d\d（C[SD]T）。", said)
        assert "忽略本邮件即可。" in said and english(said, *KNOWN, link) == []
    assert link in email.body and "sender 的留言：" in email.body


def test_every_way_to_invite_notes_the_language(chinese: Client, admin_client: Client, sender: User) -> None:
    with override("zh-hans"):
        invite("one@example.com", sender)
        invite_many(["two@example.com"], sender)
        confirm(draft([Entry(1, "three@example.com")], sender))
    chinese.post("/invites/new/", {"email": "four@example.com"})
    given = {"email": "five@example.com", "sender": sender.pk, "role": "", "message": ""}
    page = "/admin/mailrail_invitations/invitation/add/"
    assert admin_client.post(page, given, headers={"accept-language": CHINA}).status_code == 302
    assert [invitation.language for invitation in Invitation.objects.all()] == ["zh-hans"] * 5


def test_the_language_can_be_another_one(sender: User, settings: LazySettings) -> None:
    with override("zh-hans"):
        invite("one@example.com", sender, language="en")
        invite_many(["two@example.com"], sender, language="")  # that of the site
    settings.LANGUAGE_CODE = "de"
    invite("three@example.com", sender, language="zh-hans")
    one, two, three = Invitation.objects.order_by("pk")
    assert (one.language, two.language, three.language) == ("en", "", "zh-hans")
    assert compose(one).subject == "You have been invited!"
    with override("zh-hans"):
        assert compose(one).subject == "You have been invited!"
        assert compose(two).subject == "您收到一份邀请！"  # the active one; in a worker, LANGUAGE_CODE is
    assert compose(three).subject == "您收到一份邀请！"
    for language, meant in (
        ("zh-cn", " Is it 'zh-hans'?"),
        ("zh_Hans", " Is it 'zh-hans'?"),
        ("ZH-CN", " Is it 'zh-hans'?"),
        ("zh_TW", " Is it 'zh-hant'?"),
        ("klingon", ""),
    ):
        expected = f"not {language!r}.{meant}"
        with pytest.raises(
            ValueError, match=rf"^language must be one of .* LANGUAGES \(.*{re.escape(expected)}$"
        ):
            invite("four@example.com", sender, language=language)
    assert Invitation.objects.count() == 3


def test_what_is_sent_again_keeps_its_language(sender: User) -> None:
    with override("zh-hans"):
        invitation = invite("guest@example.com", sender)
    resend(invitation)
    with override("en-us"):
        drain()
    assert {email.subject for email in mail.outbox} == {"您收到一份邀请！"}


def test_a_language_that_the_site_has_no_more_does_no_harm(invitation: Invitation) -> None:
    Invitation.objects.update(language="xx-gone")
    assert compose(Invitation.objects.get()).subject == "You have been invited!"


# -- the admin --------------------------------------------------------------------------------------------------------


def test_the_admin_is_chinese(admin_client: Client, invitation: Invitation) -> None:
    folder = "/admin/mailrail_invitations/invitation/"
    page = admin_client.get(folder, headers={"accept-language": CHINA})
    said = texts(page.text)
    for text in ("状态", "邀请人", "创建时间", "发送时间", "用新链接重新发送", "撤销", *map(str, labels())):
        assert text in said, text
    chosen = {"action": "resend_selected", "_selected_action": [invitation.pk]}
    page = admin_client.post(folder, chosen, headers={"accept-language": CHINA})
    assert "用新链接重新发送这些邀请？此前发出的链接将失效。" in page.text
    chosen["post"] = "yes"
    page = admin_client.post(folder, chosen, follow=True, headers={"accept-language": CHINA})
    assert "已处理 1 个邀请。" in page.text
    page = admin_client.get(f"{folder}{invitation.pk}/history/", headers={"accept-language": CHINA})
    assert "用新链接重新发送" in page.text


def labels() -> list[str]:
    with override("zh-hans"):
        return [str(label) for label in InvitationStatus.labels]
