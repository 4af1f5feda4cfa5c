import django.db.models.deletion
import django.utils.timezone
import mailrail.namespace
import mailrail.tasks.models
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='BatchRecord',
            fields=[
                ('id', models.UUIDField(default=mailrail.tasks.models.new_id, editable=False, primary_key=True, serialize=False)),
                ('related_object', models.CharField(db_default='', default='', help_text='app_label.model:pk', max_length=255, verbose_name='about')),
                ('then_id', models.UUIDField(db_default=None, default=None, editable=False, null=True)),
                ('on_failure_id', models.UUIDField(db_default=None, default=None, editable=False, null=True)),
                ('on_finish_id', models.UUIDField(db_default=None, default=None, editable=False, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='made')),
                ('failed_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='first failure')),
                ('finished_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='ended')),
                ('cancelled_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='cancelled')),
                ('kept_until', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='kept until')),
                ('total', models.IntegerField(db_default=None, default=None, editable=False, null=True)),
                ('failed', models.IntegerField(db_default=None, default=None, editable=False, null=True)),
                ('forgotten', models.IntegerField(db_default=0, default=0, editable=False)),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
            ],
            options={
                'verbose_name': 'batch',
                'verbose_name_plural': 'batches',
                'ordering': ('-id',),
                'indexes': [models.Index(condition=models.Q(('finished_at__isnull', True)), fields=['namespace', 'id'], name='mailrail_tasks_open_batches'), models.Index(condition=models.Q(('kept_until__isnull', False)), fields=['namespace', 'kept_until'], name='mailrail_tasks_old_batches'), models.Index(condition=models.Q(('related_object__gt', '')), fields=['namespace', 'related_object'], name='mailrail_tasks_about')],
            },
        ),
        migrations.CreateModel(
            name='TaskRecord',
            fields=[
                ('id', models.UUIDField(default=mailrail.tasks.models.new_id, editable=False, primary_key=True, serialize=False)),
                ('status', models.CharField(choices=[('READY', 'ready'), ('RUNNING', 'running'), ('FAILED', 'failed'), ('SUCCESSFUL', 'successful')], db_default='READY', default='READY', max_length=10, verbose_name='status')),
                ('task', models.TextField(db_default='', help_text='shop.tasks.sync', verbose_name='task')),
                ('queue', models.CharField(db_default='default', max_length=93, verbose_name='queue')),
                ('backend', models.TextField(db_default='default', verbose_name='backend')),
                ('priority', models.SmallIntegerField(db_default=0, default=0, verbose_name='priority')),
                ('run_after', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='not before')),
                ('expires_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='not after')),
                ('lane', models.CharField(db_default='', default='', max_length=255, verbose_name='lane')),
                ('key', models.CharField(db_default='', default='', max_length=255, verbose_name='key')),
                ('while_running', models.SmallIntegerField(db_default=0, default=0, editable=False)),
                ('rate', models.CharField(db_default='', default='', max_length=40, verbose_name='rate')),
                ('places', models.IntegerField(db_default=None, default=None, editable=False, null=True)),
                ('timeout', models.FloatField(db_default=None, default=None, help_text='seconds', null=True, verbose_name='time limit')),
                ('is_async', models.BooleanField(db_default=False, default=False, editable=False)),
                ('is_isolated', models.BooleanField(db_default=False, default=False, editable=False)),
                ('options', models.TextField(db_default=models.Value('{}', output_field=models.TextField()), verbose_name='options')),
                ('args', models.TextField(db_default=models.Value('[]', output_field=models.TextField()), verbose_name='arguments')),
                ('kwargs', models.TextField(db_default=models.Value('{}', output_field=models.TextField()), verbose_name='keyword arguments')),
                ('return_value', models.TextField(db_default=None, null=True, verbose_name='return value')),
                ('errors', models.TextField(db_default=models.Value('[]', output_field=models.TextField()), verbose_name='errors')),
                ('failures', models.IntegerField(db_default=0, default=0, verbose_name='failed attempts')),
                ('worker_ids', models.JSONField(db_default=[], default=list, verbose_name='workers')),
                ('progress', models.TextField(db_default=None, null=True, verbose_name='progress')),
                ('metadata', models.TextField(db_default=models.Value('{}', output_field=models.TextField()), verbose_name='metadata')),
                ('enqueued_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='enqueued')),
                ('started_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='first started')),
                ('last_attempted_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='last started')),
                ('finished_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='finished')),
                ('kept_until', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='kept until')),
                ('cancelled_at', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='cancelled')),
                ('is_cancelled_hard', models.BooleanField(db_default=False, default=False, editable=False)),
                ('is_killable', models.BooleanField(db_default=False, default=False, editable=False)),
                ('dispatch', models.IntegerField(db_default=0, default=0, editable=False)),
                ('token', models.BigIntegerField(db_default=None, default=None, editable=False, null=True)),
                ('fence', models.FloatField(db_default=None, default=None, editable=False, null=True)),
                ('batch_id', models.UUIDField(db_default=None, default=None, editable=False, null=True)),
                ('follows_id', models.UUIDField(db_default=None, default=None, editable=False, null=True)),
                ('held', models.SmallIntegerField(db_default=0, default=0, editable=False)),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
            ],
            options={
                'verbose_name': 'task',
                'verbose_name_plural': 'tasks',
                'ordering': ('-id',),
                'permissions': (('view_task_arguments', 'Can view the arguments and results of tasks'), ('retry_task', 'Can run tasks again'), ('cancel_task', 'Can cancel tasks'), ('kill_task', 'Can cancel tasks and kill their processes')),
                'indexes': [models.Index(fields=['namespace', 'status', '-id'], name='mailrail_tasks_status'), models.Index(condition=models.Q(('status__in', ('READY', 'RUNNING'))), fields=['namespace', 'queue', 'id'], name='mailrail_tasks_unfinished'), models.Index(condition=models.Q(('kept_until__isnull', False)), fields=['namespace', 'kept_until'], name='mailrail_tasks_kept_until'), models.Index(condition=models.Q(('batch_id__isnull', False)), fields=['batch_id', 'status', 'id'], name='mailrail_tasks_members')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('key__gt', ''), models.Q(models.Q(('started_at', None), ('status', 'READY')), models.Q(('status__in', ('READY', 'RUNNING')), ('while_running', 1)), _connector='OR')), fields=('namespace', 'queue', 'key', 'task'), name='mailrail_tasks_key')],
            },
        ),
        migrations.CreateModel(
            name='TaskStep',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=255)),
                ('is_loop', models.BooleanField(db_default=False, default=False)),
                ('value', models.TextField(db_default=None, null=True)),
                ('started_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField()),
                ('task', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='steps', to='mailrail_tasks.taskrecord')),
            ],
            options={
                'verbose_name': 'step',
                'verbose_name_plural': 'steps',
                'default_permissions': (),
                'constraints': [models.UniqueConstraint(fields=('task', 'name'), name='mailrail_tasks_step')],
            },
        ),
    ]
