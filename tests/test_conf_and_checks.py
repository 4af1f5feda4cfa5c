"""The settings object, and the system checks: each fires with its id, names the setting, and is quiet otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, Tags, run_checks
from django.core.management import CommandError, call_command
from django.db import connections

from mailrail import InvalidSettings
from mailrail.checks import check_settings, check_sqlite
from mailrail.conf import Settings, build
from mailrail.conf import settings as ours
from mailrail.layers import durable_aliases, get_layer
from mailrail.layers.tables import tables_are_missing

ROOT = Path(__file__).resolve().parent.parent
MEMORY = "mailrail.layers.InMemoryChannelLayer"
DATABASE = "mailrail.layers.DatabaseChannelLayer"

WRONG = [
    *[("RELEASE", value) for value in (7, None, "x" * 101, "two\nlines")],
    *[("HISTORY", value) for value in (0, -1, None, "14 days", float("nan"))],
    *[(key, value) for key in ("LAYER",) for value in (7, None, True, ["default"])],
    *[(key, value) for key in ("MAX_MESSAGE_BYTES", "ATTEMPTS", "THREADS", "PROCESSES")
      for value in (0, -1, 1.5, "3", None, True)],
    *[(key, value) for key in ("BACKOFF", "BACKOFF_MAX", "SHUTDOWN_TIMEOUT")
      for value in (-1, "3", None, True, float("nan"), float("inf"))],
    *[("NAMESPACE", value) for value in ("Shop", "-shop", "a b", "a_b", "shop:", "é", "a" * 21, "shop\n", 7, None)],
    *[("LEASE", value) for value in (0, -1, "3", None, True, float("nan"), float("inf"))],
    *[("READY_OLDEST_DUE", value) for value in (0, -1, "3", True, float("inf"))],
    *[("TIMEOUT", value) for value in (0, -1, "3", True, float("inf"))],
    *[("MAX_MESSAGES", value) for value in (0, -1, 1.5, "3", True)],
    *[("MAX_MEMORY", value) for value in (0, -1, 1.5, True, "", "0", "-1M", "lots", "300X", "1e9", "²", "9" * 400)],
    *[("CONSUMER_MIDDLEWARE", value) for value in ("a.b", [7], {"a.b"}, None)],
    *[("BASE_URL", value) for value in (7, True, b"https://x", "example.com", "//example.com", "ftp://x")],
    *[("INVITATION_MODEL", value) for value in (7, None)],
    *[("INVITATION_LIFETIME", value) for value in (0, -1, "7d", True, float("inf"))],
    *[(key, value) for key in ("INVITATIONS_PER_SENDER", "INVITATIONS_PER_DAY", "INVITATIONS_PER_RECIPIENT")
      for value in (0, -1, 1.5, "3", True)],
    *[(key, value) for key in ("INVITATION_MAY_INVITE", "INVITATION_EMAILS_OF") for value in (7, None)],
    *[("INVITATION_ACCEPT", value) for value in ("anybody", 7, None)],
    *[("INVITATION_SIGNUP", value) for value in (7, True)],
]  # fmt: skip


def errors() -> list[tuple[str | None, str]]:
    return [(message.id, message.msg) for message in check_settings()]


def ids(found: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in found]


def layers(**configured: Any) -> dict[str, Any]:
    return {alias: {"BACKEND": backend, "CONFIG": config} for alias, (backend, config) in configured.items()}


@pytest.fixture
def add_database(monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any) -> Iterator[Any]:
    """Another entry in DATABASES, for as long as the test runs; only for files of the test's own."""
    added: list[str] = []

    def add(alias: str, **entry: Any) -> str:
        entry = connections.configure_settings({"default": entry})["default"]
        monkeypatch.setitem(connections.settings, alias, entry)
        added.append(alias)
        return alias

    with django_db_blocker.unblock():
        yield add
    for alias in added:
        connections[alias].close()
        del connections[alias]


@pytest.mark.parametrize(
    "engine",
    [
        "django.db.backends.sqlite3",
        pytest.param(
            "django.db.backends.postgresql",
            marks=pytest.mark.skipif(find_spec("psycopg") is None, reason="needs psycopg"),
        ),
    ],
)
def test_a_database_that_commits_nothing_is_refused(add_database: Any, settings: Any, engine: str) -> None:
    alias = add_database("by-hand", ENGINE=engine, NAME="x", AUTOCOMMIT=False)
    settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"using": alias}))
    [(id, text)] = errors()
    assert id == "mailrail.E002" and "DATABASES['by-hand']['AUTOCOMMIT'] is False" in text
    assert "Leave it out" in text


class TestSettings:
    def test_every_key_may_be_left_out(self) -> None:
        assert build({}) == Settings()

    def test_every_key_is_read(self) -> None:
        raw = {
            "NAMESPACE": "shop", "LAYER": "second", "UNROUTED": "raise", "MAX_MESSAGE_BYTES": 1, "ATTEMPTS": 1,
            "BACKOFF": 0, "BACKOFF_MAX": 0.0, "LEASE": 1,
            "TIMEOUT": 0.5, "THREADS": 1, "PROCESSES": 2, "MAX_MESSAGES": 3, "MAX_MEMORY": 4,
            "SHUTDOWN_TIMEOUT": 0, "RECONCILE_EVERY": 9.5, "READY_OLDEST_DUE": 5, "CONSUMER_MIDDLEWARE": ["a.b"],
            "BASE_URL": "https://example.com", "DELIVER_WITH": "a.b", "MAIL_MAX_BYTES": 1,
            "HISTORY": 60, "RELEASE": "4f2a", "REDACT": ["iban"],
            "MAIL_STORAGE": "files", "MAIL_ON_AMBIGUOUS": "hold", "MAIL_LIFETIME": 60,
            "MAIL_SENSITIVE": "a.b", "MAIL_LOG_RECIPIENTS": "domain",
            "MAIL_MESSAGE_ID_DOMAIN": "a.b", "MAIL_KEEP_BODIES": 60, "MAIL_KEEP_RECORDS": None, "MAILERS": {"smtp": {}},
            "INVITATION_MODEL": "a.B", "INVITATION_LIFETIME": 60, "INVITATIONS_PER_SENDER": 1,
            "INVITATIONS_PER_DAY": 2, "INVITATIONS_PER_RECIPIENT": 3, "INVITATION_MAY_INVITE": "a.b",
            "INVITATION_ACCEPT": "link", "INVITATION_EMAILS_OF": "a.b", "INVITATION_SIGNUP": "sign-up",
            "INVITATION_DOMAINS": "any",
        }  # fmt: skip
        built = build(raw)
        for key, value in raw.items():
            assert getattr(built, key.lower()) == (tuple(value) if isinstance(value, list) else value)
        assert {field.upper() for field in Settings.__dataclass_fields__} == raw.keys()

    @pytest.mark.parametrize(
        ("written", "bytes"),
        [
            ("300M", 300 * 1024**2),
            ("1.5G", 1536 * 1024**2),
            ("512 k", 512 * 1024),
            ("4096", 4096),
            (None, None),
        ],
    )
    def test_sizes_may_have_a_unit(self, written: str | None, bytes: int | None) -> None:
        assert build({"MAX_MEMORY": written}).max_memory == bytes

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            build({}).attempts = 7  # type: ignore[misc]

    def test_an_unknown_key_is_named_with_those_that_are_known(self) -> None:
        with pytest.raises(
            InvalidSettings, match=r"^MAILRAIL has no key 'ATEMPTS'. It knows: ATTEMPTS, BACKOFF"
        ):
            build({"ATEMPTS": 5})
        with pytest.raises(InvalidSettings, match="'attempts'"):
            build({"attempts": 5})

    @pytest.mark.parametrize("raw", [None, [], "x", 7, [("ATTEMPTS", 5)]])
    def test_it_must_be_a_dictionary(self, raw: Any) -> None:
        with pytest.raises(InvalidSettings, match=r"^MAILRAIL must be a dictionary"):
            build(raw)

    def test_tests_may_override_it(self, settings: Any) -> None:
        settings.MAILRAIL = {"ATTEMPTS": 9}
        assert ours.attempts == 9
        settings.MAILRAIL = {}
        assert ours.attempts == 5
        del settings.MAILRAIL
        assert ours.attempts == 5


class TestE001:
    @pytest.mark.parametrize(("key", "value"), WRONG)
    def test_a_wrong_type_or_value_names_the_key(self, settings: Any, key: str, value: Any) -> None:
        settings.MAILRAIL = {key: value}
        [(id, said)] = errors()
        assert id == "mailrail.E001" and said.startswith(f"MAILRAIL['{key}'] must be ")

    def test_an_unknown_key_is_named(self, settings: Any) -> None:
        settings.MAILRAIL = {"ATEMPTS": 5}
        [(id, said)] = errors()
        assert id == "mailrail.E001" and "MAILRAIL has no key 'ATEMPTS'" in said

    def test_no_dictionary_at_all(self, settings: Any) -> None:
        settings.MAILRAIL = ["ATTEMPTS"]
        [(id, said)] = errors()
        assert id == "mailrail.E001" and "MAILRAIL must be a dictionary" in said

    @pytest.mark.parametrize(
        "path", ["no.such.wrap", "tests.routes.missing", "nodots", "tests.broken_routes.wrap"]
    )
    def test_middleware_that_does_not_import_is_named(self, settings: Any, path: str) -> None:
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.outer", path]}
        [(id, said)] = errors()
        assert id == "mailrail.E001"
        assert said.startswith(f"MAILRAIL['CONSUMER_MIDDLEWARE'] names '{path}', which cannot be imported")

    def test_middleware_that_is_no_function_is_named(self, settings: Any) -> None:
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.not_callable"]}
        [(id, said)] = errors()
        assert id == "mailrail.E001" and "which is not a function" in said

    @pytest.mark.django_db(databases=["default", "other"])  # Django asks SQLite whether it knows JSON
    def test_it_fires_before_a_command_starts(self, settings: Any) -> None:
        settings.MAILRAIL = {"ATEMPTS": 5}
        with pytest.raises(Exception, match=r"mailrail\.E001"):
            call_command("check")


class TestE002:
    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            (
                {"BACKEND": DATABASE, "CONFIG": {"colour": "red"}},
                "CHANNEL_LAYERS['default']['CONFIG'] has no option 'colour'; DatabaseChannelLayer knows ",
            ),
            ({"BACKEND": MEMORY, "CONFIG": {"colour": "red"}}, "colour"),
            (
                {"BACKEND": DATABASE, "CONFIG": {"using": "nope"}},
                "the database 'nope', which is not in DATABASES",
            ),
            (
                {"BACKEND": "no.such.Layer"},
                "CHANNEL_LAYERS['default']: Cannot import BACKEND 'no.such.Layer'",
            ),
            ({}, "CHANNEL_LAYERS['default']: No BACKEND"),
            (DATABASE, f"CHANNEL_LAYERS['default'] must be a dictionary, not '{DATABASE}'. Write {{"),
            (
                {"BACKEND": DATABASE, "CONFIG": ["default"]},
                "CHANNEL_LAYERS['default']['CONFIG'] must be a dictionary, not ['default'].",
            ),
            ({"CONFIG": {}}, "CHANNEL_LAYERS['default']: No BACKEND"),
        ],
    )
    def test_a_layer_that_cannot_be_built_names_the_entry(self, settings: Any, entry: Any, said: str) -> None:
        settings.CHANNEL_LAYERS = {"default": entry}
        [text] = [text for id, text in errors() if id == "mailrail.E002"]
        assert said in text

    def test_layers_that_are_no_dictionary_say_what_to_write(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = DATABASE
        [(id, text)] = errors()
        assert id == "mailrail.E002"
        assert text.startswith('CHANNEL_LAYERS must be a dictionary such as {"default": {"BACKEND": ')

    def test_routing_one_level_too_high_says_where_it_goes(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": DATABASE, "ROUTING": "shop.routing.channel_routing"}
        }
        [(id, text)] = errors()
        assert id == "mailrail.E002"
        assert text.startswith("CHANNEL_LAYERS['default']: \"ROUTING\" stands one level too high")
        assert '"CONFIG": {"routing": …}' in text

    def test_a_database_of_another_vendor_says_what_to_write(self, settings: Any, add_database: Any) -> None:
        add_database("elsewhere", ENGINE="django.db.backends.dummy")
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"using": "elsewhere"}))
        [(id, text)] = errors()
        assert id == "mailrail.E002"
        assert "DATABASES['elsewhere'] is unknown" in text and '"CONFIG": {"using": "…"}' in text


class TestE003:
    def test_a_default_layer_without_durable_verbs_says_what_to_write(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
        [(id, text)] = errors()
        assert id == "mailrail.E003"
        assert text.startswith(
            "CHANNEL_LAYERS['default'] is channels.layers.InMemoryChannelLayer, which cannot keep"
        )
        assert '"BACKEND": "mailrail.layers.DatabaseChannelLayer"' in text and 'MAILRAIL["LAYER"]' in text

    def test_channels_redis_is_told_which_layer_takes_its_config(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}
        [(id, text)] = errors()
        assert id == "mailrail.E003"
        assert '"BACKEND": "mailrail.layers.RedisChannelLayer", which takes the same CONFIG' in text

    def test_such_a_layer_is_fine_beside_one_of_ours_that_is_named(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
            **layers(durable=(DATABASE, {})),
        }
        assert ids(check_settings()) == ["mailrail.E003"]
        settings.MAILRAIL = {"LAYER": "durable"}
        assert check_settings() == []
        assert durable_aliases() == ["durable"]

    @pytest.mark.parametrize("configured", [True, False])
    def test_an_alias_that_is_missing_is_named(self, settings: Any, configured: bool) -> None:
        one = layers(default=(MEMORY, {"routing": "tests.routes.channel_routing"}))
        settings.CHANNEL_LAYERS = one if configured else {}
        settings.MAILRAIL = {"LAYER": "nope"}
        [(id, text)] = errors()
        assert id == "mailrail.E003" and "CHANNEL_LAYERS has no layer 'nope'" in text

    def test_layers_but_none_called_default(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(second=(MEMORY, {"routing": "tests.routes.channel_routing"}))
        [(id, text)] = errors()
        assert id == "mailrail.E003" and "no layer 'default' (it has: 'second')" in text


class TestE004:
    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("no.such.routing", "['routing'] = 'no.such.routing' cannot be imported"),
            ("tests.routes.missing", "['routing'] = 'tests.routes.missing' cannot be imported"),
            ("tests.broken_routes.channel_routing", "A channel name is 1 to 99"),
            ("tests.routes.no_list", "['routing'] = 'tests.routes.no_list' must be a list"),
            ("tests.routes.not_importable", "route('one', 'tests.routes.missing') cannot be imported"),
            ("tests.routes.missing_module", "route('one', 'no.such.module') cannot be imported"),
            ("tests.routes.routes_a_generator", "'tests.routes.generator'): "),
            ("tests.routes.routes_a_number", "'tests.routes.not_callable'): A consumer is a function"),
            ("tests.routes.disagreeing", "The routes of channel 'one'"),
            ("tests.routes.atomic_async", "is async, and Django's transactions are not"),
        ],
    )
    def test_a_routing_that_cannot_be_followed_names_the_place(
        self, settings: Any, path: str, said: str
    ) -> None:
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"routing": path}))
        [(id, text)] = errors()
        assert id == "mailrail.E004" and said in text

    def test_atomic_consumers_are_refused_in_memory(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(MEMORY, {"routing": "tests.routes.atomic"}))
        [(id, text)] = errors()
        assert id == "mailrail.E004" and "atomic=True) needs the database layer" in text

    def test_every_layer_of_ours_is_looked_at(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(
            default=(DATABASE, {}),
            second=(DATABASE, {"routing": "no.such.a"}),
            third=(MEMORY, {"routing": "no.such.b"}),
        )
        assert [id for id, _ in errors() if id and "E" in id[9:]] == ["mailrail.E004"] * 2

    def test_an_apps_consumers_with_mistakes_are_named_once_for_all_layers(
        self, settings: Any, broken_app: None
    ) -> None:
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {}), second=(DATABASE, {}))
        problems = errors()
        assert {id for id, _ in problems} == {"mailrail.E004"} and len(problems) == 3
        assert all("tests/broken_app/consumers.py, line" in text for _, text in problems)

    def test_runworker_says_the_same_and_does_not_start(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"routing": "no.such.routing"}))
        with pytest.raises(CommandError, match=r"'no\.such\.routing' cannot be imported"):
            call_command("runworker")


class TestWarnings:
    @pytest.mark.parametrize(
        ("other", "command"),
        [
            ("channels", "runworker"),
            ("daphne", "runserver"),
            ("django.contrib.staticfiles", "runserver"),
            ("django_extensions", "runserver_plus"),
        ],
    )
    def test_w001_when_mailrail_stands_after_an_app_with_the_same_command(
        self, settings: Any, other: str, command: str
    ) -> None:
        rest = [app for app in settings.INSTALLED_APPS if app != other]
        settings.INSTALLED_APPS = [other, *rest]
        [(id, text)] = errors()
        assert id == "mailrail.W001"
        assert (
            text.startswith(f'"mailrail" must stand before "{other}" in INSTALLED_APPS') and command in text
        )

    def test_w001_does_not_ask_for_apps_that_are_not_installed(self, settings: Any) -> None:
        settings.INSTALLED_APPS = [
            app for app in settings.INSTALLED_APPS if app not in ("channels", "daphne")
        ]
        assert errors() == []

    def test_w004_when_a_project_routes_a_reserved_name(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(MEMORY, {"routing": "tests.routes.reserved"}))
        problems = errors()
        assert [id for id, _ in problems] == ["mailrail.W004"] * 2
        assert problems[0][1].startswith("tests.routes.first is routed on 'mailrail.anything'")
        assert problems[1][1].startswith("tests.routes.first is routed on 'tasks.default'")

    def test_w005_when_a_lease_is_out_of_all_proportion(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"routing": "tests.routes.long_lease"}))
        problems = errors()
        assert [id for id, _ in problems] == ["mailrail.W005"] * 2
        assert problems[0][1].startswith("The lease of channel 'one' is 7200 s")
        assert problems[1][1].startswith("The lease of channel 'two' is 0.5 s")

    @pytest.mark.parametrize(
        "app", ["mailrail", "mailrail.mail", "mailrail.mail.apps.MailConfig", "mailrail.invitations"]
    )
    @pytest.mark.parametrize("setting", ["TENANT_APPS", "TENANT_TYPES['shop']['APPS']"])
    def test_e009_when_tenants_have_tables_that_no_worker_looks_into(
        self, settings: Any, setting: str, app: str
    ) -> None:
        settings.TENANT_APPS = ["shop", app] if setting == "TENANT_APPS" else []
        settings.TENANT_TYPES = {"shared": {"APPS": ["mailrail"]}, "shop": {"APPS": [app]}, "odd": None}
        settings.PUBLIC_SCHEMA_NAME = "shared"
        if setting == "TENANT_APPS":
            del settings.TENANT_TYPES
        [(id, text)] = errors()
        assert id == "mailrail.E009"
        assert text.startswith(f"{setting} names {app.split('.apps.')[0]!r}: ")

    @pytest.mark.parametrize("apps", [None, [], ("shop", "mailrail_reports", "mailrail.mailing")])
    def test_e009_is_about_our_apps(self, settings: Any, apps: Any) -> None:
        settings.TENANT_APPS = apps
        assert errors() == []

    def test_w008_when_a_consumer_gets_nothing(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(MEMORY, {"routing": "tests.routes.shadowed"}))
        [(id, text)] = errors()
        assert id == "mailrail.W008"
        assert text.startswith(
            "tests.routes.second gets nothing of channel 'one': tests.routes.first stands before"
        )

    def test_w008_is_not_about_filters(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(MEMORY, {"routing": "tests.routes.filtered"}))
        assert errors() == []

    def test_w005_does_not_matter_in_one_process(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(MEMORY, {"routing": "tests.routes.long_lease"}))
        assert errors() == []


class TestSqlite:
    @pytest.fixture
    def plain(self, add_database: Any, settings: Any, tmp_path: Path) -> str:
        """A SQLite file as Django opens it when nobody says more."""
        add_database("plain", ENGINE="django.db.backends.sqlite3", NAME=tmp_path / "plain.sqlite3")
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"using": "plain"}))
        return "plain"

    def test_w002_and_w003_name_the_option_to_write(self, plain: str) -> None:
        problems = check_sqlite(databases=[plain])
        assert ids(problems) == ["mailrail.W002", "mailrail.W003"]
        mode, journal = (message.hint or "" for message in problems)
        assert mode == 'In DATABASES[\'plain\']: "OPTIONS": {"transaction_mode": "IMMEDIATE"}'
        assert journal.startswith(
            'In DATABASES[\'plain\']: "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL;'
        )
        assert "keeps a delete journal" in problems[1].msg

    def test_following_the_hints_makes_them_go_away(
        self, add_database: Any, settings: Any, tmp_path: Path
    ) -> None:
        options = {"transaction_mode": "immediate", "init_command": "PRAGMA journal_mode=WAL;"}
        add_database(
            "good", ENGINE="django.db.backends.sqlite3", NAME=tmp_path / "good.sqlite3", OPTIONS=options
        )
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"using": "good"}))
        assert check_sqlite(databases=["good"]) == []

    def test_only_databases_that_django_was_told_to_look_into_are_opened(self, plain: str) -> None:
        assert check_sqlite(databases=None) == check_sqlite(databases=["default"]) == []

    def test_a_database_that_carries_no_messages_is_not_looked_at(self, plain: str, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(default=(MEMORY, {"using": "plain"}))
        assert check_sqlite(databases=[plain]) == []

    def test_a_database_in_memory_needs_neither(self, add_database: Any, settings: Any) -> None:
        add_database("ram", ENGINE="django.db.backends.sqlite3", NAME=":memory:")
        settings.CHANNEL_LAYERS = layers(default=(DATABASE, {"using": "ram"}))
        assert check_sqlite(databases=["ram"]) == []

    def test_settings_that_cannot_be_followed_are_left_to_the_other_check(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {}}
        assert check_sqlite(databases=["default"]) == []


def test_missing_tables_of_an_app_that_is_missing_say_both(settings: Any) -> None:
    """``manage.py shell`` runs no checks, and ``migrate mailrail`` alone would fail."""
    error = Exception("no such table: mailrail_message")
    assert str(tables_are_missing(error, "default")) == f"{error}. Run: python manage.py migrate mailrail"
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail"]
    assert f'{error}. Put "mailrail" at the top of INSTALLED_APPS. Run: ' in str(
        tables_are_missing(error, "default")
    )


class TestAGoodProject:
    @pytest.mark.django_db
    def test_nothing_is_said(self) -> None:
        assert check_settings() == []
        assert check_sqlite(databases=["default", "other"]) == []
        assert [m for m in run_checks(databases=["default"]) if (m.id or "").startswith("mailrail")] == []
        assert run_checks(tags=[Tags.database], databases=["default"]) == []

    def test_nothing_is_said_when_every_setting_is_used(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = layers(
            default=(DATABASE, {"using": "other", "routing": "tests.routes.nested_routing", "expiry": 5,
                                "group_expiry": 9, "capacity": 7, "channel_capacity": {"a*": 1}}),
            second=(MEMORY, {"routing": "tests.routes.channel_routing"}),
        )  # fmt: skip
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": ["tests.routes.outer"], "LAYER": "second"}
        assert check_settings() == []
        assert get_layer("default").using == "other"

    @pytest.mark.parametrize("nothing", [{}, None])
    def test_no_layers_at_all_means_the_database_layer(self, settings: Any, nothing: Any) -> None:
        settings.CHANNEL_LAYERS = nothing
        assert check_settings() == []
        assert get_layer().is_durable and get_layer() is get_layer("default")


def run_check(folder: Path, databases: str) -> subprocess.CompletedProcess[str]:
    """``manage.py check`` in a new project with nothing but Mailrail in it."""
    folder.joinpath("fresh_settings.py").write_text(
        f'INSTALLED_APPS = ["mailrail"]\nDATABASES = {databases}\nDEFAULT_AUTO_FIELD = "django.db.models.AutoField"\n'
    )
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    return subprocess.run(
        [sys.executable, "-m", "django", "check", "--settings", "fresh_settings"],
        env=os.environ | {"PYTHONPATH": path}, cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


class TestANewProject:
    def test_sqlite_and_no_other_setting_is_fine(self, tmp_path: Path) -> None:
        done = run_check(
            tmp_path, '{"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}'
        )
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "db.sqlite3").exists()  # nothing was opened

    def test_without_a_database_it_says_so_once(self, tmp_path: Path) -> None:
        done = run_check(tmp_path, "{}")
        assert done.returncode == 1
        assert done.stderr.count("mailrail.E") == 1, done.stderr
        assert "(mailrail.E003) The database layer runs on" in done.stderr
        assert "and DATABASES['default'] is unknown" in done.stderr
