from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('mailrail_mail', '0005_key'),
    ]

    operations = [
        migrations.AddField(
            model_name='email',
            name='next_try_at',
            field=models.DateTimeField(db_default=None, help_text='Since its last attempt has failed: when the next one is due.', null=True, verbose_name='next try'),
        ),
        migrations.AddIndex(
            model_name='email',
            index=models.Index(condition=models.Q(('status', 'failed')), fields=['-changed_at'], name='mailrail_mail_failed'),
        ),
    ]
