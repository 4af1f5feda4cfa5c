"""The tables, and what PostgreSQL needs beyond them."""

from typing import Any

import django.db.models.deletion
import django.utils.timezone
import mailrail.mail.models
import mailrail.namespace
from django.db import migrations, models

# Each email is changed twice, when it is about to be sent and when it is. With this much of a page left free both
# versions stay on the page of the first one. Then PostgreSQL logs only what differs, which is not the content. The last
# version has the answer of the server, some 350 bytes, and stands beside the one before: so less than half is filled.
FILLFACTOR = 42
# All versions of a row have the same key. PostgreSQL removes the entries of dead ones from a page of the index that is
# full. If it merged them before, each removal would take twice as long, and there would be as many.
KEY_OPTIONS = "deduplicate_items = off"


def forward(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"ALTER TABLE mailrail_mail_email SET (fillfactor = {FILLFACTOR})")
        schema_editor.execute(f"ALTER INDEX mailrail_mail_email_pkey SET ({KEY_OPTIONS})")


def backward(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER INDEX mailrail_mail_email_pkey RESET (deduplicate_items)")
        schema_editor.execute("ALTER TABLE mailrail_mail_email RESET (fillfactor)")


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='File',
            fields=[
                ('sha256', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('size', models.BigIntegerField(db_default=0)),
                ('data', models.BinaryField(db_default=None, null=True)),
                ('used_at', models.DateTimeField(default=django.utils.timezone.now, help_text='When it was last stored.')),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
            ],
            options={
                'verbose_name': 'stored file',
                'verbose_name_plural': 'stored files',
            },
        ),
        migrations.CreateModel(
            name='MailerLogin',
            fields=[
                ('mailer', models.CharField(max_length=122, primary_key=True, serialize=False)),
                ('key', models.CharField(db_default='', default='', max_length=64)),
                ('accepted_at', models.DateTimeField(db_default=None, default=None, null=True)),
                ('until', models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
        migrations.CreateModel(
            name='MailerState',
            fields=[
                ('mailer', models.CharField(max_length=122, primary_key=True, serialize=False, verbose_name='mailer')),
                ('paused_by', models.CharField(db_default='', help_text='person, outage, or nobody', max_length=10, verbose_name='paused by')),
                ('person', models.CharField(db_default='', default='', max_length=200, verbose_name='paused by whom')),
                ('reason', models.TextField(db_default='', verbose_name='reason')),
                ('since', models.DateTimeField(default=django.utils.timezone.now, verbose_name='since')),
                ('probe_at', models.DateTimeField(db_default=None, null=True, verbose_name='next try')),
                ('probes', models.IntegerField(db_default=0, verbose_name='tries')),
            ],
            options={
                'verbose_name': 'mailer',
                'verbose_name_plural': 'mailers',
                'permissions': (('pause_mailerstate', 'Can pause and resume mailers'),),
            },
        ),
        migrations.CreateModel(
            name='Suppression',
            fields=[
                ('address', models.CharField(max_length=342, primary_key=True, serialize=False, verbose_name='address')),
                ('reason', models.CharField(default='bounce', help_text="bounce, complaint, or a person's own word", max_length=20, verbose_name='reason')),
                ('note', models.TextField(blank=True, default='', verbose_name='note')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='since')),
            ],
            options={
                'verbose_name': 'suppressed address',
                'verbose_name_plural': 'suppressed addresses',
            },
        ),
        migrations.CreateModel(
            name='Email',
            fields=[
                ('id', models.UUIDField(default=mailrail.mail.models.new_id, editable=False, primary_key=True, serialize=False)),
                ('mailer', models.CharField(db_default='', help_text='Alias of the mailer that delivers it.', max_length=100, verbose_name='mailer')),
                ('sender', models.TextField(db_default='', help_text="The envelope's: where bounces go.", verbose_name='sender')),
                ('subject', models.TextField(db_default='', verbose_name='subject')),
                ('sensitive', models.BooleanField(db_default=False, default=False, help_text='Only its recipients may read it: its subject and content are not shown.', verbose_name='sensitive')),
                ('content', models.JSONField(db_default={}, default=dict, verbose_name='content')),
                ('message_id', models.CharField(db_default='', max_length=255, verbose_name='Message-ID')),
                ('date', models.DateTimeField(default=django.utils.timezone.now, help_text='In its Date header.', verbose_name='date')),
                ('size', models.BigIntegerField(db_default=0, help_text='Bytes of its attachments and bodies.', verbose_name='size')),
                ('priority', models.SmallIntegerField(db_default=0, verbose_name='priority')),
                ('send_at', models.DateTimeField(db_default=None, null=True, verbose_name='not before')),
                ('expires_at', models.DateTimeField(db_default=None, null=True, verbose_name='not after')),
                ('key', models.CharField(db_default=None, help_text='At most one email has it.', max_length=255, null=True, verbose_name='key')),
                ('digest', models.CharField(db_default='', help_text='Of what the key stands for.', max_length=64, verbose_name='digest')),
                ('tags', models.JSONField(db_default=[], default=list, verbose_name='tags')),
                ('related_object', models.CharField(db_default='', help_text='app_label.model:pk', max_length=255, verbose_name='about')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='queued')),
                ('emptied_at', models.DateTimeField(db_default=None, help_text='Since when its bodies, headers and attachments are gone.', null=True, verbose_name='content removed')),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
                ('via', models.CharField(db_default='', default='', help_text='Alias of the mailer that stands in for it, for the last attempt.', max_length=100, verbose_name='via')),
                ('attempts', models.IntegerField(db_default=0, default=0, verbose_name='attempts')),
                ('version', models.IntegerField(db_default=0, default=0, editable=False)),
                ('dispatch', models.IntegerField(db_default=0, default=0, editable=False)),
                ('next_try_at', models.DateTimeField(db_default=None, help_text='Since its last attempt has failed: when the next one is due.', null=True, verbose_name='next try')),
                ('changed_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='changed')),
                ('sent_at', models.DateTimeField(db_default=None, null=True, verbose_name='sent')),
                ('status', models.CharField(choices=[('queued', 'queued'), ('sending', 'sending'), ('sent', 'sent'), ('partial', 'partly sent'), ('failed', 'failed'), ('held', 'held'), ('cancelled', 'cancelled'), ('expired', 'expired'), ('suppressed', 'suppressed')], db_default='queued', default='queued', max_length=10, verbose_name='status')),
                ('recipients', models.JSONField(db_default=[], default=list, verbose_name='recipients')),
                ('events', models.JSONField(db_default=[], default=list, verbose_name='events')),
            ],
            options={
                'verbose_name': 'email',
                'verbose_name_plural': 'emails',
                'ordering': ('-id',),
                'permissions': (('view_email_content', 'Can view the content of email'), ('resend_email', 'Can resend email'), ('cancel_email', 'Can cancel email'), ('hold_email', 'Can hold and unhold email')),
                'indexes': [models.Index(fields=['namespace', 'status', 'id'], name='mailrail_mail_status'), models.Index(condition=models.Q(('related_object', ''), _negated=True), fields=['related_object'], name='mailrail_mail_related'), models.Index(condition=models.Q(('status', 'queued')), fields=['namespace', 'id'], name='mailrail_mail_queued'), models.Index(condition=models.Q(('status__in', ('sent', 'partial', 'failed', 'cancelled', 'expired', 'suppressed'))), fields=['message_id'], name='mailrail_mail_message_id'), models.Index(condition=models.Q(('status', 'failed')), fields=['namespace', '-changed_at'], name='mailrail_mail_failed'), models.Index(condition=models.Q(('status', 'partial')), fields=['namespace', '-changed_at'], name='mailrail_mail_partial'), models.Index(condition=models.Q(('emptied_at', None), ('status__in', ('sent', 'partial', 'failed', 'cancelled', 'expired', 'suppressed'))), fields=['namespace', 'changed_at'], name='mailrail_mail_has_content')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('key__isnull', False)), fields=('namespace', 'key'), name='mailrail_mail_key')],
            },
        ),
        migrations.CreateModel(
            name='MailerConnection',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('mailer', models.CharField(max_length=122)),
                ('number', models.IntegerField()),
                ('holder', models.CharField(db_default='', default='', max_length=64)),
                ('until', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'indexes': [models.Index(fields=['holder'], name='mailrail_mail_holder')],
                'constraints': [models.UniqueConstraint(fields=('mailer', 'number'), name='mailrail_mail_connection_once')],
            },
        ),
        migrations.CreateModel(
            name='MailerThrottle',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('mailer', models.CharField(max_length=122, verbose_name='mailer')),
                ('domain', models.CharField(db_default='', default='', max_length=255, verbose_name='domain')),
                ('share', models.FloatField(db_default=1.0, default=1.0, verbose_name='share')),
                ('pace', models.FloatField(db_default=0.0, default=0.0, help_text='Emails a second before it was asked for less.', verbose_name='pace')),
                ('reason', models.TextField(db_default='', default='', verbose_name='reason')),
                ('since', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='since')),
                ('changed_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='changed')),
                ('reservations', models.JSONField(db_default={}, default=dict, editable=False)),
                ('version', models.IntegerField(db_default=0, default=0, editable=False)),
            ],
            options={
                'verbose_name': 'throttle of a mailer',
                'verbose_name_plural': 'throttles of mailers',
                'constraints': [models.UniqueConstraint(fields=('mailer', 'domain'), name='mailrail_mail_throttle_once')],
            },
        ),
        migrations.CreateModel(
            name='RefusedSender',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('mailer', models.CharField(max_length=122, verbose_name='mailer')),
                ('sender', models.CharField(max_length=320, verbose_name='sender')),
                ('reason', models.TextField(db_default='', default='', verbose_name='reason')),
                ('since', models.DateTimeField(default=django.utils.timezone.now, verbose_name='since')),
                ('in_a_row', models.BooleanField(db_default=True, default=True, editable=False)),
            ],
            options={
                'verbose_name': 'refused sender',
                'verbose_name_plural': 'refused senders',
                'constraints': [models.UniqueConstraint(fields=('mailer', 'sender'), name='mailrail_mail_refused_sender_once')],
            },
        ),
        migrations.CreateModel(
            name='EmailFile',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('email', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='files', to='mailrail_mail.email')),
                ('file', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='emails', to='mailrail_mail.file')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('email', 'file'), name='mailrail_mail_file_once')],
            },
        ),
        migrations.RunPython(forward, backward),
    ]
