
import django.utils.timezone
import mailrail.messages
import mailrail.namespace
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Dashboard',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
            ],
            options={
                'verbose_name': 'live page',
                'verbose_name_plural': 'live page',
                'permissions': (('view_dashboard', 'Can view the live page'), ('operate_dashboard', 'Can act on the live page')),
                'managed': False,
                'default_permissions': (),
            },
        ),
        migrations.CreateModel(
            name='Operation',
            fields=[
                ('id', models.UUIDField(default=mailrail.messages.uuid7, editable=False, primary_key=True, serialize=False)),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
                ('action', models.CharField(max_length=20)),
                ('kind', models.CharField(max_length=20)),
                ('units', models.JSONField(default=list)),
                ('filters', models.JSONField(default=dict)),
                ('until', models.DateTimeField(default=django.utils.timezone.now)),
                ('user_id', models.CharField(db_default='', default='', max_length=100)),
                ('by', models.CharField(db_default='', default='', max_length=200)),
                ('reason', models.TextField(db_default='', default='')),
                ('form', models.CharField(db_default='', default='', max_length=64)),
                ('subject', models.CharField(max_length=64)),
                ('total', models.BigIntegerField(db_default=None, default=None, null=True)),
                ('done', models.BigIntegerField(db_default=0, default=0)),
                ('left', models.BigIntegerField(db_default=0, default=0)),
                ('place', models.JSONField(default=list)),
                ('doing', models.JSONField(default=list)),
                ('fence', models.BigIntegerField(db_default=0, default=0)),
                ('begun_at', models.DateTimeField(db_default=None, default=None, null=True)),
                ('ended_at', models.DateTimeField(db_default=None, default=None, null=True)),
                ('is_cancelled', models.BooleanField(db_default=False, default=False)),
                ('error', models.TextField(db_default='', default='')),
            ],
            options={
                'verbose_name': 'operation',
                'verbose_name_plural': 'operations',
                'default_permissions': (),
                'base_manager_name': 'objects',
                'indexes': [models.Index(fields=['namespace', '-id'], name='mailrail_operation_recent')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('ended_at', None)), fields=('namespace', 'subject'), name='mailrail_operation_open_once'), models.UniqueConstraint(condition=models.Q(('form', ''), _negated=True), fields=('namespace', 'form'), name='mailrail_operation_form_once')],
            },
        ),
    ]
