from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('mailrail_mail', '0003_admin_and_retention'),
    ]

    operations = [
        migrations.AddField(
            model_name='email',
            name='call',
            field=models.IntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddIndex(
            model_name='email',
            index=models.Index(condition=models.Q(('status', 'queued')), fields=['id'], name='mailrail_mail_queued'),
        ),
    ]
