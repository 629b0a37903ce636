"""The files in deploy/: well-formed, as their schemas say, and in agreement with the server they start."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from score_server import ScoreEngine, app_on

from selfjudge.cli.main import app as cli
from selfjudge.templates.chat import ChatEncoder

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
DEPLOYMENT, SERVICE, BUDGET = MANIFESTS
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
COMMANDS = {"compose": COMPOSE["services"]["selfjudge"]["command"], "kubernetes": CONTAINER["args"]}


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_yaml_is_clean(name: str) -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "--config-file", DEPLOY / ".yamllint", DEPLOY / name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_keeps_to_its_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
@pytest.mark.parametrize("version", ["1.28", "1.33"])
def test_manifests_keep_to_the_api(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def options(command: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r"(--[\w-]+)=(.+)", word).groups() for word in command[1:])  # type: ignore[union-attr,misc]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_command_is_one_that_the_server_takes(command: list[str]) -> None:
    serve = typer.main.get_command(cli).commands["serve"]  # type: ignore[attr-defined]
    parsed = serve.make_context("serve", command[1:]).params
    assert command[0] == "serve"
    assert parsed["host"] == "0.0.0.0"
    assert list(parsed["backend"]) == ["http://vllm-0:8000/v1", "http://vllm-1:8000/v1"]
    assert parsed["port"] == CONTAINER["ports"][0]["containerPort"] == 8000


def test_both_end_later_than_the_last_accepted_request() -> None:
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    timeout = float(options(COMMANDS["kubernetes"])["--timeout"])
    assert POD["terminationGracePeriodSeconds"] > pause + timeout
    grace = float(COMPOSE["services"]["selfjudge"]["stop_grace_period"].removesuffix("s"))
    assert grace > float(options(COMMANDS["compose"])["--timeout"])


def probed() -> Iterator[str]:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield CONTAINER[probe]["httpGet"]["path"]
    yield re.search(r"localhost:8000(/\w+)", COMPOSE["services"]["selfjudge"]["healthcheck"]["test"][-1])[1]  # type: ignore[index]


def test_what_is_probed_is_there(world_chat: ChatEncoder) -> None:
    paths = {route.path for route in app_on(ScoreEngine(world_chat)).routes}  # type: ignore[attr-defined]
    assert set(probed()) == {"/healthz", "/readyz"} <= paths
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/healthz"  # a backend that is away is no reason to restart
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert {CONTAINER[p]["httpGet"]["port"] for p in ("livenessProbe", "readinessProbe")} == {"http"}


def test_everything_selects_the_same_pods_and_files_are_mounted() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"] == labels
    assert BUDGET["spec"]["selector"]["matchLabels"] == labels
    assert BUDGET["spec"]["minAvailable"] < DEPLOYMENT["spec"]["replicas"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in POD["volumes"]}
    found = options(COMMANDS["kubernetes"])
    assert found["--api-keys"] == mounts["keys"] + "/keys"  # the key of the Secret that --from-file=keys makes
    assert found["--model"].startswith(mounts["models"])
    assert "--from-file=keys" in (DEPLOY / "kubernetes.yaml").read_text()
    assert options(COMMANDS["compose"])["--api-keys"] == "/run/secrets/keys"
    assert COMPOSE["services"]["selfjudge"]["secrets"] == ["keys"]
    assert set(COMPOSE["services"]["selfjudge"]["depends_on"]) == {"vllm-0", "vllm-1"} < set(COMPOSE["services"])


def test_the_image_runs_as_the_user_of_the_pod() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    user = re.search(r"^USER (\d+)$", dockerfile, re.MULTILINE)
    assert user
    assert int(user[1]) == POD["securityContext"]["runAsUser"]
    assert 'ENTRYPOINT ["selfjudge"]' in dockerfile
    for source in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in source.split())
