"""An email message as JSON and files, and back: what a record keeps of it.

Django's own classes, and those that only add attributes, are kept field by field and come back as Django's. A class
that writes its message in its own way is kept as the finished bytes with its envelope: there is nothing to rebuild.
"""

from __future__ import annotations

import email
import hashlib
from collections.abc import Mapping
from email import policy as policies
from email.message import Message, MIMEPart
from email.mime.base import MIMEBase
from typing import Any

from django.core.mail import EmailAttachment, EmailMessage, EmailMultiAlternatives

from mailrail.namespace import prefix

from ..compose import compose
from ..compose.common import Fields, are_unrelated, writes_as_django
from ..compose.generator import flatten
from .sensitive import MARK
from .values import ABOUT, CannotBeStored, dump_attributes, pack, pack_text, unpack

VERSION = 1
Files = list[tuple[str, bytes]]
"""Each with its SHA-256, in hexadecimal; the same one may come more than once."""

_fields = (
    "subject",
    "body",
    "from_email",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "extra_headers",
    "content_subtype",
    "encoding",
)
_TEXT = frozenset({str})
_LEFT_OUT: dict[str, Any] = {
    "cc": [],
    "bcc": [],
    "reply_to": [],
    "extra_headers": {},
    "content_subtype": "plain",
    "encoding": None,
}
"""Values of fields that are not stored: those of a new ``EmailMessage``, and of most emails."""
_NEVER = object()
"""In place of such a value, of fields that are always stored."""
_envelope = ("subject", "from_email", "to", "cc", "bcc", "reply_to")
# Stored in their own way, or of this process only.
_elsewhere = frozenset(
    {*_fields, "attachments", "alternatives", "connection", "_connection", "anymail_status", ABOUT, MARK}
)


class FinishedMessage(EmailMessage):
    """Hold a message that was written when it was queued."""

    data: bytes
    envelope: list[str]

    def message(self, **kwargs: Any) -> Any:
        finished: Any = email.message_from_bytes(self.data, _class=_Finished, policy=policies.default)
        finished.data = self.data
        return finished

    def recipients(self) -> list[str]:
        return self.envelope


class _Finished(email.message.EmailMessage):
    """Return the very bytes, as a signature in them may depend on each."""

    data: bytes

    def as_bytes(self, *args: Any, **kwargs: Any) -> bytes:
        return self.data


class _StoredPart(MIMEBase):
    """Stand for a MIMEBase, for which Django asks: the parser cannot call that with a type."""

    def __init__(self, policy: Any = policies.compat32) -> None:
        Message.__init__(self, policy=policy)


def dump(
    message: EmailMessage, *, composes: bool = True, files: Files | None = None
) -> tuple[dict[str, Any], Files]:
    """Return a message as JSON, and its files. Raise ``CannotBeStored`` for what is no data. The message is only read.

    ``composes``: whether what delivers it calls ``message()``. If not, a class that writes its own message is kept
    field by field, too: its fields are all that is read of it. ``files``: those of the message that has this one.
    """
    kind, files = type(message), [] if files is None else files
    has_djangos_envelope = kind.recipients is EmailMessage.recipients and "recipients" not in vars(message)
    if composes and not (has_djangos_envelope and writes_as_django(message)):
        return _dump_finished(message, files), files
    content: dict[str, Any] = {
        "v": VERSION,
        "kind": "alternatives" if isinstance(message, EmailMultiAlternatives) else "message",
        "fields": _dump_fields(message),
    }
    if message.attachments:
        content["attachments"] = [
            _dump_attachment(entry, f"attachments[{n}]", files) for n, entry in enumerate(message.attachments)
        ]
    has_more = not _elsewhere.issuperset(vars(message)) or hasattr(kind, "mailrail_attributes")  # hardly ever
    if has_more and (attributes := dump_attributes(message, _elsewhere)):
        content["attributes"] = attributes
    if isinstance(message, EmailMultiAlternatives):
        content["alternatives"] = [
            _dump_alternative(entry, f"alternatives[{n}]", files)
            for n, entry in enumerate(message.alternatives)
        ]
    return content, files


def load(content: Mapping[str, Any], files: Mapping[str, bytes]) -> EmailMessage:
    """Return the message of a stored content. ``files``: those of ``dump``, by their SHA-256."""
    if content["v"] != VERSION:
        raise ValueError(
            f"An email was stored in version {content['v']} of the format; this Mailrail reads version {VERSION}. "
            "Upgrade the workers first, then the rest."
        )
    if content["kind"] == "finished":
        return _load_finished(content, files)
    message: EmailMessage
    if content["kind"] == "alternatives":
        message = EmailMultiAlternatives()
        message.alternatives = [_load_alternative(packed, files) for packed in content["alternatives"]]
    else:
        message = EmailMessage()
    message.attachments = [_load_attachment(packed, files) for packed in content.get("attachments", ())]
    _set(message, content)
    return message


def common_fields(content: Mapping[str, Any], files: Mapping[str, bytes]) -> Fields | None:
    """Return the fields of a stored content for ``compose_fields``. ``None``: they are not plain, so ``load`` it.

    ``files``: as for ``load``. Raise ``KeyError`` for one that is not there.
    """
    attributes = content.get("attributes")
    if (
        content["v"] != VERSION
        or content["kind"] == "finished"
        or (attributes and not are_unrelated(attributes))
    ):
        return None
    fields: Any = {**_LEFT_OUT, **content["fields"]}
    to, cc, reply_to, headers = fields["to"], fields["cc"], fields["reply_to"], fields["extra_headers"]
    if not (type(to) is type(cc) is type(reply_to) is list and type(headers) is dict):
        return None
    texts = [fields["subject"], fields["body"], fields["from_email"], *to, *cc, *reply_to, *headers.values()]
    if not _TEXT.issuperset(map(type, texts)) or fields["encoding"] not in (None, "utf-8"):
        return None
    if headers and any(name[:1] == "$" for name in headers):  # not as it is stored
        return None
    alternatives, attachments = content.get("alternatives"), content.get("attachments")
    if alternatives and not all(_is_text(stored) and type(kind) is str for stored, kind in alternatives):
        return None
    fields["alternatives"] = [(stored["value"], kind) for stored, kind in alternatives or ()]
    fields["attachments"] = [_load_attachment(packed, files) for packed in attachments or ()]
    plain: Fields = fields
    return plain


def _is_text(stored: Mapping[str, Any]) -> bool:
    return type(stored.get("value")) is str


def _set(message: EmailMessage, content: Mapping[str, Any]) -> None:
    for name, value in {**content["fields"], **content.get("attributes", {})}.items():
        setattr(message, name, value if type(value) is str else unpack(value))


def _dump_fields(message: EmailMessage) -> dict[str, Any]:
    """Return the fields that say something. Most are a clean text, or as in a new ``EmailMessage``."""
    fields = {}
    for name in _fields:
        value = getattr(message, name)
        default = _LEFT_OUT.get(name, _NEVER)
        if type(value) is type(default) and value == default:
            continue
        if type(value) is list and _TEXT.issuperset(map(type, value)):
            value = [*value]
        elif not (value is None or (type(value) is str and "\0" not in value)):
            value = pack_text(value, name)
        if value != default:
            fields[name] = value
    return fields


def _dump_finished(message: EmailMessage, files: Files) -> dict[str, Any]:
    return {
        "v": VERSION,
        "kind": "finished",
        "data": _keep(compose(message).data, files),
        "recipients": [str(recipient) for recipient in message.recipients()],
        "fields": {name: pack_text(getattr(message, name), name) for name in _envelope},
        "attributes": dump_attributes(message, _elsewhere, needed_only=True),
    }


def _load_finished(content: Mapping[str, Any], files: Mapping[str, bytes]) -> FinishedMessage:
    message = FinishedMessage()
    message.data = files[content["data"]]
    message.envelope = list(content["recipients"])
    _set(message, content)
    return message


def _dump_attachment(attachment: Any, where: str, files: Files) -> Any:
    if isinstance(attachment, (MIMEBase, MIMEPart)):
        return {"part": _dump_mime(attachment, files)}
    try:
        filename, content, mimetype = attachment
    except (TypeError, ValueError):
        raise CannotBeStored(
            f"{where} is neither (filename, content, mimetype) nor a MIME part, and cannot be stored with an email."
        ) from None
    return {
        "filename": pack(filename, f"{where}.filename"),
        "mimetype": pack(mimetype, f"{where}.mimetype"),
        "content": _dump_data(content, f"{where}.content", files),
    }


def _load_attachment(attachment: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
    if "part" in attachment:
        return _load_mime(attachment["part"], files)
    filename, mimetype = unpack(attachment["filename"]), unpack(attachment["mimetype"])
    return EmailAttachment(filename, _load_data(attachment["content"], files), mimetype)


def _dump_alternative(alternative: Any, where: str, files: Files) -> Any:
    try:
        content, mimetype = alternative
    except (TypeError, ValueError):
        raise CannotBeStored(
            f"{where} is not (content, mimetype), and cannot be stored with an email."
        ) from None
    # Text goes with the body: nearly every one differs from all others.
    stored = (
        {"value": content}
        if type(content) is str and "\0" not in content
        else _dump_data(content, where, files)
    )
    return [stored, pack(mimetype, f"{where}.mimetype")]


def _load_alternative(alternative: Any, files: Mapping[str, bytes]) -> Any:
    content, mimetype = alternative
    holder = EmailMultiAlternatives()
    holder.attach_alternative(_load_data(content, files), unpack(mimetype))
    return holder.alternatives[0]


def _dump_data(data: Any, where: str, files: Files) -> Any:
    if isinstance(data, EmailMessage):
        return {"message": dump(data, files=files)[0]}
    if isinstance(data, Message):
        return {"mime": _dump_mime(data, files)}
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"bytes": _keep(bytes(data), files)}
    if isinstance(data, str):
        return {"text": _keep(data.encode("utf-8", "surrogatepass"), files)}
    return {"value": pack(data, where)}


def _load_data(data: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
    (kind, stored), *_ = data.items()
    if kind == "message":
        return load(stored, files)
    if kind == "mime":
        return _load_mime(stored, files)
    if kind == "bytes":
        return files[stored]
    if kind == "text":
        return files[stored].decode("utf-8", "surrogatepass")
    return unpack(stored)


def _dump_mime(mime: Message[Any, Any], files: Files) -> Any:
    """Unfolded what was given to it, as it was what a parser has read."""
    written = flatten(mime, linesep="\n", max_line_length=0, keeps_source=True)
    kind = "modern" if isinstance(mime, MIMEPart) else "base" if isinstance(mime, MIMEBase) else "legacy"
    return {"kind": kind, "data": _keep(written, files)}


def _load_mime(stored: Mapping[str, str], files: Mapping[str, bytes]) -> Any:
    data = files[stored["data"]]
    if stored["kind"] == "modern":
        return email.message_from_bytes(data, policy=policies.default)
    if stored["kind"] == "base":
        return email.message_from_bytes(data, _class=_StoredPart, policy=policies.compat32)
    return email.message_from_bytes(data)


def digest_of_file(data: bytes) -> str:
    """Return the name of a file: its SHA-256, in hexadecimal.

    Behind the namespace, if there is one: projects that store the same file do not share it, nor its end.
    """
    digest = hashlib.sha256(prefix().encode())
    digest.update(data)
    return digest.hexdigest()


def _keep(data: bytes, files: Files) -> str:
    digest = digest_of_file(data)
    files.append((digest, data))
    return digest
