"""The helm and kubectl commands that the documentation shows."""

import argparse
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from conftest import CHART, ROOT, daemonset, needs, render, variables
from helm_python import parse_set_file, parse_set_string

PAGES = [path for folder in (ROOT, ROOT / "docs", ROOT / "examples") for path in sorted(folder.glob("*.md"))]
# Takes the place of helm: writes its arguments and its input to files of its own.
HELM = f"""#!{sys.executable}
import json, os, pathlib, sys
values = sys.stdin.read() if "-" in sys.argv else ""
kept = pathlib.Path(os.environ["CALLS"])
(kept / str(len(list(kept.iterdir())))).write_text(json.dumps([sys.argv[1:], values]))
"""


def commands(tool):
    """The command lines of this tool in console blocks, with what continues them."""
    for page in PAGES:
        for block in re.findall(r"^ *```console\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            pattern = rf"^ *\$ ({tool} (?:[^\n]*\\\n)*[^\n]*(?:(?<=<<END)\n.*?^END)?)"
            for line in re.findall(pattern, block, re.MULTILINE | re.DOTALL):
                yield page, line


def shown(tool):
    found = list(commands(tool))
    return pytest.mark.parametrize("line", [line for _, line in found], ids=[f"{page.name}-{line[:40]}" for page, line in found])


def parsed(arguments):
    helm = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    helm.add_argument("action", choices=["install", "uninstall", "test"])
    helm.add_argument("release")
    helm.add_argument("chart", nargs="?", type=pathlib.Path)
    helm.add_argument("--namespace", required=True)
    helm.add_argument("--values", choices=["-"])
    helm.add_argument("--set", action="append", default=[])
    helm.add_argument("--set-file", action="append", default=[])
    return helm.parse_args(arguments)


@shown("helm")
def test_helm_installs_what_is_shown(line, tmp_path, check, monkeypatch):
    calls, stub = tmp_path / "calls", tmp_path / "helm"
    calls.mkdir()
    stub.write_text(HELM)
    stub.chmod(0o755)
    monkeypatch.chdir(ROOT)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", line], env={"PATH": path, "CALLS": str(calls)}, timeout=30, check=True)
    [call] = calls.iterdir()
    arguments, text = yaml.safe_load(call.read_text())
    helm = parsed(arguments)
    if helm.action != "install":
        return
    assert helm.chart.resolve() == CHART
    values = yaml.safe_load(text) or {}
    for parse, expressions in [(parse_set_string, helm.set), (parse_set_file, helm.set_file)]:
        values |= parse(",".join(expressions)) if expressions else {}
    objects, _ = render(values)
    if "config" not in values:
        code, said = check(variables(objects) | {"NODE_NAME": "worker"})
        assert code == 0, said
    assert daemonset(objects)["spec"]["template"]["spec"]["containers"][0]["image"].startswith("registry.example.com/")


@needs("kubectl")
@shown("kubectl")
def test_kubectl_takes_what_is_shown(line):
    ours, _, _ = line.partition(" -- ")
    done = subprocess.run(["bash", "-c", f"{ours} --help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_install_names_only_values_of_the_chart():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    page = (ROOT / "docs/install.md").read_text()
    sections = page.split("## Values of the chart\n")[1].split("\n## What it can access\n")[0]
    columns = re.findall(r"^\| (`[^|]*`) \|", sections, re.MULTILINE)
    named = {name for column in columns for name in re.findall("`([a-zA-Z]+)`", column)}
    assert {"env", "prometheusRule"} <= named and named <= set(values)
    for path in re.findall(r"`([a-zA-Z.]+)=[^`]*`", page):
        default = values
        for key in path.split(".")[: 1 if path.startswith("securityContext.") else None]:
            assert key in default, path
            default = default[key]
