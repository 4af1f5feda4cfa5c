
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('mailrail_mail', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='email',
            name='via',
            field=models.CharField(db_default='', default='', help_text='Alias of the mailer that stands in for it, for the last attempt.', max_length=100, verbose_name='via'),
        ),
        migrations.CreateModel(
            name='MailerPace',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('mailer', models.CharField(max_length=100, verbose_name='mailer')),
                ('domain', models.CharField(db_default='', default='', max_length=255, verbose_name='domain')),
                ('share', models.FloatField(db_default=1.0, default=1.0, verbose_name='share')),
                ('pace', models.FloatField(db_default=0.0, default=0.0, help_text='Emails a second before it was asked for less.', verbose_name='pace')),
                ('reason', models.TextField(db_default='', default='', verbose_name='reason')),
                ('since', models.DateTimeField(db_default=None, default=None, null=True, verbose_name='since')),
                ('changed_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='changed')),
                ('lines', models.JSONField(db_default={}, default=dict, editable=False)),
                ('turn', models.IntegerField(db_default=0, default=0, editable=False)),
            ],
            options={
                'verbose_name': 'pace of a mailer',
                'verbose_name_plural': 'paces of mailers',
                'constraints': [models.UniqueConstraint(fields=('mailer', 'domain'), name='mailrail_mail_pace_once')],
            },
        ),
        migrations.CreateModel(
            name='MailerSlot',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('mailer', models.CharField(max_length=100)),
                ('number', models.IntegerField()),
                ('holder', models.CharField(db_default='', default='', max_length=64)),
                ('until', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'indexes': [models.Index(fields=['holder'], name='mailrail_mail_holder')],
                'constraints': [models.UniqueConstraint(fields=('mailer', 'number'), name='mailrail_mail_slot_once')],
            },
        ),
    ]
