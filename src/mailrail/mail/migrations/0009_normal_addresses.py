from typing import Any

from django.db import migrations

from mailrail.addresses import normal_form

AT_ONCE = 1000


def normalize(apps: Any, schema_editor: Any) -> None:
    """Give suppressed addresses their normal form: an international domain by its A-labels.

    Erased ones are digests, which nobody can read: those are looked up by both spellings.
    """
    using = schema_editor.connection.alias
    rows = apps.get_model("mailrail_mail", "Suppression").objects.using(using)
    last = ""
    while page := list(rows.filter(pk__gt=last).order_by("pk")[:AT_ONCE]):
        last = page[-1].pk
        old = {row.pk: row for row in page if not row.pk.startswith("sha256:") and normal_form(row.pk) != row.pk}
        for row in old.values():
            row.pk = normal_form(row.pk)
        rows.bulk_create(old.values(), ignore_conflicts=True)  # the same mailbox may be there in both spellings
        rows.filter(pk__in=list(old)).delete()


class Migration(migrations.Migration):

    dependencies = [
        ('mailrail_mail', '0008_refused_senders'),
    ]

    operations = [
        migrations.RunPython(normalize, migrations.RunPython.noop),
    ]
