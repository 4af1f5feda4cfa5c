"""The catalogues: every text is in them, is translated, and means to its reader what the English one does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from babel.messages.catalog import Message
from babel.messages.mofile import read_mo
from babel.messages.pofile import PoFileError
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets, label_for_field
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils.translation import override

from mailrail.mail.admin.translations import EVENTS
from mailrail.mail.delivery import record
from scripts.catalogues import CHINESE, TEMPLATES, forms_of, problems, update
from scripts.compile_catalogues import DEMO, PACKAGE, ROOT, compile_all, compiled, read, sources

from .visible import WORD, texts

OURS = (
    "mailrail",
    "mailrail_dashboard",
    "mailrail_invitations",
    "mailrail_mail",
    "mailrail_schedule",
    "mailrail_tasks",
)
UNTRANSLATED = ("ID", "id", "Mailrail", "Message-ID", "app_label.model:pk", "worker")
CATALOGUES = [pytest.param(source, id=str(source.relative_to(ROOT).parent)) for source in sources()]
IN_CHINESE = [param for param in CATALOGUES if "zh_Hans" in str(param.id)]


@pytest.mark.parametrize("source", CATALOGUES)
def test_a_catalogue_has_all_texts_and_their_translations(source: Path) -> None:
    assert list(problems(source)) == []


@pytest.mark.parametrize("source", CATALOGUES)
def test_what_is_compiled_is_what_is_written(source: Path) -> None:
    assert source.with_suffix(".mo").read_bytes() == compiled(source), "old: run make messages"


def test_every_app_and_the_demo_has_both_languages() -> None:
    folders = {PACKAGE / "/".join(apps.get_app_config(label).name.split(".")[1:]) for label in OURS}
    folders.add(DEMO)
    languages = {(source.parents[3], source.parents[1].name) for source in sources()}
    assert languages == {(folder, language) for folder in folders for language in ("en", "zh_Hans")}


def translated(source: Path) -> Iterator[Message]:
    return (message for message in read(source) if message.id)


@pytest.mark.parametrize("source", IN_CHINESE)
def test_a_single_word_says_what_it_is_about(source: Path) -> None:
    """Else our translation would be that of the same word in other apps, also where it means something else."""
    assert [
        message.id
        for message in translated(source)
        if message.context is None
        and len(forms_of(message.id)[0].split()) == 1
        and message.id != message.string
    ] == []


@pytest.fixture(scope="module")
def said_by_django() -> dict[Any, tuple[str, ...]]:
    folder = Path(django.__file__).parent
    said: dict[Any, tuple[str, ...]] = {}
    for path in folder.glob("**/locale/zh_Hans/LC_MESSAGES/django.mo"):
        with path.open("rb") as file:
            said |= {(forms_of(it.id), it.context): forms_of(it.string) for it in read_mo(file) if it.id}
    assert len(said) > 500
    return said


@pytest.mark.parametrize("source", IN_CHINESE)
def test_what_django_says_too_is_said_as_django_says_it(source: Path, said_by_django: dict[Any, Any]) -> None:
    for message in translated(source):
        said = forms_of(message.string)
        assert said_by_django.get((forms_of(message.id), message.context), said) == said


def test_english_texts_of_ours_do_not_stand_before_those_of_a_project() -> None:
    for source in sources():
        if source.parents[1].name == "en":
            with source.with_suffix(".mo").open("rb") as file:
                assert [message.id for message in read_mo(file) if message.id] == []


# -- nothing is left out of them --------------------------------------------------------------------------------------


TAG = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)
CLASSES = re.compile(r"\{% block bodyclass %\}.*?\{% endblock %\}")
BLOCK = re.compile(r"\{% blocktranslate.*?endblocktranslate %\}", re.DOTALL)


TEMPLATE_FILES = [
    pytest.param(path, id=path.name)
    for path in sorted([*PACKAGE.rglob("templates/**/*.*"), *DEMO.rglob("templates/**/*.*")])
    if path.suffix in TEMPLATES
]


@pytest.mark.parametrize("path", TEMPLATE_FILES)
def test_templates_say_nothing_that_is_not_translated(path: Path) -> None:
    rest = TAG.sub("", BLOCK.sub("", CLASSES.sub("", path.read_text())))
    assert [text for text in texts(rest) if WORD.search(text)] == []


def admins() -> list[Any]:
    return [
        pytest.param(model_admin, id=model._meta.label)
        for model, model_admin in admin.site._registry.items()
        if model._meta.app_label in OURS
    ]


@pytest.mark.parametrize("model_admin", admins())
def test_the_admin_speaks_chinese(model_admin: Any, rf: RequestFactory) -> None:
    request = rf.get("/")
    request.user = User(is_active=True, is_superuser=True)
    with override("zh-hans"):
        said = [str(each) for each in said_in(model_admin, request)]
    assert len(said) > 3
    assert [each for each in said if not re.search(CHINESE, each) and each not in UNTRANSLATED] == []


def said_in(model_admin: Any, request: HttpRequest) -> Iterator[Any]:
    opts = model_admin.opts
    names = {*model_admin.get_list_display(request), *flatten_fieldsets(model_admin.get_fieldsets(request))}
    yield from (label_for_field(name, model_admin.model, model_admin) for name in names)
    yield from (opts.verbose_name, opts.verbose_name_plural, opts.app_config.verbose_name)
    yield from (field.help_text for field in opts.fields if field.name in names and field.help_text)
    yield from (getattr(model_admin, name).short_description for name in model_admin.actions or ())
    yield from (each.title for each in model_admin.get_list_filter(request) if hasattr(each, "title"))
    yield from [model_admin.search_help_text] if model_admin.search_help_text else []


def test_every_event_that_records_tell_is_known() -> None:
    """Records keep plain words; this is where they would be told in English to everybody."""
    told: set[str] = set()
    for path in (PACKAGE / "mail").rglob("*.py"):
        tree = ast.parse(path.read_text())
        constants = {**vars(record), **_constants(tree)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") in ("add_event", "hold", "_set_status"):
                told |= set(_literals(call.args[2], constants))
        for pair in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
            for key, value in zip(pair.keys, pair.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "what" and path.parent.name != "admin":
                    told |= set(_literals(value, constants))
    assert len(told) > 10
    assert told == set(EVENTS)


def _constants(tree: ast.Module) -> dict[str, Any]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _literals(node: ast.expr, constants: dict[str, Any]) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from (*_literals(node.body, constants), *_literals(node.orelse, constants))
    elif isinstance(node, ast.Name):
        yield from [constants[node.id]] if node.id in constants else []
    else:
        pytest.fail(f"{ast.unparse(node)} is no plain word")


# -- the command ------------------------------------------------------------------------------------------------------


EMPTY = 'msgstr[0] ""'


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app with two texts of its own, and a catalogue that knows one of them."""
    (tmp_path / "models.py").write_text('_("Known")\nngettext("%(n)d dog", "%(n)d dogs", n)\n')
    (tmp_path / "page.html").write_text(
        "{% load i18n %}\n  <p title=\"{% translate 'Seen' context 'page' %}\">"
    )
    catalogue = tmp_path / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
    catalogue.parent.mkdir(parents=True)
    catalogue.write_text(
        'msgid ""\nmsgstr ""\n"Language: zh_Hans\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
        'msgid "Known"\nmsgstr "已知"\n\nmsgid "Gone"\nmsgstr "没了"\n'
    )
    return catalogue


def test_an_update_brings_what_is_new_keeps_what_is_known_and_drops_what_is_gone(app: Path) -> None:
    assert list(problems(app)) == [
        "lacks 'Seen'; run make messages",
        "lacks ('%(n)d dog', '%(n)d dogs'); run make messages",
        "has 'Gone', which is gone; run make messages",
    ]
    update(app)
    assert list(problems(app)) == [
        "('%(n)d dog', '%(n)d dogs') is not translated",
        "'Seen' is not translated",
    ]
    text = app.read_text()
    assert "已知" in text and "Gone" not in text and 'msgctxt "page"' in text
    update(app)
    assert app.read_text() == text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('msgstr[0] "%(m)d 只狗"', "other placeholders"),
        ('msgstr[0] "狗"', "other placeholders"),
        ('msgstr[0] "%(n)d 只狗,"', "half-width"),
        ('msgstr[0] "%(n)d只狗"', "no space"),
        ('msgstr[0] ""', "not translated"),
    ],
)
def test_a_wrong_translation_is_found(app: Path, wrong: str, said: str) -> None:
    update(app)
    text = app.read_text().replace('msgid "Seen"\nmsgstr ""', 'msgid "Seen"\nmsgstr "看见"')
    right = text.replace(EMPTY, 'msgstr[0] "%(n)d 只狗"')
    app.write_text(right)
    assert list(problems(app)) == []
    app.write_text(text.replace(EMPTY, wrong))
    [problem] = problems(app)
    assert said in problem
    app.write_text(right.replace('msgid "Known"', '#, fuzzy\nmsgid "Known"'))
    assert list(problems(app)) == ["'Known' is fuzzy"]


def test_a_plural_form_too_many_is_refused(app: Path) -> None:
    update(app)
    app.write_text(app.read_text().replace(EMPTY, f'{EMPTY}\nmsgstr[1] ""'))
    with pytest.raises(PoFileError, match="num_plurals"):
        list(problems(app))


def test_compiling_leaves_alone_what_is_compiled(app: Path) -> None:
    compile_all(app.parents[3])
    target = app.with_suffix(".mo")
    inode = target.stat().st_ino
    compile_all(app.parents[3])
    assert target.stat().st_ino == inode
    app.write_text(app.read_text().replace("已知", "知道"))
    compile_all(app.parents[3])
    assert "知道".encode() in target.read_bytes()
    assert sorted(path.name for path in target.parent.iterdir()) == ["django.mo", "django.po"]
