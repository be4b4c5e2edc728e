"""Tests of the chart: its rendered objects, the values that it rejects, and that the program accepts the result."""

import difflib
import json
import os
import pathlib
import re
import shutil
import subprocess

import jsonschema
import pytest
import yaml
from conftest import CHART, HERE, ROOT, daemonset, free_port, render, variables, wait_for_status
from helm_python import HelmError, lint
from kubernetes_validate import validate

GPU = {"RESOURCE_NAME": "example.com/gpu", "NUMBER_DEVICES": 1}
KUBERNETES = [f"1.{minor}" for minor in range(28, 38)]
SETS = sorted(path.stem for path in (HERE / "values").iterdir())
# Kinds that are not part of Kubernetes, so kubernetes_validate does not know them.
CUSTOM_KINDS = {"SecurityContextConstraints", "PodMonitor", "PrometheusRule"}


def values_of(name):
    return yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text())


def test_there_are_at_least_a_dozen_sets_of_values():
    assert len(SETS) >= 12


@pytest.mark.parametrize("name", SETS)
def test_the_rendered_chart_is_as_expected(name):
    objects, notes = render(values_of(name))
    for each in objects:
        if each["kind"] == "ConfigMap" and "simple-device-plugin.json" in each["data"]:
            assert each["data"]["simple-device-plugin.json"] == (CHART / "dashboard.json").read_text()
            each["data"]["simple-device-plugin.json"] = "dashboard.json"
    rendered = yaml.safe_dump_all(objects, sort_keys=False, width=120) + "\n# NOTES\n" + notes
    expected = HERE / "rendered" / f"{name}.txt"
    if os.environ.get("KEEP"):
        expected.write_text(rendered)
    differences = difflib.unified_diff(
        expected.read_text().splitlines(), rendered.splitlines(), "expected", "rendered", lineterm=""
    )
    assert not (text := "\n".join(differences)), f"set KEEP=1 to accept the changes\n{text}"


@pytest.mark.parametrize("name", SETS)
def test_every_supported_kubernetes_version_accepts_the_objects(name):
    objects, _ = render(values_of(name))
    for each in objects:
        if each["kind"] in CUSTOM_KINDS:
            continue
        for version in KUBERNETES:
            validate(each, version, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_helm_lint_reports_nothing(name):
    report = lint(CHART, values_of(name), strict=True, namespace="devices")
    assert not report["errors"], report
    assert not [each for each in report["messages"] if each["severity"] > 1], report


@pytest.mark.parametrize("name", SETS)
def test_the_pod_has_the_least_privileges(name):
    pod = daemonset(render(values_of(name))[0])["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    # True is the default. The chart sets it, so that no admission policy of the cluster sets false.
    assert {key: pod[key] for key in pod if key.startswith("host")} == {"hostUsers": True}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    config = {"config": "configMap"} if values_of(name).get("config") else {}
    assert {name: list(volume)[1] for name, volume in volumes.items()} == {
        "device-plugins": "hostPath",
        "pod-resources": "hostPath",
        "control": "emptyDir",
        **config,
    }
    for host, kind in [("device-plugins", "Directory"), ("pod-resources", "DirectoryOrCreate")]:
        path = volumes[host]["hostPath"]
        assert path["type"] == kind and path["path"].endswith(f"/{host}")
    assert volumes["control"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    [container] = pod["containers"]
    assert {each["name"]: each.get("readOnly", False) for each in container["volumeMounts"]} == {
        "device-plugins": False,
        "pod-resources": True,
        "control": False,
        **dict.fromkeys(config, True),
    }
    assert not any("hostPort" in port for port in container.get("ports", []))
    context = container["securityContext"]
    context.pop("seLinuxOptions", None)
    assert context == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {each["kind"] for each in render(values_of(name))[0]}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


@pytest.mark.parametrize("name", SETS)
def test_the_program_accepts_the_rendered_variables(name, check, tmp_path):
    objects, _ = render(values_of(name))
    code, output = check(with_config(objects, tmp_path))
    assert code == 0, output


def with_config(objects, tmp):
    """Returns the variables, with CONFIG_FILE set to a copy of the ConfigMap's file."""
    env = variables(objects)
    for each in objects:
        if each["kind"] == "ConfigMap" and "config.yaml" in each["data"]:
            tmp.joinpath("config.yaml").write_text(each["data"]["config.yaml"])
            assert env["CONFIG_FILE"] == "/etc/simple-device-plugin/config.yaml"
            env["CONFIG_FILE"] = str(tmp / "config.yaml")
    return env


def test_a_config_file_reaches_the_program(check, tmp_path):
    objects, notes = render(values_of("config"))
    env = with_config(objects, tmp_path)
    code, output = check(env)
    assert code == 0 and "2: a … b" in output and "/opt/widget" in output, output
    assert "devices     0" in check(env, "worker2")[1]
    assert "PLUGIN_NAME" not in env and env["ALLOWED_HOST_PATHS"] == "/opt/widget,/dev/gpu"
    assert "the resources of the config file" in notes


@pytest.mark.parametrize("example", sorted(path.parent.name for path in ROOT.glob("examples/*/config.yaml")))
def test_every_example_works_as_config(check, tmp_path, example):
    text = (ROOT / "examples" / example / "config.yaml").read_text()
    objects, _ = render({"config": text})
    [content] = [each["data"]["config.yaml"] for each in objects if each["kind"] == "ConfigMap"]
    assert content == text
    code, output = check(with_config(objects, tmp_path))
    assert code == 0, output
    schema = json.loads((ROOT / "config.schema.json").read_text())
    # PyYAML implements YAML 1.1, in which the key `on` is the boolean true.
    jsonschema.validate(yaml.safe_load(text.replace("{on: ", "{\"on\": ")), schema)
    for pod in yaml.safe_load_all((ROOT / "examples" / example / "pods.yaml").read_text()):
        validate(pod, KUBERNETES[-1], strict=True)


def test_the_config_file_schema_rejects_what_the_program_rejects():
    schema = json.loads((ROOT / "config.schema.json").read_text())
    resource = {"name": "a/b"}
    jsonschema.validate({"resources": [resource]}, schema)
    for invalid in [
        {},
        {"resources": [{}]},
        {"resources": [{**resource, "count": 1}]},
        {"resources": [{**resource, "devices": "two"}]},
        {"resources": [{**resource, "devices": -1}]},
        {"resources": [{**resource, "devices": [{"id": "x", "health": "Sick"}]}]},
        {"resources": [{**resource, "preferredAllocation": "best"}]},
        {"resources": [{**resource, "numaNodes": [1024]}]},
        {"resources": [{**resource, "deviceFiles": [{"containerPath": "/x"}]}]},
        {"resources": [{**resource, "deviceFiles": [{"hostPath": "/x", "permissions": "x"}]}]},
        {"resources": [{**resource, "env": {"A": [1]}}]},
        {"resources": [], "nodes": [{"resources": []}]},
        {"resources": [{**resource, "faults": [{"on": "stream", "delay": "1s"}]}]},
    ]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(invalid, schema)


def test_the_security_context_constraints_allow_every_volume():
    objects, _ = render({**values_of("config"), "openshift": {"scc": True}})
    [constraints] = [each for each in objects if each["kind"] == "SecurityContextConstraints"]
    volumes = {list(volume)[1] for volume in daemonset(objects)["spec"]["template"]["spec"]["volumes"]}
    assert volumes == set(constraints["volumes"])


def test_the_program_serves_the_probed_and_scraped_paths(program, kubelet_sim, short_path):
    port = free_port()
    objects, _ = render({"env": GPU, "httpPort": port, "podMonitor": {"enabled": True}})
    [container] = daemonset(objects)["spec"]["template"]["spec"]["containers"]
    [monitor] = [each for each in objects if each["kind"] == "PodMonitor"]
    [scraped] = monitor["spec"]["podMetricsEndpoints"]
    live, ready = (container[f"{probe}Probe"]["httpGet"] for probe in ["liveness", "readiness"])
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert {live["port"], ready["port"], scraped["port"]} == {"http"}
    plugins = short_path / "plugins"
    plugins.mkdir()
    control = short_path / "control.sock"
    env = variables(objects) | {"NODE_NAME": "worker", "DEVICE_PLUGIN_PATH": str(plugins), "CONTROL_SOCKET": str(control)}
    log = short_path / "log"
    with log.open("w") as out, subprocess.Popen([program], env=env, stdout=out, stderr=out) as manager:
        try:
            wait_for_status(port, live["path"], 200)
            assert "example.com/gpu" in wait_for_status(port, ready["path"], 503)
            command = [kubelet_sim, "run", "--dir", plugins]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out) as kubelet:
                try:
                    wait_for_status(port, ready["path"], 200)
                    assert wait_for_status(port, scraped["path"], 200).startswith("# HELP simple_device_plugin_")
                    done = subprocess.run([program, "status"], env=env, capture_output=True, text=True, timeout=30, check=True)
                    assert "1 of 1 resources ready" in done.stdout
                finally:
                    kubelet.kill()
            wait_for_status(port, ready["path"], 503)
            wait_for_status(port, live["path"], 200)
        finally:
            manager.terminate()
            print(log.read_text())
    assert manager.returncode == 0


def test_the_default_control_socket_is_in_a_writable_volume(program):
    """Looks for the program's default path in its binary."""
    [container] = daemonset(render({})[0])["spec"]["template"]["spec"]["containers"]
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "control"]
    assert not mount.get("readOnly")
    assert "CONTROL_SOCKET" not in {each["name"] for each in container["env"]}
    assert f"{mount['mountPath']}/control.sock".encode() in pathlib.Path(program).read_bytes()


def test_the_pod_resources_volume_is_optional():
    """By default it is mounted at the program's default path."""
    spec = daemonset(render({"env": GPU})[0])["spec"]["template"]["spec"]
    [mount] = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "pod-resources"]
    assert mount == {"name": "pod-resources", "mountPath": "/var/lib/kubelet/pod-resources", "readOnly": True}
    assert "POD_RESOURCES_SOCKET" not in variables(render({"env": GPU})[0])
    objects, _ = render({"env": GPU, "podResourcesDir": ""})
    assert variables(objects)["POD_RESOURCES_SOCKET"] == "", "empty means off"
    spec = daemonset(objects)["spec"]["template"]["spec"]
    assert "pod-resources" not in str([spec["volumes"], spec["containers"][0]["volumeMounts"]])
    validate(daemonset(objects), KUBERNETES[0], strict=True)


def test_the_liveness_probe_is_slow_and_the_readiness_probe_is_fast():
    spec = daemonset(render({})[0])["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert "minReadySeconds" not in spec and "startupProbe" not in container
    live, ready = container["livenessProbe"], container["readinessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 120 and live["timeoutSeconds"] >= 10
    assert live["httpGet"]["path"] == "/livez", "a missing kubelet must not restart the container"
    assert ready["periodSeconds"] == 1 and not ready.get("initialDelaySeconds"), "the pod must be Ready soon after the registration"
    assert 1 < ready["periodSeconds"] * ready["failureThreshold"] <= 5 and ready["timeoutSeconds"] == 2


def test_without_a_port_there_are_no_probes():
    objects, _ = render(values_of("no-http"))
    spec = daemonset(objects)["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert variables(objects)["HTTP_ADDRESS"] == ""
    assert not {"ports", "livenessProbe", "readinessProbe", "startupProbe"} & set(container)
    assert spec["minReadySeconds"] == 5


def test_the_pod_monitor_selects_the_pods_and_has_its_labels():
    objects, _ = render(values_of("pod-monitor"))
    [monitor] = [each for each in objects if each["kind"] == "PodMonitor"]
    labels = daemonset(objects)["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # The test pod is not selected.
    [test] = [each for each in objects if each["kind"] == "Pod"]
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= test["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["metadata"]["labels"]["team"] == "monitors", "podMonitor.labels override commonLabels"
    assert monitor["spec"]["podMetricsEndpoints"][0]["interval"] == "30s"
    assert not [each for each in render({})[0] if each["kind"] == "PodMonitor"]


def test_every_key_reaches_the_program(check):
    code, output = check(variables(render(values_of("two-resources"))[0]))
    assert code == 0, output
    for expected in [
        "2 resources on node worker",
        "8: gpu-worker-0 … gpu-worker-7",
        "packed",
        "GPU_0=/dev/0",
        "nic.sock",
        "example.com/nic-0=",
        "/dev/nic-0 (rw), the host's /dev/null",
    ]:
        assert expected in output, f"{expected}\n{output}"


def test_per_node_variables_reach_only_their_node(check):
    env = variables(render(values_of("per-node"))[0])
    assert "4: gpu-" in check(env, "worker")[1]
    assert re.search(r"^example.com/gpu\n.*\n  devices +0$", check(env, "worker2")[1], re.MULTILINE)
    assert "16: nic-" in check(env, "kind-worker.example.com")[1]


@pytest.mark.parametrize(
    "given, text",
    [
        (0, "0"),
        (-1, "-1"),
        (1000000, "1000000"),
        (1e6, "1000000"),
        (123456789012345, "123456789012345"),
        ("007", "007"),
        ("1.10", "1.10"),
        ("", ""),
        (" a\n\tb <&> é ", " a\n\tb <&> é "),
        ("$(NODE_NAME) $$", "$(NODE_NAME) $$"),
    ],
)
def test_a_value_of_env_reaches_the_program_unchanged(given, text):
    assert variables(render({"env": {"ANNOTATION_PREFIX": given}})[0])["ANNOTATION_PREFIX"] == text


def test_null_removes_a_variable():
    env = variables(render({"env": {"NUMBER_DEVICES": None, "PLUGIN_NAME": None, "RUST_LOG": None}})[0])
    assert "NUMBER_DEVICES" not in env
    assert (env["PLUGIN_NAME"], env["RUST_LOG"]) == ("simple-device-plugin", "info"), "the chart's own values"


def test_the_chart_sets_every_variable_of_the_daemon_itself():
    page = (ROOT / "docs/variables.md").read_text()
    table = page.split("## Variables of the daemon\n")[1].split("\n## ")[0]
    names = re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE)
    assert len(names) >= 10
    for name in names:
        with pytest.raises(HelmError) as error:
            render({"env": {name: "x"}})
        assert f"env: {name} cannot be set: the chart " in str(error.value)


def test_usual_values_can_be_replaced_and_removed():
    """The defaults are merged with the given maps, and null or an empty value removes them."""
    [container] = daemonset(render({"securityContext": {"runAsUser": 1000000000, "privileged": None}})[0])["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["securityContext"]["runAsUser"] == 1000000000 and "privileged" not in container["securityContext"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    given = {"tolerations": [], "priorityClassName": "", "resources": None, "securityContext": None, "podSecurityContext": None}
    spec = daemonset(render(given)[0])["spec"]["template"]["spec"]
    assert not {"tolerations", "priorityClassName", "securityContext"} & set(spec)
    assert not {"resources", "securityContext"} & set(spec["containers"][0])
    assert daemonset(render({"tolerations": None})[0])["spec"]["template"]["spec"].get("tolerations") is None
    strategy = daemonset(render({"updateStrategy": {"type": "OnDelete"}})[0])["spec"]["updateStrategy"]
    assert strategy == {"type": "OnDelete"}


def test_the_service_account_is_the_one_that_is_named():
    def accounts(values):
        objects, _ = render(values)
        created = [each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"]
        return daemonset(objects)["spec"]["template"]["spec"]["serviceAccountName"], created

    assert accounts({}) == ("simple-device-plugin", ["simple-device-plugin"])
    assert accounts({"serviceAccount": {"name": "mine"}}) == ("mine", ["mine"])
    assert accounts({"serviceAccount": {"create": False, "name": "mine"}}) == ("mine", [])
    assert accounts({"serviceAccount": {"create": False}}) == ("default", [])
    objects, _ = render({"openshift": {"scc": True}, "serviceAccount": {"create": False, "name": "mine"}})
    [constraints] = [each for each in objects if each["kind"] == "SecurityContextConstraints"]
    assert constraints["users"] == ["system:serviceaccount:devices:mine"]


@pytest.mark.parametrize("name", ["123", "true", "a.b", "x" * 53])
def test_any_release_name_makes_valid_objects(name):
    enabled = {name: {"enabled": True} for name in ["podMonitor", "prometheusRule", "dashboard"]}
    options = {"openshift": {"scc": True}, "resourceQuota": {"create": True}, **enabled}
    objects, _ = render({"env": GPU, **options}, name=name)
    for each in objects:
        if each["kind"] not in CUSTOM_KINDS:
            validate(each, KUBERNETES[-1], strict=True)
        if each["kind"] != "SecurityContextConstraints":
            assert len(each["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())


def test_each_release_has_its_own_socket(check):
    sockets = [check(variables(render({"env": GPU}, name=name)[0]))[1] for name in ["big", "small"]]
    assert "big-simple-device-plugin.sock" in sockets[0] and "small-simple-device-plugin.sock" in sockets[1]


def test_values_are_not_expanded(check):
    env = variables(render(values_of("special-characters"))[0])
    assert env["ANNOTATION_PREFIX"] == "$$(NODE_NAME) a$$b $x"
    env = variables(render(values_of("unusual-values"))[0])
    assert env["ANNOTATION_PREFIX"] == 'a "quoted" $(NODE_NAME) one: #'
    assert env["NUMBER_DEVICES"] == "100000"


REJECTED = {
    "an unknown key": ({"resource": []}, "resource"),
    "a pod label that the chart sets": ({"podLabels": {"app.kubernetes.io/name": "x"}}, "invalid propertyName 'app.kubernetes.io/name'"),
    "another operating system": ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "linux"),
    "another operating system for the test": ({"test": {"nodeSelector": {"kubernetes.io/os": "windows"}}}, "linux"),
    "the former list of resources": (
        {"resources": [{"name": "example.com/gpu", "devices": 4}]},
        'resources: expected the requests and limits of the container, got a list. Extended resources are set in env, for example '
        'env: {RESOURCE_NAME: "example.com/gpu,example.com/nic", NUMBER_DEVICES: "4,2"}',
    ),
    "an extended resource as a limit": ({"resources": {"example.com/gpu": 4}}, "resources"),
    "the former name of the container's resources": ({"containerResources": {}}, "containerResources"),
    "the former overrides of nodes": ({"nodeOverrides": {}}, "nodeOverrides"),
    "the former list of variables": ({"extraEnv": []}, "extraEnv"),
    "a list of variables": ({"env": [{"name": "NUMBER_DEVICES", "value": "1"}]}, "env"),
    "a name with a space": ({"env": {"NUMBER DEVICES": 1}}, "NUMBER DEVICES"),
    "a boolean as a variable": ({"env": {"ENV_PREFIX": True}}, "env: ENV_PREFIX: expected a string or a whole number, got a bool"),
    "a fraction as a variable": ({"env": {"NUMBER_DEVICES": 1.5}}, "env: NUMBER_DEVICES: expected a string or a whole number, got 1.5"),
    "a number that cannot be rendered exactly": ({"env": {"NUMBER_DEVICES": 1e300}}, "expected a string or a whole number, got 1e+300"),
    "a list as a variable": ({"env": {"NUMBER_DEVICES": [4, 2]}}, "env: NUMBER_DEVICES: expected a string or a whole number, got a list"),
    "a node's name whose dot was not escaped": (
        {"env": {"NUMBER_DEVICES_0": {"worker2": 0}}},
        "got a map. With --set, escape each dot in a variable's name: --set 'env.NUMBER_DEVICES_0\\.worker2=0'",
    ),
    "maxSurge": (
        {"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}},
        "maxSurge is not supported, because a second pod on a node would wait for the socket of the first one",
    ),
    "the former maxUnavailable": ({"maxUnavailable": 1}, "maxUnavailable"),
    "an unknown update strategy": ({"updateStrategy": {"type": "Recreate"}}, "updateStrategy"),
    "maxUnavailable 0": ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}, "maxUnavailable"),
    "a relative podResourcesDir": ({"podResourcesDir": "pod-resources"}, "podResourcesDir"),
    "a relative devicePluginDir": ({"devicePluginDir": "plugins"}, "devicePluginDir"),
    "an unknown log format": ({"logFormat": "xml"}, "logFormat"),
    "a tag in the repository": ({"image": {"repository": "a/b:1"}}, "repository"),
    "an invalid name": ({"fullnameOverride": "Foo_Bar"}, "fullnameOverride"),
    "an invalid label value": ({"commonLabels": {"x": "y z"}}, "commonLabels"),
    "the former seLinuxType": ({"seLinuxType": "spc_t"}, "seLinuxType"),
    "an injected line in the name of the service account": ({"serviceAccount": {"name": "a\n      hostNetwork: true"}}, "serviceAccount"),
    "an injected line in priorityClassName": ({"priorityClassName": "a\n      hostNetwork: true"}, "priorityClassName"),
    "a directory with a line feed": ({"devicePluginDir": "/a\nb"}, "devicePluginDir"),
    "a common label that the chart sets": ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "app.kubernetes.io/name"),
    "an unknown pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    "an unknown key of the image": ({"image": {"name": "x"}}, "image"),
    "more than 100 percent": ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}, "maxUnavailable"),
    "a short digest": ({"image": {"digest": "sha256:12"}}, "digest"),
    "a map as the config file": (
        {"config": {"resources": []}},
        'config: expected the text of the config file, got a map: Helm would change its contents (0123 becomes 83, 1.10 '
        'becomes 1.1, the key on becomes "true"). Write "config: |"',
    ),
    "an empty map as the config file": ({"config": {}}, "expected the text of the config file, got a map"),
    "a number as the config file": ({"config": 0}, "expected the text of the config file, got a"),
    "a list as the config file": ({"config": ["resources"]}, "or use --set-file config=FILE"),
    "a variable together with config": (
        {"config": "resources: []", "env": {"PLUGIN_NAME": "x"}},
        "env: PLUGIN_NAME cannot be used with config; set it in the config file",
    ),
    "a per-node variable together with config": (
        {"config": "resources: []", "env": {"NUMBER_DEVICES_0.worker2": 0}},
        "env: NUMBER_DEVICES_0.worker2 cannot be used with config",
    ),
    "a relative allowed path": ({"allowedHostPaths": ["opt"]}, "allowedHostPaths"),
    "NODE_NAME in env": ({"env": {"NODE_NAME": "x"}}, "env: NODE_NAME cannot be set: the chart sets it to the name of the pod's node; remove it"),
    "HTTP_ADDRESS in env": ({"env": {"HTTP_ADDRESS": ":80"}}, "set httpPort"),
    "POD_RESOURCES_SOCKET in env": ({"env": {"POD_RESOURCES_SOCKET": "/x"}}, "set podResourcesDir"),
    "a port that needs a capability": ({"httpPort": 1023}, "httpPort"),
    "a port above 65535": ({"httpPort": 65536}, "httpPort"),
    "a negative port": ({"httpPort": -1}, "httpPort"),
    "a fractional port": ({"httpPort": 8080.5}, "httpPort"),
    "an address as the port": ({"httpPort": ":8080"}, "httpPort"),
    "a pod monitor without a port": (
        {"httpPort": 0, "podMonitor": {"enabled": True}},
        "podMonitor.enabled requires an httpPort",
    ),
    "alerts without a port": ({"httpPort": 0, "prometheusRule": {"enabled": True}}, "prometheusRule.enabled requires an httpPort"),
    "a dashboard without a port": ({"httpPort": 0, "dashboard": {"enabled": True}}, "dashboard.enabled requires an httpPort"),
    "a runbook URL with an anchor": ({"prometheusRule": {"runbookUrl": "https://example.com/#a"}}, "runbookUrl"),
    "the default service account for OpenShift": (
        {"openshift": {"scc": True}, "serviceAccount": {"create": False}},
        "openshift.scc requires a service account",
    ),
    "an interval without a unit": ({"podMonitor": {"interval": "30"}}, "interval"),
    "an injected line in the interval": ({"podMonitor": {"interval": "30s\n      path: /x"}}, "interval"),
    "an unknown key of the pod monitor": ({"podMonitor": {"port": "http"}}, "podMonitor"),
    "a pod monitor label that the chart sets": ({"podMonitor": {"labels": {"helm.sh/chart": "x"}}}, "helm.sh/chart"),
    "a quota without a priority class": (
        {"resourceQuota": {"create": True}, "priorityClassName": ""},
        "resourceQuota.create requires priorityClassName",
    ),
    "an empty resource name": ({"env": {"RESOURCE_NAME": ""}}, "RESOURCE_NAME: expected a resource name in each element"),
    "an empty element of the resource names": (
        {"env": {"RESOURCE_NAME": "example.com/gpu,,"}},
        "RESOURCE_NAME: expected a resource name in each element",
    ),
    "host paths without a config file": ({"env": GPU, "allowedHostPaths": ["/opt"]}, "no effect without config"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_the_chart_rejects(what):
    values, expected = REJECTED[what]
    with pytest.raises(HelmError) as error:
        render(values)
    assert expected in str(error.value)


def test_the_test_pod_has_tolerations_of_its_own():
    """Those of the daemon allow a node that is cordoned or not ready."""
    for given in [[], [{"key": "gpu", "operator": "Exists"}]]:
        objects, _ = render({"env": GPU, "test": {"tolerations": given}})
        [test] = [each for each in objects if each["kind"] == "Pod"]
        assert test["spec"].get("tolerations", []) == given


@pytest.mark.parametrize("given", [{}, {"kubernetes.io/os": "linux"}, {"pool": "big", "a": "b"}, None])
def test_pods_run_only_on_linux_nodes(given):
    objects, _ = render({"env": GPU, "nodeSelector": given, "test": {"nodeSelector": given}})
    [test] = [each for each in objects if each["kind"] == "Pod"]
    for spec in [daemonset(objects)["spec"]["template"]["spec"], test["spec"]]:
        assert spec["nodeSelector"] == {**(given or {}), "kubernetes.io/os": "linux"}


def test_the_notes_name_commands_for_the_release():
    _, notes = render(values_of("two-resources"))
    assert r"example.com/gpu:.status.allocatable.example\.com/gpu,example.com/nic:.status.allocatable.example\.com/nic" in notes
    assert "describe daemonset/simple-device-plugin" in notes
    assert "kubectl -n devices exec daemonset/simple-device-plugin -- /simple-device-plugin status" in notes
    _, notes = render({})
    assert "example.com/simple-device" in notes


def test_the_notes_say_how_to_run_where_critical_pods_are_refused():
    _, notes = render({})
    assert "--set resourceQuota.create=true" in notes and '--set priorityClassName=""' in notes
    for values, namespace in [({}, "kube-system"), ({"resourceQuota": {"create": True}}, "devices"), ({"priorityClassName": ""}, "devices")]:
        assert "priority class" not in render(values, namespace=namespace)[1]


def requested_by_test_pod(values):
    """Returns the resources that the test pod requests, in a list that is empty if there is no test pod."""
    pods = [each for each in render(values)[0] if each["kind"] == "Pod"]
    return [list(pod["spec"]["containers"][0]["resources"]["limits"]) for pod in pods]


def test_the_test_pod_requests_every_resource_that_env_names():
    gpu, nic = "example.com/gpu", "example.com/nic"
    assert requested_by_test_pod({"env": {"RESOURCE_NAME": f" {gpu} , {nic}"}}) == [[gpu, nic]]
    assert requested_by_test_pod({"env": {"RESOURCE_NAME_0": gpu, "RESOURCE_NAME_1": nic}}) == [[gpu, nic]]
    # An index replaces an element of the list, or appends one. What is for one node is not requested.
    env = {"RESOURCE_NAME": f"{gpu},example.com/x", "RESOURCE_NAME_1": nic, "RESOURCE_NAME_2": "example.com/y"}
    assert requested_by_test_pod({"env": {**env, "RESOURCE_NAME.worker": "example.com/z"}}) == [[gpu, nic, "example.com/y"]]
    assert requested_by_test_pod({}) == requested_by_test_pod({"env": None}) == [["example.com/simple-device"]]
    assert requested_by_test_pod({"env": {"RESOURCE_NAME": f"{gpu},{nic}"}, "test": {"resources": [nic]}}) == [[nic]]
    assert requested_by_test_pod({"config": "resources: []"}) == []
    assert requested_by_test_pod({"config": "resources: []", "test": {"resources": [nic]}}) == [[nic]]
    assert requested_by_test_pod({"env": GPU, "test": {"enabled": False}}) == []


def test_the_test_pod_can_be_disabled():
    objects, notes = render({"env": GPU, "test": {"enabled": False}})
    assert "Pod" not in {each["kind"] for each in objects} and "helm test" not in notes
    objects, notes = render({"env": GPU})
    [pod] = [each for each in objects if each["kind"] == "Pod"]
    assert pod["spec"]["restartPolicy"] == "Never" and "helm test" in notes


def test_the_test_pod_needs_only_the_documented_tools(tmp_path):
    """Runs its script with only these tools in the PATH."""
    tools = re.search(r"# Any image with (.*) and (.*)\.", (CHART / "values.yaml").read_text())
    for tool in [*tools[1].split(", "), tools[2]]:
        tmp_path.joinpath(tool).symlink_to(shutil.which(tool))
    [pod] = [each for each in render({"env": GPU})[0] if each["kind"] == "Pod"]
    [container] = pod["spec"]["containers"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        executable=shutil.which("sh"),
        env={"PATH": str(tmp_path), "GPU_0": "/dev/0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "GPU_0=/dev/0" in done.stdout and "got one device of each resource" in done.stdout
