import django.db.models.deletion
import django.db.models.functions.text
import django.utils.timezone
import mailrail.invitations.addresses
import mailrail.invitations.keys
import mailrail.invitations.models
import mailrail
import mailrail.namespace
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='InvitationBatch',
            fields=[
                ('id', models.UUIDField(default=mailrail.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created', models.DateTimeField(default=django.utils.timezone.now, verbose_name='created')),
                ('confirmed_at', models.DateTimeField(db_default=None, null=True, verbose_name='confirmed')),
                ('message', models.TextField(blank=True, db_default='', default='', verbose_name='message')),
                ('addresses', models.JSONField(db_default=[], default=list, verbose_name='email addresses')),
                ('total', models.PositiveIntegerField(db_default=0, default=0, verbose_name='how many')),
                ('understood', models.JSONField(db_default=[], default=list)),
                ('understood_count', models.PositiveIntegerField(db_default=0, default=0)),
                ('problems', models.JSONField(db_default=[], default=list)),
                ('problem_count', models.PositiveIntegerField(db_default=0, default=0)),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
                ('sender', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='sender')),
            ],
            options={
                'verbose_name': 'list of invitations',
                'verbose_name_plural': 'lists of invitations',
            },
        ),
        migrations.CreateModel(
            name='Invitation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('email', models.EmailField(max_length=254, validators=[mailrail.invitations.addresses.validate_address], verbose_name='email address')),
                ('created', models.DateTimeField(auto_now_add=True, verbose_name='created')),
                ('sent', models.DateTimeField(blank=True, editable=False, null=True, verbose_name='sent')),
                ('accepted_at', models.DateTimeField(blank=True, editable=False, null=True, verbose_name='accepted')),
                ('revoked_at', models.DateTimeField(blank=True, db_default=None, editable=False, null=True, verbose_name='revoked')),
                ('expires_at', models.DateTimeField(blank=True, db_default=None, default=mailrail.invitations.models.default_expiry, help_text='Empty: never.', null=True, verbose_name='expires')),
                ('message', models.TextField(blank=True, db_default='', default='', help_text='A few words of your own, for the email.', max_length=2000, verbose_name='message')),
                ('role', models.CharField(blank=True, db_default='', default='', help_text="The role of the invited person, in your project's terms.", max_length=100, verbose_name='role')),
                ('payload', models.JSONField(blank=True, db_default={}, default=dict, verbose_name='payload')),
                ('language', models.CharField(blank=True, db_default='', default=mailrail.invitations.models.current_language, help_text='Of the email, for example “zh-hans”. Empty: that of the site.', max_length=35, verbose_name='language')),
                ('failed_at', models.DateTimeField(db_default=None, editable=False, null=True)),
                ('public_id', models.CharField(default=mailrail.invitations.keys.new_public_id, editable=False, max_length=16, unique=True)),
                ('salt', models.CharField(default=mailrail.invitations.keys.new_salt, editable=False, max_length=24)),
                ('generation', models.PositiveIntegerField(default=1, editable=False, help_text='Increase it to invalidate every key sent so far.')),
                ('queued_at', models.DateTimeField(db_default=None, default=django.utils.timezone.now, editable=False, null=True)),
                ('mails', models.PositiveIntegerField(db_default=1, default=1, editable=False)),
                ('namespace', models.CharField(db_default='', default=mailrail.namespace.current, editable=False, max_length=20)),
                ('accepted_by', models.ForeignKey(blank=True, db_default=None, editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='%(app_label)s_%(class)ss_accepted', to=settings.AUTH_USER_MODEL, verbose_name='accepted by')),
                ('sender', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(app_label)s_%(class)ss', to=settings.AUTH_USER_MODEL, verbose_name='sender')),
                ('batch', models.ForeignKey(blank=True, db_default=None, editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='mailrail_invitations.invitationbatch')),
            ],
            options={
                'verbose_name': 'invitation',
                'verbose_name_plural': 'invitations',
                'ordering': ('-pk',),
                'abstract': False,
                'default_permissions': ('add', 'change', 'delete', 'view', 'resend', 'revoke'),
                'indexes': [models.Index(condition=models.Q(('accepted_at', None), ('sent', None)), fields=['id'], name='mailrail_unsent'), models.Index(condition=models.Q(('accepted_at__isnull', False)), fields=['id'], name='mailrail_accepted'), models.Index(condition=models.Q(('revoked_at__isnull', False)), fields=['id'], name='mailrail_revoked'), models.Index(fields=['sender', 'queued_at'], name='mailrail_sender'), models.Index(fields=['queued_at'], name='mailrail_queued'), models.Index(django.db.models.functions.text.Lower('email'), name='mailrail_mailbox')],
            },
        ),
    ]
