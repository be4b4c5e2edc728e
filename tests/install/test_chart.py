"""Tests of the chart: its rendered objects, the values that it rejects, and that the program accepts the result."""

import difflib
import json
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

import jsonschema
import pytest
import yaml
from conftest import CHART, HERE, ROOT, daemonset, render, variables
from helm_python import HelmError, lint
from kubernetes_validate import validate

GPU = {"name": "example.com/gpu", "devices": 1}
KUBERNETES = [f"1.{minor}" for minor in range(28, 38)]
SETS = sorted(path.stem for path in (HERE / "values").iterdir())
# Kinds that are not part of Kubernetes, so kubernetes_validate does not know them.
CUSTOM_KINDS = {"SecurityContextConstraints", "PodMonitor"}


def values_of(name):
    return yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text())


def test_there_are_at_least_a_dozen_sets_of_values():
    assert len(SETS) >= 12


@pytest.mark.parametrize("name", SETS)
def test_the_rendered_chart_is_as_expected(name):
    objects, notes = render(values_of(name))
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
    assert pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
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
        if each["kind"] == "ConfigMap":
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


@pytest.fixture
def short_path():
    """A directory for sockets. Their paths are limited to 107 bytes, and the paths of tmp_path are too long."""
    with tempfile.TemporaryDirectory() as path:
        yield pathlib.Path(path)


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


def test_the_program_serves_the_probed_and_scraped_paths(program, kubelet_sim, short_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    objects, _ = render({"resources": [GPU], "httpPort": port, "podMonitor": {"enabled": True}})
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
    spec = daemonset(render({"resources": [GPU]})[0])["spec"]["template"]["spec"]
    [mount] = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "pod-resources"]
    assert mount == {"name": "pod-resources", "mountPath": "/var/lib/kubelet/pod-resources", "readOnly": True}
    assert "POD_RESOURCES_SOCKET" not in variables(render({"resources": [GPU]})[0])
    objects, _ = render({"resources": [GPU], "podResourcesDir": ""})
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


def test_overrides_reach_only_their_node(check):
    env = variables(render(values_of("node-overrides"))[0])
    assert "4: gpu-" in check(env, "worker")[1]
    assert re.search(r"^example.com/gpu\n.*\n  devices +0$", check(env, "worker2")[1], re.MULTILINE)
    assert "16: nic-" in check(env, "kind-worker.example.com")[1]


@pytest.mark.parametrize("name", ["123", "true", "a.b", "x" * 53])
def test_any_release_name_makes_valid_objects(name):
    options = {"openshift": {"scc": True}, "resourceQuota": {"create": True}, "podMonitor": {"enabled": True}}
    objects, _ = render({"resources": [GPU], **options}, name=name)
    for each in objects:
        if each["kind"] not in CUSTOM_KINDS:
            validate(each, KUBERNETES[-1], strict=True)
        if each["kind"] != "SecurityContextConstraints":
            assert len(each["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())


def test_each_release_has_its_own_socket(check):
    sockets = [check(variables(render({"resources": [GPU]}, name=name)[0]))[1] for name in ["big", "small"]]
    assert "big-simple-device-plugin.sock" in sockets[0] and "small-simple-device-plugin.sock" in sockets[1]


def test_values_are_not_expanded(check):
    env = variables(render(values_of("special-characters"))[0])
    assert env["ANNOTATION_PREFIX_0"] == "$$(NODE_NAME) a$$b $x"
    env = variables(render(values_of("unusual-values"))[0])
    assert env["ANNOTATION_PREFIX_0"] == 'a "quoted" $(NODE_NAME) one: #'
    assert env["NUMBER_DEVICES_0"] == "100000"


REJECTED = {
    "an unknown key": ({"resource": []}, "resource"),
    "an unknown key of a resource": ({"resources": [{**GPU, "count": 2}]}, "count"),
    "no name": ({"resources": [{"devices": 2}]}, "name"),
    "a name without a domain": ({"resources": [{"name": "gpu"}]}, "name"),
    "a reserved name": ({"resources": [{"name": "kubernetes.io/gpu"}]}, "name"),
    "text as a count": ({"resources": [{**GPU, "devices": "two"}]}, "devices"),
    "a negative count": ({"resources": [{**GPU, "devices": -1}]}, "devices"),
    "a fractional count": ({"resources": [{**GPU, "devices": 1.5}]}, "devices"),
    "an unknown policy": ({"resources": [{**GPU, "preferredAllocation": "best"}]}, "preferredAllocation"),
    "a NUMA node over 1023": ({"resources": [{**GPU, "numaNodes": [1024]}]}, "numaNodes"),
    "an = in an env prefix": ({"resources": [{**GPU, "envPrefix": "A=B"}]}, "envPrefix"),
    "a device file outside of /dev": ({"resources": [{**GPU, "deviceFilePrefix": "../x"}]}, "deviceFilePrefix"),
    "a relative host path": ({"resources": [{**GPU, "deviceFileHostPath": "null"}]}, "deviceFileHostPath"),
    "a path as the plugin name": ({"resources": [{**GPU, "pluginName": "a/b"}]}, "pluginName"),
    "kubelet as the plugin name": ({"resources": [{**GPU, "pluginName": "kubelet"}]}, "pluginName"),
    "the same resource twice": ({"resources": [GPU, GPU]}, "example.com/gpu is listed twice"),
    "an override of an unknown resource": (
        {"resources": [GPU], "nodeOverrides": {"w": {"example.com/nic": {"devices": 0}}}},
        "nodeOverrides.w: example.com/nic is not in resources; expected one of example.com/gpu",
    ),
    "an empty override": (
        {"resources": [GPU], "nodeOverrides": {"w": {"example.com/gpu": {}}}},
        "minProperties",
    ),
    "a pod label that the chart sets": ({"podLabels": {"app.kubernetes.io/name": "x"}}, "invalid propertyName 'app.kubernetes.io/name'"),
    "another operating system": ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "linux"),
    "another operating system for the test": ({"test": {"nodeSelector": {"kubernetes.io/os": "windows"}}}, "linux"),
    "maxSurge": ({"maxSurge": 1}, "maxSurge"),
    "maxUnavailable 0": ({"maxUnavailable": 0}, "maxUnavailable"),
    "a relative podResourcesDir": ({"podResourcesDir": "pod-resources"}, "podResourcesDir"),
    "the pod-resources socket in extraEnv": (
        {"extraEnv": [{"name": "POD_RESOURCES_SOCKET", "value": "/x"}]},
        "POD_RESOURCES_SOCKET is reserved for the chart",
    ),
    "a relative devicePluginDir": ({"devicePluginDir": "plugins"}, "devicePluginDir"),
    "an unknown log format": ({"logFormat": "xml"}, "logFormat"),
    "a tag in the repository": ({"image": {"repository": "a/b:1"}}, "repository"),
    "a number as a variable": ({"extraEnv": [{"name": "A", "value": 1}]}, "extraEnv"),
    "an invalid name": ({"fullnameOverride": "Foo_Bar"}, "fullnameOverride"),
    "an invalid label value": ({"commonLabels": {"x": "y z"}}, "commonLabels"),
    "a domain with an empty part": ({"resources": [{"name": "a..b/gpu"}]}, "name"),
    "an injected line in seLinuxType": ({"seLinuxType": "a\n      privileged: true"}, "seLinuxType"),
    "an injected line in priorityClassName": ({"priorityClassName": "a\n      hostNetwork: true"}, "priorityClassName"),
    "a directory with a line feed": ({"devicePluginDir": "/a\nb"}, "devicePluginDir"),
    "a prefix with a line feed": ({"resources": [{**GPU, "deviceFilePrefix": "a\nb"}]}, "deviceFilePrefix"),
    "a comma in a prefix": ({"resources": [{**GPU, "annotationPrefix": "a,b"}]}, "annotationPrefix"),
    "too many devices": ({"resources": [{**GPU, "devices": 1e300}]}, "devices"),
    "a NUMA node twice": ({"resources": [{**GPU, "numaNodes": [1, 1]}]}, "numaNodes"),
    "a common label that the chart sets": ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "app.kubernetes.io/name"),
    "an invalid node name": ({"nodeOverrides": {"Worker": {"example.com/gpu": {"devices": 0}}}}, "Worker"),
    "an unknown pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    "an unknown key of the image": ({"image": {"name": "x"}}, "image"),
    "more than 100 percent": ({"maxUnavailable": "101%"}, "maxUnavailable"),
    "an indexed variable together with resources": (
        {"extraEnv": [{"name": "NUMBER_DEVICES_0", "value": "3"}]},
        "NUMBER_DEVICES_0 cannot be used with resources",
    ),
    "RUST_LOG in extraEnv": ({"extraEnv": [{"name": "RUST_LOG", "value": "x"}]}, "RUST_LOG is reserved for the chart"),
    "a short digest": ({"image": {"digest": "sha256:12"}}, "digest"),
    "a variable together with resources": (
        {"extraEnv": [{"name": "NUMBER_DEVICES", "value": "3"}]},
        "NUMBER_DEVICES cannot be used with resources",
    ),
    "a per-node variable together with resources": (
        {"extraEnv": [{"name": "NUMBER_DEVICES.worker2", "value": "3"}]},
        "NUMBER_DEVICES.worker2 cannot be used with resources",
    ),
    "overrides together with config": (
        {"config": "resources: []", "nodeOverrides": {"n": {"example.com/gpu": {"devices": 0}}}},
        "nodeOverrides cannot be used with config",
    ),
    "a map as the config file": (
        {"config": {"resources": [GPU]}},
        'config: expected the text of the config file, got a map: Helm would change its contents (0123 becomes 83, 1.10 '
        'becomes 1.1, the key on becomes "true"). Write "config: |"',
    ),
    "an empty map as the config file": ({"config": {}}, "expected the text of the config file, got a map"),
    "a number as the config file": ({"config": 0}, "expected the text of the config file, got a"),
    "a list as the config file": ({"config": [GPU]}, "or use --set-file config=FILE"),
    "a variable together with config": (
        {"config": "resources: []", "extraEnv": [{"name": "PLUGIN_NAME", "value": "x"}]},
        "PLUGIN_NAME cannot be used with config",
    ),
    "a relative allowed path": ({"allowedHostPaths": ["opt"]}, "allowedHostPaths"),
    "NODE_NAME in extraEnv": (
        {"extraEnv": [{"name": "NODE_NAME", "value": "x"}]},
        "NODE_NAME is reserved for the chart",
    ),
    "HTTP_ADDRESS in extraEnv": ({"extraEnv": [{"name": "HTTP_ADDRESS", "value": ":80"}]}, "HTTP_ADDRESS is reserved for the chart"),
    "CONTROL_SOCKET in extraEnv": ({"extraEnv": [{"name": "CONTROL_SOCKET", "value": "/x"}]}, "CONTROL_SOCKET is reserved for the chart"),
    "a port that needs a capability": ({"httpPort": 1023}, "httpPort"),
    "a port above 65535": ({"httpPort": 65536}, "httpPort"),
    "a negative port": ({"httpPort": -1}, "httpPort"),
    "a fractional port": ({"httpPort": 8080.5}, "httpPort"),
    "an address as the port": ({"httpPort": ":8080"}, "httpPort"),
    "a pod monitor without a port": (
        {"httpPort": 0, "podMonitor": {"enabled": True}},
        "podMonitor.enabled requires an httpPort",
    ),
    "an interval without a unit": ({"podMonitor": {"interval": "30"}}, "interval"),
    "an injected line in the interval": ({"podMonitor": {"interval": "30s\n      path: /x"}}, "interval"),
    "an unknown key of the pod monitor": ({"podMonitor": {"port": "http"}}, "podMonitor"),
    "a pod monitor label that the chart sets": ({"podMonitor": {"labels": {"helm.sh/chart": "x"}}}, "helm.sh/chart"),
    "a quota without a priority class": (
        {"resourceQuota": {"create": True}, "priorityClassName": ""},
        "resourceQuota.create requires priorityClassName",
    ),
}


@pytest.mark.parametrize("what", REJECTED)
def test_the_chart_rejects(what):
    values, expected = REJECTED[what]
    with pytest.raises(HelmError) as error:
        render(values)
    assert expected in str(error.value)


@pytest.mark.parametrize("given", [{}, {"kubernetes.io/os": "linux"}, {"pool": "big", "a": "b"}, None])
def test_pods_run_only_on_linux_nodes(given):
    objects, _ = render({"resources": [GPU], "nodeSelector": given, "test": {"nodeSelector": given}})
    [test] = [each for each in objects if each["kind"] == "Pod"]
    for spec in [daemonset(objects)["spec"]["template"]["spec"], test["spec"]]:
        assert spec["nodeSelector"] == {**(given or {}), "kubernetes.io/os": "linux"}


def test_the_notes_name_commands_for_the_release():
    _, notes = render(values_of("two-resources"))
    wait = r"kubectl wait node -l kubernetes.io/os=linux --timeout=60s --for=jsonpath='{.status.allocatable.example\.com/gpu}'=8"
    assert wait in notes
    assert "describe daemonset/simple-device-plugin" in notes
    assert "kubectl -n devices exec daemonset/simple-device-plugin -- /simple-device-plugin status" in notes
    _, notes = render(values_of("node-overrides"))
    # If the counts differ per node, waiting for one count on all nodes would time out.
    assert "kubectl wait" not in notes and "kubectl get nodes -o custom-columns=" in notes
    assert "Nodes with different values (nodeOverrides): kind-worker.example.com, worker2" in notes
    _, notes = render({"resources": [GPU], "nodeSelector": {"pool": "big", "a": "b"}})
    assert "kubectl wait node -l a=b,kubernetes.io/os=linux,pool=big " in notes


def requested_by_test_pod(values):
    """Returns the resources that the test pod requests, in a list that is empty if there is no test pod."""
    pods = [each for each in render(values)[0] if each["kind"] == "Pod"]
    return [list(pod["spec"]["containers"][0]["resources"]["limits"]) for pod in pods]


def test_the_test_pod_requests_every_resource_with_devices():
    none = {"name": "example.com/none", "devices": 0}
    nic = {"name": "example.com/nic"}
    assert requested_by_test_pod({"resources": [GPU, none, nic]}) == [["example.com/gpu", "example.com/nic"]]
    assert requested_by_test_pod({"resources": [GPU, nic], "test": {"resources": ["example.com/nic"]}}) == [["example.com/nic"]]
    assert requested_by_test_pod({"resources": [none]}) == requested_by_test_pod({"resources": []}) == []
    assert requested_by_test_pod({"resources": [GPU], "test": {"enabled": False}}) == []


def test_the_test_pod_can_be_disabled():
    objects, notes = render({"resources": [GPU], "test": {"enabled": False}})
    assert [each["kind"] for each in objects] == ["DaemonSet"] and "helm test" not in notes
    objects, notes = render({"resources": [GPU]})
    [pod] = [each for each in objects if each["kind"] == "Pod"]
    assert pod["spec"]["restartPolicy"] == "Never" and "helm test" in notes


def test_the_test_pod_needs_only_the_documented_tools(tmp_path):
    """Runs its script with only these tools in the PATH. The device file is in /dev/shm, since a prefix can contain a /."""
    tools = re.search(r"# Any image with (.*) and (.*)\.", (CHART / "values.yaml").read_text())
    for tool in [*tools[1].split(", "), tools[2]]:
        tmp_path.joinpath(tool).symlink_to(shutil.which(tool))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as files:
        prefix = f"{files.removeprefix('/dev/')}/gpu"
        resource = {**GPU, "envPrefix": "GPU", "deviceFilePrefix": prefix}
        [pod] = [each for each in render({"resources": [resource]})[0] if each["kind"] == "Pod"]
        [container] = pod["spec"]["containers"]
        pathlib.Path(f"/dev/{prefix}-0").touch()
        for env, code in [({"GPU_0": "/dev/0"}, 0), ({"GPU_0": "/dev/0", "GPU_1": "/dev/1"}, 1), ({}, 1)]:
            done = subprocess.run(
                [*container["command"], *container["args"]],
                executable=shutil.which("sh"),
                env={"PATH": str(tmp_path), **env},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
            assert ("got one device of each resource" in done.stdout) == (code == 0)
