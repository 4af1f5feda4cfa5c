from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('mailrail', '0003_admin'),
    ]

    operations = [
        migrations.AddField(
            model_name='storedmessage',
            name='error',
            field=models.TextField(db_default='', help_text='How its last run failed.'),
        ),
    ]
