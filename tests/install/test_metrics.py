"""Tests of the metrics with the tools of Prometheus, on a node with a registered resource and an injected fault."""

import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request

import pytest
from conftest import needs
from prometheus_client.openmetrics.parser import text_string_to_metric_families

CONFIG = "resources: [{name: example.com/gpu, faults: [{on: health, devices: '0', up: 1s, down: 1h}]}]"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def address(program, kubelet_sim):
    """The HTTP address of the program on a simulated node, once the fault is injected."""
    # The path of tmp_path is too long for the socket's.
    with tempfile.TemporaryDirectory() as path:
        config, log = pathlib.Path(path, "config.yaml"), pathlib.Path(path, "log")
        config.write_text(CONFIG)
        env = {
            "NODE_NAME": "worker",
            "DEVICE_PLUGIN_PATH": path,
            "CONFIG_FILE": str(config),
            "HTTP_ADDRESS": "127.0.0.1:0",
            "CONTROL_SOCKET": "",
            "POD_RESOURCES_SOCKET": "",
            "NO_COLOR": "1",
        }
        with log.open("w") as out, subprocess.Popen([program], env=env, stdout=out, stderr=out) as manager:
            kubelet = subprocess.Popen([kubelet_sim, "run", "--dir", path], stdin=subprocess.PIPE, stdout=out, stderr=out)
            try:
                found = wait_for("the address", lambda: re.search(r"serving HTTP address=(\S+)", log.read_text()))
                wait_for("the fault", lambda: 'health="Unhealthy"} 1\n' in scrape(found[1]))
                yield found[1]
            finally:
                kubelet.kill()
                kubelet.communicate()
                manager.kill()
                print(log.read_text())


def wait_for(what, look):
    end = time.monotonic() + 20
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found, f"waited for {what}"
    return found


def scrape(address, accept="*/*"):
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode()


@needs("promtool")
def test_promtool_accepts_the_text_format_without_a_warning(address):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape(address), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_openmetrics_format_is_valid(address):
    """The parser accepts only what the OpenMetrics standard allows."""
    families = {family.name: family for family in text_string_to_metric_families(scrape(address, OPENMETRICS))}
    durations = families["simple_device_plugin_allocate_duration_seconds"]
    assert (durations.type, durations.unit) == ("histogram", "seconds")
    [active] = families["simple_device_plugin_faults_active"].samples
    assert (active.labels, active.value) == ({"resource": "example.com/gpu", "fault": "health"}, 1)
