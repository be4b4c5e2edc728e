"""Renders the chart with Helm's own code, and runs the program with the rendered variables."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest
import yaml
from helm_python import Chart

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts" / "simple-device-plugin"


def render(values, name="simple-device-plugin", namespace="devices"):
    """Renders the chart, and returns its objects and its notes."""
    chart = Chart.load(CHART)
    chart.validate_schema(values)
    templates = chart.render(values, name=name, namespace=namespace)
    notes = templates.pop("simple-device-plugin/templates/NOTES.txt")
    documents = (yaml.safe_load_all(text) for text in templates.values())
    return [document for each in documents for document in each if document], notes


def daemonset(objects):
    return next(each for each in objects if each["kind"] == "DaemonSet")


def variables(objects):
    """Returns the container's variables as the program sees them, without those from a fieldRef."""
    [container] = daemonset(objects)["spec"]["template"]["spec"]["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names)), "a variable is set twice"
    texts = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {name: expanded(text, {"NODE_NAME": "worker", **texts}) for name, text in texts.items()}


def expanded(text, variables):
    """Expands an env value as Kubernetes does: $$ becomes $, and $(NAME) the value of a known variable."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]),
        text,
    )


def needs(*tools):
    """Skips a test if a tool is missing. In CI, ALL_TOOLS is set, and the test runs (and fails) instead."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing) and "ALL_TOOLS" not in os.environ, reason=f"missing: {' '.join(missing)}")


def free_port():
    """Returns a TCP port of 127.0.0.1 that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_for_status(port, path, expected):
    """Repeats the request until the status code is as expected, and returns the body."""
    end = time.monotonic() + 20
    while (got := get(port, path))[0] != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert got[0] == expected, got
    return got[1]


@pytest.fixture
def short_path():
    """A directory for sockets. Their paths are limited to 107 bytes, and the paths of tmp_path are too long."""
    with tempfile.TemporaryDirectory() as path:
        yield pathlib.Path(path)


@pytest.fixture(scope="session")
def program():
    """The path of the program: PROGRAM, or the debug build."""
    return os.environ.get("PROGRAM") or str(ROOT / "target/debug/simple-device-plugin")


@pytest.fixture(scope="session")
def kubelet_sim(program):
    """The path of kubelet-sim, which is built into the same directory as the program."""
    return str(pathlib.Path(program).with_name("kubelet-sim"))


@pytest.fixture
def check(program):
    """Returns a function that runs the command check with these variables, and returns its exit code and output."""

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
