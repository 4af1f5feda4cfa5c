"""The files of ``demo/deploy``, ``Procfile`` and ``app.json``, read by machine: what they name exists, and they agree.

There is no Docker and no cluster here; what runs is tested by ``test_procfile.py``, with the same commands.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class
from django.test import Client

from demo import environment
from mailrail.conf import Settings
from mailrail.health import views

from ..processes import ROOT

DEMO = ROOT / "demo"
DEPLOY = DEMO / "deploy"
KUBERNETES: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
APP: dict[str, Any] = json.loads((DEMO / "app.json").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROCFILE = dict(line.split(": ", 1) for line in (DEMO / "Procfile").read_text().splitlines())
UNITS = {path.stem: path.read_text() for path in sorted((DEPLOY / "systemd").glob("*.service"))}
KNOWN = set(re.findall(r"^    ([A-Z_]+) ", str(environment.__doc__), re.MULTILINE))
AFTER_THE_GRACE = 5.0
"""Seconds in which a worker gives back what it could not end (``Supervisor._stop``)."""
PORT = 8000


def items(kind: str) -> dict[str, dict[str, Any]]:
    return {
        manifest["metadata"]["name"]: manifest for manifest in KUBERNETES["items"] if manifest["kind"] == kind
    }


def pods() -> dict[str, dict[str, Any]]:
    found = items("Deployment") | items("Job")
    return {name: it["spec"]["template"] for name, it in found.items()}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    [found] = pod["spec"]["containers"]
    return dict(found)


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that run before as well."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def seconds(text: str) -> float:
    return float(re.fullmatch(r"(\d+)s?", text)[1])  # type: ignore[index]


def unit(name: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNITS[name], re.MULTILINE)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command that the files have run as one of our processes, without what stands around it."""
    for name, line in PROCFILE.items():
        yield (
            f"Procfile: {name}",
            shlex.split(re.sub(r"^(cd \.\. && )?(exec )?", "", line).replace("$PORT", "8000")),
        )
    for name, pod in pods().items():
        it = container(pod)
        probes = [
            it[probe]["exec"] for probe in ("startupProbe", "livenessProbe") if "exec" in it.get(probe, {})
        ]
        for number, each in enumerate([*containers(pod), *probes]):
            yield f"Kubernetes: {name} {number}", each["command"]
    for name in ("migrate", "web", "worker"):
        service = COMPOSE["services"][name]
        if "command" in service:
            yield f"Compose: {name}", service["command"]
        check = service.get("healthcheck", {}).get("test", [])
        if "manage.py" in check:
            yield f"Compose: {name}'s check", check[1:]
    for name in UNITS:
        [start] = unit(name, "ExecStart")
        yield f"systemd: {name}", shlex.split(start.replace("/srv/mailrail/venv/bin/", ""))
    [start] = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    yield "Dockerfile", json.loads(start)


@pytest.mark.parametrize(("where", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_command_exists_and_takes_its_options(where: str, command: list[str]) -> None:
    match command:
        case ["python", "manage.py", name, *arguments]:
            made = load_command_class(get_commands()[name], name)
            made.create_parser("manage.py", name).parse_args(arguments)
        case ["daphne", *arguments]:
            [script] = entry_points(group="console_scripts", name="daphne")
            parser: argparse.ArgumentParser = script.load().__self__().parser
            assert parser.parse_args(arguments).application == "demo.asgi:application"
            assert parser.parse_args(arguments).port == PORT
        case _:
            raise AssertionError(f"{where} runs {command}, which is none of ours")


def test_all_ways_run_the_same_three_processes() -> None:
    assert set(PROCFILE) == {"release", "web", "worker"}
    assert set(UNITS) == {"mailrail-migrate", "mailrail-web", "mailrail-worker"} == set(pods())
    assert {"migrate", "web", "worker"} < set(COMPOSE["services"])


def test_new_code_waits_for_its_migrations() -> None:
    for name in ("mailrail-web", "mailrail-worker"):
        [before] = pods()[name]["spec"]["initContainers"]
        assert before["command"] == ["python", "manage.py", "migrate", "--check"]
    for name in ("web", "worker"):
        waits_for = COMPOSE["services"][name]["depends_on"]["migrate"]
        assert waits_for == {"condition": "service_completed_successfully"}


# -- the environment -----------------------------------------------------------------------------------------------


def test_the_docstring_of_the_environment_names_what_is_read() -> None:
    code = "".join((DEMO / name).read_text() for name in ("environment.py", "settings.py"))
    assert set(re.findall(r'(?:text|flag|names|seconds)\("([A-Z_]+)"', code)) == KNOWN
    assert set(environment.NEEDED) < KNOWN


def names_in_kubernetes() -> set[str]:
    secret = re.findall(r"--from-literal=([A-Z_]+)=", (DEPLOY / "kubernetes.yaml").read_text())
    return {*secret, *items("ConfigMap")["mailrail"]["data"]}


@pytest.mark.parametrize(
    ("names", "by_others"),
    [
        pytest.param(set(APP["env"]), {"DATABASE_URL"}, id="app.json"),  # which the add-on of PostgreSQL sets
        pytest.param(set(COMPOSE["services"]["web"]["environment"]), set(), id="Compose"),
        pytest.param(names_in_kubernetes(), set(), id="Kubernetes"),
        pytest.param(
            set(
                re.findall(
                    r"^#?([A-Z_]+)=", (DEPLOY / "systemd/environment.example").read_text(), re.MULTILINE
                )
            ),
            set(),
            id="systemd",
        ),
    ],
)
def test_variables_are_those_that_the_settings_read(names: set[str], by_others: set[str]) -> None:
    assert names <= KNOWN
    assert set(environment.NEEDED) <= names | by_others


def test_every_process_gets_the_environment() -> None:
    for name in ("migrate", "web", "worker"):
        assert COMPOSE["services"][name]["environment"] == COMPOSE["services"]["web"]["environment"]
    for it in (container for pod in pods().values() for container in containers(pod)):
        assert it["envFrom"] == [{"configMapRef": {"name": "mailrail"}}, {"secretRef": {"name": "mailrail"}}]
    for name in UNITS:
        assert unit(name, "EnvironmentFile") == ["/etc/mailrail/environment"]


# -- the end -------------------------------------------------------------------------------------------------------


def test_workers_get_more_time_to_end_than_they_take() -> None:
    takes = Settings().shutdown_timeout + AFTER_THE_GRACE
    pod = items("Deployment")["mailrail-worker"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > takes
    assert seconds(COMPOSE["services"]["worker"]["stop_grace_period"]) > takes
    [stop] = unit("mailrail-worker", "TimeoutStopSec")
    assert seconds(stop) > takes
    assert unit("mailrail-worker", "KillMode") == ["mixed"]


def test_the_site_ends_after_the_last_request_was_sent_to_it() -> None:
    spec = pods()["mailrail-web"]["spec"]
    command, pause = container({"spec": spec})["lifecycle"]["preStop"]["exec"]["command"]
    assert (
        command == "sleep" and 10 + float(pause) < spec["terminationGracePeriodSeconds"]
    )  # Daphne's own limit is 10


# -- what may be done ----------------------------------------------------------------------------------------------


def test_nothing_is_root_or_writes_to_the_image() -> None:
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)
    for pod in pods().values():
        user = pod["spec"]["securityContext"]
        assert user["runAsNonRoot"] is True and user["runAsUser"] > 0
        for container in containers(pod):
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] is True and allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    for name in ("migrate", "web", "worker"):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True and service["tmpfs"] == "/tmp" and service["cap_drop"] == ["ALL"]
    for name in UNITS:
        assert unit(name, "User") == ["mailrail"] and unit(name, "ProtectSystem") == ["strict"]


# -- ports, paths, pages -------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_probes_ask_for_pages_that_there_are(settings: Any) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": None}  # as the manifests have it
    views.watch.forget()
    web = container(pods()["mailrail-web"])
    paths = {
        name: web[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    [asked] = re.findall(
        r"http://127\.0\.0\.1:8000(/\w+)", COMPOSE["services"]["web"]["healthcheck"]["test"][-1]
    )
    for path in {*paths.values(), asked}:
        assert Client().get(path).status_code == 200
    compile(COMPOSE["services"]["web"]["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_everybody_means_the_same_port() -> None:
    [port] = container(pods()["mailrail-web"])["ports"]
    [service] = items("Service")["mailrail-web"]["spec"]["ports"]
    assert port == {"name": service["targetPort"], "containerPort": PORT}
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(PORT)]
    assert COMPOSE["services"]["web"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    labels = pods()["mailrail-web"]["metadata"]["labels"]
    assert items("Service")["mailrail-web"]["spec"]["selector"] == labels
    assert items("PodDisruptionBudget")["mailrail-web"]["spec"]["selector"]["matchLabels"] == labels
    for name, it in items("Deployment").items():
        assert it["spec"]["selector"]["matchLabels"] == pods()[name]["metadata"]["labels"]


def test_the_image_is_built_of_what_there_is() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [wanted] = re.findall(r'pip install .*"\.\[(.*)\]"', DOCKERFILE)
    assert set(wanted.split(",")) <= set(extras)
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    ignored = [
        line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"
    ]
    for file in ("demo/demo.sqlite3", "demo/demo.sqlite3-wal"):
        assert any(fnmatchcase(file, pattern) for pattern in ignored)
    build = COMPOSE["services"]["migrate"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    images = {container["image"] for pod in pods().values() for container in containers(pod)}
    assert len(images) == 1


def test_what_the_image_copies_is_enough_to_install_and_to_translate(tmp_path: Path) -> None:
    before, _, _ = DOCKERFILE.partition("\nRUN ")
    source = tmp_path / "app"
    for line in re.findall(r"^COPY (.*)$", before, re.MULTILINE):
        *names, target = line.split()
        for name in names:
            copy_as_docker_does(ROOT / name, source / target)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    assert (source / "demo" / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.mo").exists()


def copy_as_docker_does(source: Path, target: Path) -> None:
    """Copy what is in a folder, or a file into a folder; nothing that was compiled here."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.mo", "__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for name, text in UNITS.items():
        here = text.replace("/srv/mailrail/venv/bin", str(Path(sys.executable).parent))
        (tmp_path / f"{name}.service").write_text(here.replace("/srv/mailrail", str(ROOT)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.service")))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_ours = [line for line in done.stderr.splitlines() if "mailrail-" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr


# -- the page that explains them -----------------------------------------------------------------------------------

PAGE = (ROOT / "docs/how-to/deploy.md").read_text()


def test_the_page_shows_the_procfile_as_it_is() -> None:
    assert f"```\n{(DEMO / 'Procfile').read_text()}```" in PAGE


def test_the_commands_on_the_page_exist() -> None:
    found = re.findall(r"(?:manage\.py )((?:check|migrate|channels|runworker)(?: [\w.*-]+)*)", PAGE)
    found += re.findall(r"`(runworker [^`]*)`", PAGE)
    assert len(found) > 8
    for line in found:
        name, *arguments = shlex.split(line)
        made = load_command_class(get_commands()[name], name)
        made.create_parser("manage.py", name).parse_args(arguments)


def test_the_urls_on_the_page_are_those_of_the_pages() -> None:
    [block] = [it for it in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "urlpatterns" in it]
    exec(block, namespace := {})  # type: ignore[var-annotated]
    [included] = namespace["urlpatterns"]
    assert {f"/{page.pattern}" for page in included.url_patterns} == {"/healthz", "/readyz"}
    assert all(f"| `/{page.pattern}` |" in PAGE for page in included.url_patterns)
