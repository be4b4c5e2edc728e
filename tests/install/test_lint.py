"""Runs linters on the shell scripts, YAML files and Dockerfiles."""

import re
import subprocess

import pytest
from conftest import ROOT

BASH = "#!/usr/bin/env bash"
SCRIPTS = [each for each in [*ROOT.glob("deploy/*"), *ROOT.glob("examples/*/run"), ROOT / "tests/e2e/run", ROOT / ".ci/run"]
           if each.read_text().startswith(BASH)]  # fmt: skip
WORKFLOWS = [*ROOT.glob(".github/workflows/*.yaml")]
YAML = ["charts/simple-device-plugin/values.yaml", "charts/simple-device-plugin/Chart.yaml", "deploy", "skipper.yaml",
        "charts/simple-device-plugin/rules.yaml", "tests/install/rules_test.yaml",
        ".github", "tests/install/values"]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        ["shellcheck", "--external-sources", "--source-path", "SCRIPTDIR", *SCRIPTS],
        ["yamllint", "--strict", "--config-file", "tests/install/yamllint.yaml", *YAML],
        ["hadolint", "Dockerfile", "Dockerfile.simple-device-plugin-build"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
    ],
    ids=lambda command: command[0],
)
def test_linter_reports_nothing(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_digest(workflow):
    actions = re.findall(r"uses: (.*)", workflow.read_text())
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[0-9.]+", action), action
