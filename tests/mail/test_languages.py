"""The admin of email for people who do not read English: everything but the emails themselves is in their language."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from mailrail import mail
from mailrail.mail.delivery.outcomes import fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.models import Email, MailerState, Suppression
from scripts.catalogues import CHINESE
from tests.visible import english, texts

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("many_languages")]

DATA = (
    *(
        "you@example.com",
        "me@example.com",
        "nobody there",
        "Hello",
        "bounce",
        "out",
        "backup",
        "default",
        "no reason",
    ),
    *("Message-ID", "HTML", ".eml", "ID", "complaint"),
    *("Search", "Select an option"),  # Django has them in English
)


@pytest.fixture
def staff(db: None, queueing: Callable[..., None]) -> Client:
    queueing(1)
    client = Client(headers={"accept-language": "zh-Hans"})
    client.force_login(User.objects.create(username="staff", is_staff=True, is_superuser=True))
    return client


def read(response: Any) -> str:
    """What stands between the heading and the end of the page, without the list of an email's headers."""
    assert response.status_code == 200 and 'lang="zh-hans"' in response.text
    shown = response.text.partition('<div id="content"')[2].partition("<h3>邮件头</h3>")[0]
    page = "\n".join(texts(f"<div {shown}"))
    assert re.search(CHINESE, page)
    assert [word for word in english(page, *DATA) if not re.fullmatch("[0-9a-f-]+", word)] == []
    return page


def test_the_list_and_its_actions(staff: Client) -> None:
    email = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", ["you@example.com"]))
    url = reverse("admin:mailrail_mail_email_changelist")
    page = read(staff.get(url))
    for text in ("排队中", "收件人", "发信服务", "入队时间", "没有更多了。", "暂缓所选邮件", "关联对象"):
        assert text in page
    page = staff.post(url, {"action": "hold", "_selected_action": [email.pk]}, follow=True).text
    assert "暂缓：1 封邮件。" in page
    page = staff.post(url, {"action": "hold", "_selected_action": [email.pk]}, follow=True).text
    assert "1 封邮件未处理：已暂缓，请先取消暂缓。" in page


def test_an_email_and_what_happened_to_it(staff: Client) -> None:
    email = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", ["you@example.com"]))
    mail.hold(email)
    mail.unhold(email)
    store_outcomes([fail(Email.objects.get(), timezone.now(), "nobody there", "out")], (), "default")
    url = reverse("admin:mailrail_mail_email_change", args=(email.pk,))
    page = read(staff.get(url))
    for text in ("已暂缓", "已取消暂缓", "失败", "经过", "重新发送", "外部图片、脚本和链接均已禁用。"):
        assert text in page
    decide = reverse("admin:mailrail_mail_email_decide", args=(email.pk,))
    page = staff.post(decide, {"decision": "cancel"}, follow=True).text
    assert "1 封邮件未处理：已失败。" in page


def test_mailers_and_suppressed_addresses(staff: Client) -> None:
    MailerState.objects.create(mailer="backup", paused_by="outage", reason="no reason")
    url = reverse("admin:mailrail_mail_mailerstate_changelist")
    page = read(staff.get(url))
    assert "正常" in page and "无法使用，其邮件正在等待" in page
    page = staff.post(f"{url}switch/", {"mailer": "backup", "what": "resume"}, follow=True).text
    assert "Backup 已恢复。" in page  # Django begins messages with a capital
    Suppression.objects.create(address="you@example.com")
    page = read(staff.get(reverse("admin:mailrail_mail_suppression_changelist")))
    assert "屏蔽地址" in page and "起始时间" in page
    assert "bounce（退信）" in read(staff.get(reverse("admin:mailrail_mail_suppression_add")))
