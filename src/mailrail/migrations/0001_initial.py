"""The tables, and what PostgreSQL needs beyond them."""

from typing import Any

from django.db import migrations, models

import mailrail.models

# The table's rows change all the time, and dead rows slow claims down. So vacuum runs by their number, not by their
# share of a backlog, and as fast as the disk allows. Giving back the end of the file would lock everybody out.
# A claim writes a second version of each row. With this much of a page left free (`fillfactor`) that version stays
# there. Then PostgreSQL logs only what differs, and locks the row once.
SETTINGS = {
    "fillfactor": "45",
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "100000",
    "autovacuum_vacuum_cost_delay": "0",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "10000",
    "vacuum_truncate": "off",
}


def forward(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    # Places in lanes. A sequence knows no snapshots: whoever holds the lane's lock gets a higher number than the last.
    schema_editor.execute("CREATE SEQUENCE IF NOT EXISTS mailrail_lane_seq")
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    schema_editor.execute(f"ALTER TABLE mailrail_message SET ({settings})")
    # Versions of a row are removed from the index sooner than they could be merged, which takes longer.
    schema_editor.execute("ALTER INDEX mailrail_message_pkey SET (deduplicate_items = off)")


def backward(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute("DROP SEQUENCE IF EXISTS mailrail_lane_seq")
    schema_editor.execute("ALTER INDEX mailrail_message_pkey RESET (deduplicate_items)")
    schema_editor.execute(f"ALTER TABLE mailrail_message RESET ({', '.join(SETTINGS)})")


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='LiveWorker',
            fields=[
                ('id', models.CharField(max_length=277, primary_key=True, serialize=False)),
                ('details', models.TextField(db_default='{}', help_text='A JSON object.')),
                ('seen', mailrail.models.Instant(db_default=0.0)),
            ],
            options={
                'db_table': 'mailrail_worker',
            },
        ),
        migrations.CreateModel(
            name='PausedChannel',
            fields=[
                ('channel', models.CharField(max_length=121, primary_key=True, serialize=False)),
                ('since', mailrail.models.Instant(db_default=0.0)),
                ('paused_by', models.CharField(db_default='', max_length=200)),
                ('reason', models.TextField(db_default='')),
            ],
            options={
                'db_table': 'mailrail_pause',
            },
        ),
        migrations.CreateModel(
            name='TokenBucket',
            fields=[
                ('name', models.CharField(max_length=277, primary_key=True, serialize=False)),
                ('tokens', models.FloatField(db_default=0.0)),
                ('filled_at', mailrail.models.Instant(db_default=0.0)),
            ],
            options={
                'db_table': 'mailrail_bucket',
            },
        ),
        migrations.CreateModel(
            name='BuriedMessage',
            fields=[
                ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('channel', models.CharField(db_default='', max_length=121)),
                ('content', models.TextField(db_default='{}', help_text='A JSON object.')),
                ('headers', models.TextField(db_default='{}', help_text='A JSON object.')),
                ('v', models.SmallIntegerField(db_default=1)),
                ('lane', models.CharField(db_default=None, max_length=255, null=True)),
                ('lane_seq', models.BigIntegerField(db_default=None, null=True)),
                ('places', models.IntegerField(db_default=None, help_text='How many of its lane run at once.', null=True)),
                ('attempt', models.IntegerField(db_default=0)),
                ('losses', models.IntegerField(db_default=0)),
                ('alone', models.BooleanField(db_default=False)),
                ('max_attempts', models.IntegerField(db_default=None, null=True)),
                ('priority', models.SmallIntegerField(db_default=0)),
                ('due', mailrail.models.Instant(db_default=0.0)),
                ('expires', mailrail.models.Instant(db_default=None, null=True)),
                ('sent_at', mailrail.models.Instant(db_default=0.0)),
                ('key', models.CharField(db_default=None, max_length=255, null=True)),
                ('error', models.TextField(db_default='')),
                ('error_class', models.CharField(db_default='', max_length=100)),
                ('buried_at', mailrail.models.Instant(db_default=0.0)),
            ],
            options={
                'verbose_name': 'dead message',
                'verbose_name_plural': 'dead messages',
                'db_table': 'mailrail_dead',
                'permissions': (('requeue_message', 'Can send dead messages again'), ('discard_message', 'Can discard dead messages')),
                'default_permissions': ('view',),
                'indexes': [models.Index(fields=['channel', '-buried_at', '-id'], name='mailrail_dead_recent'), models.Index(fields=['channel', 'error_class', '-buried_at', '-id'], name='mailrail_dead_class')],
            },
        ),
        migrations.CreateModel(
            name='StoredMessage',
            fields=[
                ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('channel', models.CharField(db_default='', max_length=121)),
                ('content', models.TextField(db_default='{}', help_text='A JSON object.')),
                ('headers', models.TextField(db_default='{}', help_text='A JSON object.')),
                ('v', models.SmallIntegerField(db_default=1)),
                ('lane', models.CharField(db_default=None, max_length=255, null=True)),
                ('lane_seq', models.BigIntegerField(db_default=None, null=True)),
                ('places', models.IntegerField(db_default=None, help_text='How many of its lane run at once.', null=True)),
                ('attempt', models.IntegerField(db_default=0)),
                ('losses', models.IntegerField(db_default=0)),
                ('alone', models.BooleanField(db_default=False)),
                ('max_attempts', models.IntegerField(db_default=None, null=True)),
                ('priority', models.SmallIntegerField(db_default=0)),
                ('due', mailrail.models.Instant(db_default=0.0)),
                ('expires', mailrail.models.Instant(db_default=None, null=True)),
                ('sent_at', mailrail.models.Instant(db_default=0.0)),
                ('key', models.CharField(db_default=None, max_length=255, null=True)),
                ('unique_key', models.CharField(db_default=None, help_text='The key, until the message is first claimed.', max_length=255, null=True)),
                ('held', models.SmallIntegerField(db_default=0, help_text='1: behind another message of its lane.')),
                ('worker', models.CharField(db_default=None, max_length=277, null=True)),
                ('error', models.TextField(db_default='', help_text='The error of its last run.')),
                ('token', models.BigIntegerField(db_default=None, help_text='Guards the claim.', null=True)),
            ],
            options={
                'verbose_name': 'waiting message',
                'verbose_name_plural': 'waiting messages',
                'db_table': 'mailrail_message',
                'permissions': (('cancel_message', 'Can cancel waiting messages'),),
                'default_permissions': ('view',),
                'indexes': [models.Index(models.F('channel'), models.OrderBy(models.F('priority'), descending=True), models.F('due'), models.F('id'), condition=models.Q(('held', 0)), name='mailrail_ready'), models.Index(condition=models.Q(('lane__isnull', False), ('lane_seq__isnull', False)), fields=['channel', 'lane', 'lane_seq'], name='mailrail_lane'), models.Index(models.F('channel'), models.F('lane'), models.OrderBy(models.F('priority'), descending=True), models.F('due'), models.F('id'), condition=models.Q(('held', 1), ('places__isnull', False)), name='mailrail_parked'), models.Index(condition=models.Q(('held', 0), ('lane_seq__isnull', True), ('places__isnull', False)), fields=['channel', 'lane', 'due', 'id'], name='mailrail_unplaced'), models.Index(condition=models.Q(('held', 1)), fields=['channel', 'due', 'id'], name='mailrail_held'), models.Index(condition=models.Q(('expires__isnull', False)), fields=['channel', 'expires'], name='mailrail_expires')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('unique_key__isnull', False)), fields=('channel', 'unique_key'), name='mailrail_key')],
            },
        ),
        migrations.CreateModel(
            name='Trouble',
            fields=[
                ('pk', models.CompositePrimaryKey('kind', 'name', 'what', blank=True, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(db_default='', max_length=10)),
                ('name', models.CharField(db_default='', max_length=277)),
                ('what', models.CharField(db_default='', max_length=300)),
                ('count', models.IntegerField(db_default=0)),
                ('buried', models.IntegerField(db_default=0)),
                ('first_at', mailrail.models.Instant(db_default=0.0)),
                ('last_at', mailrail.models.Instant(db_default=0.0)),
            ],
            options={
                'db_table': 'mailrail_trouble',
                'default_permissions': (),
            },
        ),
        migrations.CreateModel(
            name='HistoryRecord',
            fields=[
                ('pk', models.CompositePrimaryKey('kind', 'name', 'start', 'span', blank=True, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(db_default='', max_length=10)),
                ('name', models.CharField(db_default='', max_length=277)),
                ('start', models.BigIntegerField(db_default=0)),
                ('span', models.IntegerField(db_default=60)),
                ('sent', models.IntegerField(db_default=0)),
                ('done', models.IntegerField(db_default=0)),
                ('retried', models.IntegerField(db_default=0)),
                ('buried', models.IntegerField(db_default=0)),
                ('expired', models.IntegerField(db_default=0)),
                ('longest_wait', models.FloatField(db_default=0.0)),
                *((f'{name}{n}', models.IntegerField(db_default=0)) for name in ('wait', 'run') for n in range(24)),
            ],
            options={
                'db_table': 'mailrail_history',
                'default_permissions': (),
                'indexes': [models.Index(fields=['span', 'start'], name='mailrail_history_start')],
            },
        ),
        migrations.RunPython(forward, backward),
    ]
