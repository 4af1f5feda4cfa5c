from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('mailrail_mail', '0004_call'),
    ]

    operations = [
        # The new one first: there is no moment at which two emails could get the same key.
        migrations.AddConstraint(
            model_name='email',
            constraint=models.UniqueConstraint(condition=models.Q(('key__isnull', False)), fields=('key',), name='mailrail_mail_key'),
        ),
        migrations.AlterField(
            model_name='email',
            name='key',
            field=models.CharField(db_default=None, help_text='At most one email has it.', max_length=255, null=True, verbose_name='key'),
        ),
    ]
