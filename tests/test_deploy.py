"""Deployment files: they parse, start the server with options that it has, and give it no needless rights."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from prorank.cli import main as cli

DEPLOY = Path(__file__).parents[1] / "deploy"


def instructions(name="Dockerfile"):
    """(instruction, value) of a Dockerfile, continued lines joined, comments dropped."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.strip().split(None, 1)) for line in text.splitlines() if line.strip()]


def options_exist(command):
    shown = CliRunner().invoke(cli.app, ["serve", "--help"], terminal_width=200).output
    wanted = [word for word in command if word.startswith("--")]
    assert wanted and all(option in shown for option in wanted), wanted


def test_the_image_runs_the_server_without_rights():
    found = dict(instructions())
    options_exist(json.loads(found["ENTRYPOINT"]))
    assert json.loads(found["ENTRYPOINT"])[:2] == ["prorank", "serve"]
    assert int(found["USER"]) > 0 and "/health" in found["HEALTHCHECK"] and found["EXPOSE"] == "8000"
    order = [name for name, _ in instructions()]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name == "RUN")  # nothing is built as the user
    copied = [value.split()[:-1] for name, value in instructions() if name == "COPY"]
    assert all((DEPLOY.parent / path).exists() for paths in copied for path in paths)


def test_compose_binds_to_this_machine_and_asks_for_secrets():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["prorank"]["read_only"] and services["prorank"]["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    secrets = [value for service in services.values() for value in service["environment"].values()]
    assert all(re.fullmatch(r"\$\{\w+:\?.+\}", value) for value in secrets)


def test_kubernetes_probes_and_grace_period():
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert pod["terminationGracePeriodSeconds"] > 60 and pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    text = (DEPLOY / "prorank.service").read_text()
    options_exist(re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1].split())
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    (tmp_path / "prorank.service").write_text(text.replace("/opt/prorank/bin/prorank", shutil.which("true")))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "prorank.service")], capture_output=True, text=True, timeout=60
    )
    assert "prorank.service" not in done.stderr, done.stderr
