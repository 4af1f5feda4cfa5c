"""What providers mean by replies that the RFCs leave open, by the names of the providers.

Every line is documented by its provider, or reported with the page that is named. Without a preset nothing of this is
assumed. docs/how-to/mail-queue.md has the same lines, with links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..smtp.replies import Meaning, ReplyRule


def _rule(means: Meaning, text: str = "", code: int | None = None, enhanced: str | None = None) -> ReplyRule:
    return ReplyRule(means, code, enhanced, re.compile(text, re.IGNORECASE) if text else None)


_SLOW, _OUT, _LATER, _SENDER = Meaning.SLOW_DOWN, Meaning.OUT, Meaning.LATER, Meaning.SENDER

_TENCENT = (
    # https://service.mail.qq.com/detail/122/172 to /175, /170 and /166
    _rule(_SLOW, "(ip|domain|sender|connection) frequency limited", 550),
    _rule(_SLOW, "connection denied", 550),
    _rule(_LATER, "mailbox unavailable or access denied", 550),
    # reported, not documented: https://www.cnblogs.com/nihaofenghao/p/8929862.html
    _rule(_SENDER, "mail from address must be same as authorization user", 501),
)

PRESETS: Mapping[str, tuple[ReplyRule, ...]] = {
    "gmail": (
        # https://knowledge.workspace.google.com/admin/support/troubleshooting/gmail-smtp-errors-and-codes
        _rule(_SLOW, code=550, enhanced="5.4.5"),
        _rule(_SLOW, "daily smtp relay limit exceeded", 550, "5.7.1"),
        _rule(_SLOW, "peak smtp relay limit exceeded", 450, "4.2.1"),
    ),
    "microsoft365": (
        # https://learn.microsoft.com/en-us/exchange/mail-flow-best-practices/non-delivery-reports-in-exchange-online/
        # non-delivery-reports-in-exchange-online
        _rule(_SLOW, enhanced="5.1.90"),
        _rule(_SLOW, "submission quota exceeded", enhanced="5.2.2"),
        _rule(_LATER, enhanced="5.2.121"),
        _rule(_LATER, enhanced="5.2.122"),
        _rule(_OUT, enhanced="5.7.57"),
        _rule(_OUT, enhanced="5.7.501"),
        # https://learn.microsoft.com/en-us/exchange/troubleshoot/send-emails/smtp-submission-improvements
        _rule(_SLOW, code=432, enhanced="4.3.2"),
    ),
    "ses": (
        # https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html
        _rule(_SLOW, "throttling failure", 454),
        # https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html
        _rule(_OUT, "sending paused for this account", 554),
    ),
    "qq": _TENCENT,
    "exmail": _TENCENT,
    "163": (
        # http://mail.163.com/help/help_spam_16.htm, which the replies themselves name
        _rule(_SLOW, r"\bMI:SFQ\b"),
        _rule(_SLOW, r"\bRP:QRC\b", 451),
        _rule(_SLOW, r"\bMI:STC\b", 550),
        _rule(_SLOW, r"\bRP:TRC\b", 550),
    ),
    "directmail": (
        # https://help.aliyun.com/document_detail/44499.html
        _rule(_SLOW, "daily sending quota exceeded", 552),
        _rule(_OUT, "monthly sending quota exceeded|not enough sending quota", 552),
        _rule(_OUT, "main account unavailable", 551),
        _rule(_SENDER, "doesn't conform with authentication", 436),
        # https://www.alibabacloud.com/help/faq-detail/109009.htm
        _rule(_SLOW, "too frequently sending", 554),
    ),
}
