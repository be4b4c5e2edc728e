"""The chart's alerts and dashboard: promtool checks them, and a Prometheus scrapes the program with them."""

import json
import re
import subprocess
import time
import urllib.parse
from contextlib import contextmanager

import pytest
import yaml
from conftest import CHART, HERE, ROOT, free_port, get, needs, render, wait_for_status

RULES = CHART / "rules.yaml"
RULES_TEST = HERE / "rules_test.yaml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CHART / "dashboard.json").read_text())
VARIABLES = [each["name"] for each in DASHBOARD["templating"]["list"]]
PREFIX = "simple_device_plugin_"


def expressions():
    """Returns the PromQL expressions of the dashboard's panels, with Grafana's variables replaced."""
    written = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for variable in ["namespace", "node", "resource"]:
        written = [each.replace(f'"${variable}"', '".*"') for each in written]
    return [each.replace("$__rate_interval", "5m") for each in written]


def metrics(text):
    """Returns the names of the program's metrics in a text, without the suffixes of a histogram's series."""
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(rf"\b{PREFIX}[a-z_]+", text)}


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
def test_promtool_accepts_the_alerts():
    promtool("check", "rules", "--lint=all", RULES)


@needs("promtool")
def test_each_alert_fires_when_it_should():
    promtool("test", "rules", RULES_TEST)


def test_each_alert_is_tested_firing_and_not_firing():
    cases = [case for test in yaml.safe_load(RULES_TEST.read_text())["tests"] for case in test["alert_rule_test"]]
    for fires in [True, False]:
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) == fires} == {each["alert"] for each in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_has_texts_and_a_section_in_the_runbook(alert):
    assert alert["labels"]["severity"] in {"info", "warning"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert "{{ or $labels.node $labels.instance }}" in alert["annotations"]["description"]
    assert f"\n### {alert['alert']}\n" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("url", ["", "https://example.com/operations.md"])
def test_the_prometheus_rule_has_the_alerts_of_the_file(url):
    objects, _ = render({"prometheusRule": {"enabled": True, "runbookUrl": url}})
    [rule] = [each for each in objects if each["kind"] == "PrometheusRule"]
    expected = yaml.safe_load(RULES.read_text())
    for alert in expected["groups"][0]["rules"] if url else []:
        # The anchor that GitHub makes of the section's heading.
        alert["annotations"]["runbook_url"] = f"{url}#{alert['alert'].lower()}"
    assert rule["spec"] == expected


def test_every_metric_of_the_alerts_and_the_dashboard_is_documented():
    page = (ROOT / "docs/status-and-metrics.md").read_text()
    documented = {PREFIX + name for name in re.findall(r"^\| `([a-z_]+)[{`]", page.split("\n## Metrics\n")[1], re.MULTILINE)}
    used = metrics(RULES.read_text()) | metrics(json.dumps(DASHBOARD))
    assert used <= documented, used - documented
    # The dashboard shows all of them, except a few for alerts.
    hidden = {f"{PREFIX}{name}" for name in ["config_last_reload_success_timestamp_seconds", "kubelet_checkpoint_readable"]}
    assert documented - metrics(json.dumps(DASHBOARD)) <= hidden


@needs("promtool")
def test_every_expression_of_the_dashboard_parses(tmp_path):
    rules = [{"record": f"panel:{index}", "expr": each} for index, each in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_dashboard_is_complete():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert VARIABLES == ["datasource", "namespace", "node", "resource"]
    for panel in panels:
        assert panel["title"] and panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert {"namespace", "node"} <= set(re.findall(r"\$([a-z]+)", target["expr"])), target["expr"]
    covered = [(x, y) for panel in panels for grid in [panel["gridPos"]] for x in range(grid["x"], grid["x"] + grid["w"])
               for y in range(grid["y"], grid["y"] + grid["h"])]  # fmt: skip
    assert len(covered) == len(set(covered)) and max(x for x, _ in covered) < 24, "panels overlap or are too wide"


class Prometheus:
    def __init__(self, port):
        self.port = port

    def api(self, path, **parameters):
        code, body = get(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert code == 200, body
        return json.loads(body)["data"]

    def firing(self):
        """Returns the alerts that fire, by name."""
        return {each["labels"]["alertname"]: each for each in self.api("alerts")["alerts"] if each["state"] == "firing"}

    def metrics(self):
        return metrics(" ".join(self.api("label/__name__/values")))


@contextmanager
def running(command, log, **options):
    """Runs a command, and ends it by its process ID."""
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
            print(f"{command[0]}:\n{log.read_text()}")


def wait_until(condition, describe):
    """Waits until a condition is true. If that takes a minute, fails with the description."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    assert condition(), describe()


@pytest.fixture
def node(program, kubelet_sim, short_path):
    """A simulated kubelet and the program with a config file. Returns the HTTP port and a function that runs a command."""
    config, plugins, port = short_path / "config.yaml", short_path / "plugins", free_port()
    config.write_text("resources: [{name: example.com/gpu, devices: 2}]\n")
    plugins.mkdir()
    env = {
        "NODE_NAME": "worker",
        "DEVICE_PLUGIN_PATH": str(plugins),
        "CONFIG_FILE": str(config),
        "CONTROL_SOCKET": str(short_path / "control.sock"),
        "HTTP_ADDRESS": f"127.0.0.1:{port}",
    }

    def command(*arguments):
        subprocess.run([program, *arguments], env=env, capture_output=True, timeout=30, check=True)

    simulator = running([kubelet_sim, "run", "--dir", plugins], short_path / "kubelet.log", stdin=subprocess.PIPE)
    with simulator, running([program], short_path / "program.log", env=env):
        wait_for_status(port, "/readyz", 200)
        yield port, command


@pytest.fixture
def prometheus(node, short_path):
    """A Prometheus that scrapes the program and evaluates the chart's alerts, which fire without a delay."""
    rules = yaml.safe_load(RULES.read_text())
    for alert in rules["groups"][0]["rules"]:
        alert["for"] = "0s"
    (short_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    # The labels that the operator adds for the PodMonitor.
    target = {"targets": [f"127.0.0.1:{node[0]}"], "labels": {"namespace": "devices", "node": "worker"}}
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "devices", "static_configs": [target]}],
    }
    file, port = short_path / "prometheus.yaml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={short_path / 'tsdb'}",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with running(command, short_path / "prometheus.log"):
        wait_for_status(port, "/-/ready", 200)
        yield Prometheus(port)


@needs("prometheus")
def test_a_prometheus_scrapes_the_program_and_its_alerts_fire(node, prometheus):
    _, command = node
    wait_until(lambda: f"{PREFIX}ready" in prometheus.metrics(), lambda: prometheus.api("targets"))
    assert prometheus.firing() == {}
    command("fault", "registration", "example.com/gpu")
    expected = {"SimpleDevicePluginNotReady", "SimpleDevicePluginFaultActive"}
    wait_until(lambda: expected <= set(prometheus.firing()), prometheus.firing)
    alert = prometheus.firing()["SimpleDevicePluginNotReady"]
    assert alert["labels"]["resource"] == "example.com/gpu" and alert["labels"]["severity"] == "warning"
    assert "example.com/gpu on worker has not been ready" in alert["annotations"]["description"]
    assert alert["annotations"]["summary"] == "A resource is not ready."
    assert prometheus.firing()["SimpleDevicePluginFaultActive"]["labels"]["fault"] == "registration"
    # The program has each metric that is used, with the labels that are used.
    used = metrics(RULES.read_text()) | metrics(json.dumps(DASHBOARD))
    assert used <= prometheus.metrics(), used - prometheus.metrics()
    for expression in expressions():
        # A comparison may filter all.
        wait_until(
            lambda query=expression: query.endswith("> 0") or prometheus.api("query", query=query)["result"],
            lambda query=expression: f"no data: {query}",
        )
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(ALERTS) and {rule["health"] for rule in rules} == {"ok"}, rules
    command("fault", "clear", "example.com/gpu")
    wait_until(lambda: not prometheus.firing(), prometheus.firing)
