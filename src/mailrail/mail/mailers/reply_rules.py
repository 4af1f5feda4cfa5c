"""Rules for replies that the RFCs leave open: how settings write them, and presets by the names of providers.

Every line of a preset is documented by its provider, or reported with the page that is named. Without a preset nothing
of this is assumed. docs/how-to/mail-queue.md has the same lines, with links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mailrail.errors import InvalidSettings
from mailrail.options import Mistakes

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


def read_replies(where: str, value: Any) -> tuple[ReplyRule, ...]:
    """Read rules, and names of presets, which stand for their rules."""
    if not isinstance(value, list | tuple):
        raise InvalidSettings(f"{where} must be a list of rules and names of presets, not {value!r}.")
    rules: list[ReplyRule] = []
    mistakes = Mistakes(InvalidSettings)
    for n, entry in enumerate(value):
        with mistakes.noted():
            rules += _preset(where, entry) if isinstance(entry, str) else [_read_rule(f"{where}[{n}]", entry)]
    mistakes.raise_any(InvalidSettings)
    return tuple(rules)


def _preset(where: str, name: str) -> tuple[ReplyRule, ...]:
    if name not in PRESETS:
        raise InvalidSettings(
            f"{where} names {name!r}, which is no preset. There are: {', '.join(sorted(PRESETS))}."
        )
    return PRESETS[name]


def _read_rule(where: str, value: Any) -> ReplyRule:
    if not isinstance(value, Mapping):
        raise InvalidSettings(
            f"{where} must be the name of a preset or a dictionary such as "
            f"{{'code': 554, 'text': 'quota exceeded', 'means': 'later'}}, not {value!r}."
        )
    if unknown := value.keys() - {"code", "enhanced", "text", "means"}:
        raise InvalidSettings(
            f"{where} has no key {min(map(str, unknown))!r}. It knows: code, enhanced, text, means."
        )
    if not value.keys() & {"code", "enhanced", "text"}:
        raise InvalidSettings(f"{where} would match every reply. Give at least one of: code, enhanced, text.")
    known = [str(meaning) for meaning in Meaning]
    if value.get("means") not in known:
        raise InvalidSettings(
            f"{where}['means'] must be one of {', '.join(map(repr, known))}, not {value.get('means')!r}."
        )
    return ReplyRule(
        Meaning(value["means"]), _code(where, value), _enhanced(where, value), _text(where, value)
    )


def _code(where: str, value: Mapping[str, Any]) -> int | None:
    code = value.get("code")
    if "code" in value and (not isinstance(code, int) or not 400 <= code <= 599):
        raise InvalidSettings(f"{where}['code'] must be a reply's code from 400 to 599, not {code!r}.")
    return code


def _enhanced(where: str, value: Mapping[str, Any]) -> str | None:
    enhanced = value.get("enhanced")
    if "enhanced" in value and not (
        isinstance(enhanced, str) and re.fullmatch(r"[45](\.[0-9]{1,3}){2}", enhanced)
    ):
        raise InvalidSettings(
            f"{where}['enhanced'] must be a status of RFC 3463, such as '5.1.90', not {enhanced!r}."
        )
    return enhanced


def _text(where: str, value: Mapping[str, Any]) -> re.Pattern[str] | None:
    if "text" not in value:
        return None
    try:
        if not value["text"]:
            raise ValueError("it is empty")
        return re.compile(value["text"], re.IGNORECASE)
    except (re.error, TypeError, ValueError) as error:
        raise InvalidSettings(
            f"{where}['text'] must be a regular expression, not {value['text']!r}: {error}"
        ) from None
