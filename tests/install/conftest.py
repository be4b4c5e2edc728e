"""The chart as Helm's own code renders it, and the program that reads what comes out."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from helm_python import Chart

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts" / "simple-device-plugin"


def render(values, name="simple-device-plugin", namespace="devices"):
    """The objects that the chart makes of these values, and its notes."""
    chart = Chart.load(CHART)
    chart.validate_schema(values)
    templates = chart.render(values, name=name, namespace=namespace)
    notes = templates.pop("simple-device-plugin/templates/NOTES.txt")
    documents = (yaml.safe_load_all(text) for text in templates.values())
    return [document for each in documents for document in each if document], notes


def daemonset(objects):
    return next(each for each in objects if each["kind"] == "DaemonSet")


def variables(objects):
    """The variables of the container as they reach the program, but for those that are a pod's own."""
    [container] = daemonset(objects)["spec"]["template"]["spec"]["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names)), "a variable is set twice"
    texts = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {name: expanded(text, {"NODE_NAME": "worker", **texts}) for name, text in texts.items()}


def expanded(text, variables):
    """As a pod's env is: $$ is $, and $(NAME) a variable that there is."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]),
        text,
    )


def needs(*tools):
    """Skips what this machine lacks a tool for; with ALL_TOOLS set, as in CI, that is a failure."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing) and "ALL_TOOLS" not in os.environ, reason=f"no {' '.join(missing)} here")


@pytest.fixture(scope="session")
def program():
    """The program, as PROGRAM names it."""
    return os.environ.get("PROGRAM") or str(ROOT / "target/debug/simple-device-plugin")


@pytest.fixture(scope="session")
def kubelet_sim(program):
    """The simulated kubelet, which is built beside the program."""
    return str(pathlib.Path(program).with_name("kubelet-sim"))


@pytest.fixture
def check(program):
    """What the program makes of these variables on a node, and its exit code."""

    def run(variables, node="worker"):
        done = subprocess.run(
            [program, "check", "--node", node],
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run
