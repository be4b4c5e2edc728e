"""Tests of the Makefile's targets. Fake helm, kubectl, kind and docker commands record their arguments."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from conftest import CHART, ROOT, daemonset, needs, render, variables
from kubernetes_validate import validate
from manifest import manifest

VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]

FAKE_TOOL = """#!/bin/bash
name=$(basename "$0")
printf '%s' "$name" >>"$RECORD"
printf ' %q' "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
values=
for argument; do
    [[ $values ]] && cp "$argument" "$RECORD.values"
    [[ $argument == --values ]] && values=next || values=
    [[ $argument == - ]] && cat >>"$RECORD.stdin"
done
[[ -x ${ANSWERS-} ]] && exec "$ANSWERS" "$name" "$@"
fails=FAILS_$name
[[ ! ${!fails-} || "$*" != *${!fails}* ]]
"""


class FakeTools:
    """Runs make with a PATH that has fake cluster tools, and gives access to what they recorded."""

    def __init__(self, tmp, names):
        self.record = tmp / "record"
        self.bin = tmp / "bin"
        self.bin.mkdir()
        for name in names:
            self.bin.joinpath(name).write_text(FAKE_TOOL)
            self.bin.joinpath(name).chmod(0o755)
        for tool in ["make", "bash", "env", "sort", "sed", "head", "tail", "git", "mktemp", "rm", "dirname", "awk"]:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool))
        for tool in ["cp", "cat", "basename"]:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool))

    def start(self, *arguments, **environment):
        """Starts make in a new process group."""
        for leftover in self.record.parent.glob("record*"):
            leftover.unlink()
        return subprocess.Popen(
            ["make", "--no-print-directory", *arguments],
            cwd=ROOT,
            env={"PATH": str(self.bin), "RECORD": str(self.record), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments, **environment):
        with self.start(*arguments, **environment) as process:
            try:
                output, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                # Also kill make's children.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode, output

    @property
    def calls(self):
        """The recorded command lines, one per line."""
        return self.record.read_text() if self.record.exists() else ""

    @property
    def long_running(self):
        """The process IDs of the fake commands that run until they are killed."""
        path = pathlib.Path(f"{self.record}.long_running")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def values(self):
        """The values file that helm was called with."""
        return yaml.safe_load(pathlib.Path(f"{self.record}.values").read_text())

    @property
    def stdin(self):
        """Everything that the fake commands read from stdin."""
        return pathlib.Path(f"{self.record}.stdin").read_text()


# A shell starts background jobs with SIGINT ignored, and so would the programs that these tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tools(tmp_path):
    return FakeTools(tmp_path, ["helm", "kubectl", "kind", "docker"])


ENVIRONMENT = {
    "NAMESPACE": "mine",
    "PLUGIN_NAME": "fpga",
    "RESOURCE_NAME": "example.com/fpga",
    "NUMBER_DEVICES": "3",
    "DEVICE_ID_PREFIX": "fpga",
    "ANNOTATION_PREFIX": "example.com/fpga",
    "ENV_PREFIX": "FPGA",
    "DEVICE_FILE_PREFIX": "fpga",
}


def test_deploy_passes_on_the_resource_variables_of_the_environment(tools, check):
    code, output = tools.make("deploy", **ENVIRONMENT)
    assert code == 0, output
    assert "helm upgrade --install simple-device-plugin" in tools.calls
    assert "--namespace mine" in tools.calls
    assert "kubectl --namespace mine rollout status daemonset/simple-device-plugin" in tools.calls
    env = variables(render(tools.values)[0])
    assert {name: env[name] for name in ENVIRONMENT if name != "NAMESPACE"} == {
        name: value for name, value in ENVIRONMENT.items() if name != "NAMESPACE"
    }
    code, output = check(env)
    assert code == 0, output
    assert "3: fpga-worker-0 … fpga-worker-2" in output and "fpga.sock" in output


def test_deploy_accepts_index_and_node_variables_as_arguments(tools, check):
    code, output = tools.make(
        "deploy",
        "RESOURCE_NAME_0=example.com/gpu",
        "RESOURCE_NAME_1=example.com/nic",
        "NUMBER_DEVICES.worker2=0",
        "NUMBER_DEVICES_1.kind-worker.example.com=7",
        "ENV_PREFIX=",
        **{"NUMBER_DEVICES_0.from-the-environment": "5"},
    )
    assert code == 0, output
    env = variables(render(tools.values)[0])
    assert env["NUMBER_DEVICES.worker2"] == "0"
    assert env["NUMBER_DEVICES_0.from-the-environment"] == "5"
    assert env["ENV_PREFIX"] == ""
    assert "7: nic-" in check(env, "kind-worker.example.com")[1]
    assert "5: gpu-" in check(env, "from-the-environment")[1]


ALL_VARIABLES = {
    "RESOURCE_NAME": "example.com/x",
    "NUMBER_DEVICES": "3",
    "DEVICE_ID_PREFIX": "id",
    "PLUGIN_NAME": "plugin",
    "ENV_PREFIX": "ENV",
    "ANNOTATION_PREFIX": "annotation",
    "DEVICE_FILE_PREFIX": "file",
    "DEVICE_FILE_HOST_PATH": "/dev/zero",
    "NUMA_NODES": "0",
    "PREFERRED_ALLOCATION": "packed",
}


@pytest.mark.parametrize("form", ["{}", "{}_0", "{}.worker", "{}_0.worker"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_every_variable_reaches_the_program_in_every_form(tools, check, form, how):
    given = {form.format(name): value for name, value in ALL_VARIABLES.items()}
    if how == "argument":
        code, output = tools.make("deploy", *(f"{name}={value}" for name, value in given.items()))
    else:
        code, output = tools.make("deploy", **given)
    assert code == 0, output
    env = variables(render(tools.values)[0])
    assert {name: env[name] for name in given} == given
    code, output = check(env)
    assert code == 0, output
    for shown in ["example.com/x", "3: id-worker-0 … id-worker-2", "plugin.sock", "packed", "ENV_0=/dev/0",
                  "annotation-0=id-worker-0", "/dev/file-0 (rw), the host's /dev/zero"]:  # fmt: skip
        assert shown in output, f"{shown}\n{output}"


def test_deploy_without_variables_uses_the_programs_defaults(tools):
    assert tools.make("deploy")[0] == 0
    image = {"repository": "simple-device-plugin", "tag": VERSION, "digest": ""}
    assert tools.values == {"image": image, "env": {}}
    # The values of an earlier deployment must not be reused.
    assert "--reset-values" in tools.calls
    assert "--namespace simple-device-plugin" in tools.calls


def test_a_value_reaches_the_program_unchanged(tools):
    special = 'a "b" \\ $(NODE_NAME) $$(X) a$$b # é\ttab\nline'
    assert tools.make("deploy", ANNOTATION_PREFIX=special)[0] == 0
    assert variables(render(tools.values)[0])["ANNOTATION_PREFIX"] == special
    code, output = tools.make("deploy", ENV_PREFIX="a\rb")
    assert code != 0 and "ENV_PREFIX: expected no control characters" in output and tools.calls == ""


@pytest.mark.parametrize(
    "image, parts",
    [
        ("a/b:1", ("a/b", "1", "")),
        ("registry.example.com:5000/a", ("registry.example.com:5000/a", "latest", "")),
        ("host:5000/a:2@sha256:" + "1" * 64, ("host:5000/a", "2", "sha256:" + "1" * 64)),
    ],
)
def test_an_image_is_split_into_repository_tag_and_digest(tools, image, parts):
    assert tools.make("deploy", f"IMG={image}")[0] == 0
    assert tuple(tools.values["image"].values()) == parts
    render(tools.values)


def test_repo_and_tag_name_the_image(tools):
    assert tools.make("deploy", "REPO=registry.example.com/a", "TAG=7")[0] == 0
    assert tools.values["image"]["repository"] == "registry.example.com/a" and tools.values["image"]["tag"] == "7"


def test_helm_args_reach_helm(tools):
    assert tools.make("deploy", "HELM_ARGS=--set imagePullSecrets[0].name=x --debug")[0] == 0
    assert "--set imagePullSecrets[0].name=x --debug" in tools.calls.replace("\\", "")


def test_the_image_is_built_with_its_version_and_commit(tools):
    assert tools.make("image", "IMAGE_ARGS=--no-cache")[0] == 0
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for argument in [f"VERSION={VERSION}", f"REVISION={commit.strip()}", "--no-cache"]:
        assert argument in tools.calls


def test_every_file_has_the_same_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    assert f"ARG VERSION={VERSION}\n" in (ROOT / "Dockerfile").read_text()
    assert f"IMG=${{IMG:-simple-device-plugin:{VERSION}}}" in (ROOT / "deploy/common").read_text()
    assert f"newTag: {VERSION}\n" in (ROOT / "deploy/kustomization.yaml").read_text()


def test_skipper_and_the_chart_have_every_resource_variable():
    names = set(ALL_VARIABLES)
    assert names <= set((ROOT / "skipper.env").read_text().split())
    assert {"KUBECONFIG", "NAMESPACE", "IMG", "REPO", "TAG", "HELM_ARGS"} <= set((ROOT / "skipper.env").read_text().split())
    listed = re.search(r"^\^\(([A-Z_|]+)\)", (CHART / "templates/_env.tpl").read_text(), re.MULTILINE)
    assert names == set(listed[1].split("|"))


def answering(tmp_path, cases):
    """Writes a script with these case branches, which the fake tools run for their answers."""
    answers = tmp_path / "answers"
    answers.write_text(f'#!/bin/bash\ncase "$*" in\n{cases}\nesac\n')
    answers.chmod(0o755)
    return str(answers)


def test_a_created_namespace_allows_host_paths(tools, tmp_path):
    assert tools.make("deploy")[0] == 0
    namespace = yaml.safe_load(tools.stdin)
    assert namespace["metadata"]["name"] == "simple-device-plugin"
    assert namespace["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "privileged",
        "simple-device-plugin/made-by": "make-deploy",
    }
    existing = answering(tmp_path, '*"get namespace"*) echo namespace/simple-device-plugin ;;')
    assert tools.make("deploy", ANSWERS=existing)[0] == 0
    assert "create" not in tools.calls and "helm upgrade" in tools.calls
    # If the namespaces cannot be read, nothing is created.
    assert tools.make("deploy", FAILS_kubectl="get namespace")[0] != 0
    assert "create" not in tools.calls and "helm" not in tools.calls


def test_a_failed_rollout_shows_events_and_logs(tools):
    code, _ = tools.make("deploy", FAILS_kubectl="rollout")
    assert code != 0
    assert "describe daemonset/simple-device-plugin" in tools.calls
    assert "describe pods" in tools.calls and "logs daemonset/simple-device-plugin" in tools.calls


def test_deploy_without_helm_changes_nothing_and_explains_kubectl(tmp_path):
    tools = FakeTools(tmp_path, ["kubectl"])
    code, output = tools.make("deploy")
    assert code != 0
    assert "helm: command not found" in output and "kubectl apply -k deploy" in output
    assert "simple-device-plugin, the image simple-device-plugin:0.1.0" in output
    assert tools.calls == ""


def test_undeploy_removes_everything_that_deploy_created(tools, tmp_path):
    released = answering(tmp_path, '*"list "*) echo simple-device-plugin ;;')
    assert tools.make("undeploy", NAMESPACE="mine", ANSWERS=released)[0] == 0
    assert "helm uninstall simple-device-plugin --namespace mine --wait" in tools.calls
    for label in ["part-of=simple-device-plugin-test", "instance=simple-device-plugin"]:
        assert f"delete pods --selector app.kubernetes.io/{label}" in tools.calls
    assert tools.make("undeploy", NAMESPACE="mine", FAILS_helm="list")[0] != 0
    assert "delete" not in tools.calls
    assert tools.make("undeploy", NAMESPACE="mine")[0] == 0
    assert "helm uninstall" not in tools.calls
    calls = tools.calls.replace("\\", "")
    assert "kubectl --namespace mine delete daemonsets,configmaps,resourcequotas,serviceaccounts --selector" in calls
    assert "delete secrets --selector owner=helm,name=simple-device-plugin" in calls


def test_undeploy_without_helm_removes_every_kind_of_object_that_the_chart_makes(tools, tmp_path):
    answers = answering(tmp_path, "*api-group=monitoring.coreos.com*) printf 'podmonitors.monitoring.coreos.com\nprometheusrules.monitoring.coreos.com\n'; exit 1 ;;")
    assert tools.make("undeploy", NAMESPACE="mine", ANSWERS=answers)[0] == 0
    deleted = re.search(r"mine delete (daemonsets,\S+) ", tools.calls.replace("\\", ""))[1].split(",")
    enabled = {name: {"enabled": True} for name in ["podMonitor", "prometheusRule", "dashboard"]}
    objects, _ = render({"config": "resources: []", "resourceQuota": {"create": True}, "openshift": {"scc": True}, **enabled})
    kinds = {each["kind"].lower() + "s" for each in objects} - {"securitycontextconstraintss"}
    assert {kind.partition(".")[0] for kind in deleted} == kinds


@pytest.mark.parametrize(
    "created, objects, is_deleted",
    [
        ("", "", False),
        ("namespace/mine", "", True),
        ("namespace/mine", "configmap/kube-root-ca.crt serviceaccount/default", True),
        ("namespace/mine", "secret/builder-dockercfg-x7k2p rolebinding.rbac.authorization.k8s.io/system:deployers", True),
        ("namespace/mine", "service/web configmap/kube-root-ca.crt", False),
        ("namespace/mine", "persistentvolumeclaim/data", False),
        ("namespace/mine", "configmap/kube-root-ca.crt-of-mine", False),
    ],
)
def test_undeploy_deletes_an_empty_namespace_that_deploy_created(tools, tmp_path, created, objects, is_deleted):
    selectors = "--selector simple-device-plugin/made-by=make-deploy --field-selector metadata.name=mine"
    kinds = "events events.events.k8s.io persistentvolumeclaims controllerrevisions.apps cronjobs.batch leases.coordination.k8s.io"
    answers = answering(
        tmp_path,
        f'*"get namespaces {selectors}"*) echo {created} ;;\n'
        f"*api-resources*list,delete*) printf '%s\\n' {kinds} ;;\n"
        f"*'get persistentvolumeclaims,cronjobs.batch '*) [[ ! '{objects}' ]] || printf '%s\\n' {objects} ;;",
    )
    code, output = tools.make("undeploy", NAMESPACE="mine", ANSWERS=answers)
    assert code == 0, output
    assert ("kubectl delete namespace mine" in tools.calls) == is_deleted
    others = [each for each in objects.split() if each not in ("", "configmap/kube-root-ca.crt")] if created and not is_deleted else []
    assert ("The namespace mine is not deleted because it still contains:" in output) == bool(others)
    assert all(f"\n{each}\n" in output for each in others) and "kube-root-ca.crt\n" not in output


@pytest.mark.parametrize("failing", ["api-resources*list,delete", "'get persistentvolumeclaims '"])
def test_undeploy_keeps_a_namespace_whose_objects_cannot_be_listed(tools, tmp_path, failing):
    answers = answering(
        tmp_path,
        f'*{failing}*) exit 1 ;;\n*"get namespaces "*) echo namespace/mine ;;\n*api-resources*) echo persistentvolumeclaims ;;',
    )
    code, output = tools.make("undeploy", NAMESPACE="mine", ANSWERS=answers)
    assert code != 0 and "The namespace mine is not deleted because the objects in it cannot be listed." in output
    assert "delete namespace" not in tools.calls


def test_helm_and_kubectl_can_be_replaced(tmp_path):
    tools = FakeTools(tmp_path, ["helm3", "oc"])
    assert tools.make("deploy", "HELM=helm3", "KUBECTL=oc")[0] == 0
    assert "helm3 upgrade" in tools.calls and "oc --namespace" in tools.calls
    assert tools.make("deploy", "HELM=helm3 --debug", "KUBECTL=oc --context there")[0] == 0
    assert "helm3 --debug upgrade" in tools.calls and "oc --context there --namespace" in tools.calls


def test_the_image_is_built_with_the_first_container_tool_that_works(tmp_path):
    tools = FakeTools(tmp_path, ["docker", "podman"])
    assert tools.make("image", "REPO=registry.example.com/sdp", "TAG=7")[0] == 0
    assert "docker build --tag registry.example.com/sdp:7" in tools.calls
    assert tools.make("image", FAILS_docker="info")[0] == 0
    assert "podman build --tag simple-device-plugin:0.1.0" in tools.calls
    assert tools.make("push", "CONTAINER_RUNTIME_COMMAND=podman", "IMG=a/b:1")[0] == 0
    assert tools.calls.strip() == "podman push a/b:1"


def test_start_builds_loads_and_deploys_the_image_on_kind(tools):
    assert tools.make("cluster")[0] == 0
    assert tools.calls.startswith("kind create cluster --name simple-device-plugin --config deploy/kind.yaml")
    assert tools.make("start")[0] == 0
    words = ["docker build", "kind load docker-image", "kind get kubeconfig --name simple-device-plugin", "helm upgrade"]
    order = [tools.calls.index(word) for word in words]
    assert order == sorted(order)
    assert "podAnnotations.simple-device-plugin/image=" in tools.calls


@pytest.mark.parametrize(
    "image, saved",
    [
        ("sdp:7", "docker.io/library/sdp:7"),
        ("registry.example.com:5000/sdp", "registry.example.com:5000/sdp:latest"),
    ],
)
def test_what_podman_built_reaches_kind_under_the_name_that_a_node_looks_for(tmp_path, image, saved):
    tools = FakeTools(tmp_path, ["helm", "kubectl", "kind", "podman"])
    code, output = tools.make("start", f"IMG={image}", "CONTAINER_RUNTIME_COMMAND=podman", "CLUSTER=mine")
    assert code == 0, output
    words = [f"podman tag {image} {saved}", f"image.tar {saved}", "kind load image-archive", "--name mine", "helm upgrade"]
    order = [tools.calls.index(word) for word in words]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "names",
    [
        {"RESOURCE_NAME": "example.com/a, example.com/b"},
        {"RESOURCE_NAME_0": "example.com/a", "RESOURCE_NAME_1": "example.com/b"},
    ],
)
@pytest.mark.parametrize(
    "target, requested",
    [
        ("test-a", {"example.com/a": 1}),
        ("test-b", {"example.com/b": 1}),
        ("test-both", {"example.com/a": 1, "example.com/b": 1}),
    ],
)
def test_a_test_pod_requests_its_devices(tools, tmp_path, target, requested, names):
    answers = answering(tmp_path, '*status.phase}) printf "$PHASE" ;;')
    given = {"NAMESPACE": "mine", "ANSWERS": answers, **names}
    code, output = tools.make(target, PHASE="Running", **given)
    assert code == 0, output
    pod = yaml.safe_load(tools.stdin)
    assert pod["spec"]["containers"][0]["resources"]["limits"] == requested
    validate(pod, "1.37", strict=True)
    assert "--namespace mine logs" in tools.calls and "--namespace mine delete pod" in tools.calls
    assert tools.make(target, PHASE="Failed", **given)[0] != 0
    assert "--namespace mine describe pod" in tools.calls and "--namespace mine delete pod" in tools.calls


def test_test_both_needs_two_resources(tools):
    code, output = tools.make("test-both", RESOURCE_NAME="example.com/a")
    assert code != 0 and "make deploy test-both RESOURCE_NAME=" in output
    assert tools.calls == ""


# STAY runs until it is killed. The second rollout ends after a test pod was deleted.
CLUSTER = r"""
*"$HANGS"*) [[ ! $HANGS ]] || { STAY; } ;;&
*"$COMMAND"*) [[ ! $COMMAND ]] || { printf '%s' "${PRINTS-}"; exit "${EXIT_CODE:-0}"; } ;;&
*"items[*].metadata.name}"*) printf 'n1 n2' ;;
*hostname*) printf 'n1-host' ;;
*"get pods --selector"*) echo pod/plugin-a; echo pod/plugin-b; STAY ;;
*"exec daemonset/"*" status") printf '2 of 2 resources ready' ;;
*"exec both"*) printf 'E2E_A_0=/dev/0\nE2E_A_1=/dev/1\nE2E_B_0=/dev/0\ne2e-a-0\ne2e-a-1\ne2e-b-0' ;;
*restartCount*) printf 0 ;;
*"get pods --output"*range*) printf 'fpga N\nghost-container-x N\ndemo-dp N\ntraining N\nserving N\n' ;;
*"logs "*) all="$*"; sed s/NODE/N/g examples/*/logs/"${all##*/}" ;;
*"get node n1 --watch"*) printf '6\n0\n6\n'; STAY ;;
*"rollout status"*) [[ $(<"$RECORD") != *" patch "* ]] || until [[ $(<"$RECORD") == *"delete pod rollout-test"* ]]; do SLEEP 0.1; done ;;
*"wait pod rollout-test --for=jsonpath"*) STAY ;;
*status.phase}) printf Running ;;
*"list "*) echo simple-device-plugin ;;
""".replace("STAY", 'echo $$ >>"$RECORD.long_running"; exec SLEEP 600').replace("SLEEP", shutil.which("sleep"))


@pytest.fixture
def e2e(tools, tmp_path):
    """Runs e2e on a fake cluster on which everything succeeds, except that `command` prints and exits as given."""
    answers = answering(tmp_path, CLUSTER)

    def run(command="", prints="", exit_code=0, arguments=(), make=tools.make, **environment):
        environment = {"HANGS": "", "COMMAND": command, "PRINTS": prints, "EXIT_CODE": str(exit_code), **environment}
        return make("e2e", "IMG=a/b:1", *arguments, ANSWERS=answers, **environment)

    return run


def still_running(processes):
    """The processes that have not exited after 5 seconds."""

    def is_running(process):
        try:
            return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    end = time.monotonic() + 5
    while (left := [each for each in processes if is_running(each)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


# The command that e2e waits for when it is stopped: a watch, or a pod while a watch and a rollout run in the background.
@pytest.mark.parametrize("hangs", ["get pods --selector", "wait pod rollout-test --for=condition"])
# Ctrl-C signals the whole process group. A SIGTERM to make alone is forwarded by make.
@pytest.mark.parametrize("stop, how", [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
def test_a_stopped_e2e_run_leaves_no_kubectl_behind(tools, e2e, hangs, stop, how):
    with e2e(make=tools.start, HANGS=hangs) as process:
        try:
            end = time.monotonic() + 30
            while hangs not in tools.calls and time.monotonic() < end:
                time.sleep(0.05)
            stop(process.pid, how)
            output, _ = process.communicate(timeout=30)
            assert not still_running(tools.long_running), output
        finally:
            # Each test has its own process group.
            if still_running([process.pid, *tools.long_running]):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0 and "kubectl delete namespace simple-device-plugin-e2e" in tools.calls


def test_e2e_passes_and_cleans_up(tools, e2e):
    code, output = e2e()
    assert code == 0, output
    assert "e2e passed on 2 nodes" in output
    assert "get nodes --selector kubernetes.io/os=linux" in tools.calls
    assert tools.long_running and not still_running(tools.long_running)
    assert re.search("allocatable was 0 for .* s; 0 of [0-9]+ pods failed", output)
    assert "helm uninstall" in tools.calls
    assert "kubectl delete namespace simple-device-plugin-e2e" in tools.calls
    for manifest_object in yaml.safe_load_all(tools.stdin.replace("apiVersion", "---\napiVersion")):
        if manifest_object:
            validate(manifest_object, "1.37", strict=True)


FAILURES = {
    "other devices": ({"command": "exec both", "prints": "E2E_A_0=/dev/0"}, "but got\nE2E_A_0=/dev/0"),
    "a plugin that is not ready": ({"command": "exec daemonset/", "prints": "1 of 2 resources ready"}, "does not report 2 of 2 resources"),
    "a restart": ({"command": "restartCount", "prints": "1"}, "was restarted 1 times"),
    "a pod that is not Pending": ({"command": "wait pod more", "exit_code": 1}, ""),
    "a wrong count": ({"command": r"wait node n2 --for=jsonpath={.status.allocatable.e2e\.example\.com/b}=2", "exit_code": 1}, ""),
    "a wrong per-node count": ({"command": r"wait node n2 --for=jsonpath={.status.allocatable.e2e\.example\.com/a}=1", "exit_code": 1}, ""),
    "a count that stays after undeploy": ({"command": r"wait node n1 --for=jsonpath={.status.allocatable.e2e\.example\.com/b}=0", "exit_code": 1}, ""),
    "a leftover": ({"command": "get daemonsets,pods", "prints": "pod/x"}, "left over: pod/x"),
    "an example that prints something else": ({"command": "logs pod/demo-dp", "prints": "SAMPLE_DEVICE1=1"}, "pod/demo-dp printed"),
    "an example's pod that is not Pending": ({"command": "wait pod/demo-dp-overflow", "exit_code": 1}, ""),
    "a plugin that does not come back": ({"command": "get pods --selector", "prints": "pod/plugin-a\n"}, "no plugin pod on n1"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_e2e_fails_on(tools, e2e, what):
    answer, expected = FAILURES[what]
    code, output = e2e(**answer)
    assert code != 0 and expected in output, output
    assert "e2e passed" not in output
    assert "helm uninstall" in tools.calls and "kubectl delete namespace simple-device-plugin-e2e" in tools.calls
    assert not still_running(tools.long_running)


def test_e2e_annotates_pods_to_sync_their_config_map_at_once(tools, e2e):
    assert e2e()[0] == 0
    for example in ["002-variables", "003-widgets", "004-sample-device", "005-gpu-node"]:
        annotate = f"annotate pods --selector app.kubernetes.io/instance=simple-device-plugin --overwrite e2e={example}"
        words = [f"examples/{example}/config.yaml", annotate]
        _, changed, annotated = re.split("|".join(map(re.escape, words)), tools.calls.replace("\\", ""))
        assert "apply" not in changed and "apply" in annotated
    assert set(re.findall(r"--timeout[= ]\\?(\d+[ms])", tools.calls)) == {"180s"}, "deploy and undeploy use the timeout too"


def test_e2e_counts_failed_pods(e2e):
    code, output = e2e(command="get pod rollout-test", prints="Failed")
    assert code == 0 and not re.search("; 0 of [0-9]+ pods failed", output), output


def test_e2e_kills_the_plugin(tools, e2e):
    assert e2e()[0] == 0
    assert "delete pod/plugin-a --grace-period=0 --force" in tools.calls


def test_e2e_uses_only_its_own_namespace_and_variables(tools, e2e):
    e2e(arguments=["NAMESPACE=default", "RESOURCE_NAME_0=example.com/x", "NUMBER_DEVICES.n1=9"], NUMA_NODES="0")
    assert "--namespace default" not in tools.calls and "pods --all " not in tools.calls
    assert not {"RESOURCE_NAME_0", "NUMBER_DEVICES.n1", "NUMA_NODES"} & set(tools.values["env"])
    # If the namespace exists, e2e stops at the attempt to create it.
    code, output = e2e(command="create", exit_code=1)
    assert code != 0 and "cannot create the namespace" in output
    assert tools.calls.strip() == "kubectl create --filename -"


def test_help_names_every_target(tools):
    code, output = tools.make("help")
    assert code == 0
    for target in ["image", "push", "deploy", "undeploy", "cluster", "start", "test-both", "e2e", "clean"]:
        assert f"  make {target} " in output


def test_the_plain_manifest_is_up_to_date():
    expected = (ROOT / "deploy/manifest.yaml").read_text()
    assert expected == manifest(), "run make manifest to update it"


@needs("kubectl")
def test_the_kustomization_sets_namespace_and_image(tmp_path):
    text = (ROOT / "deploy/kustomization.yaml").read_text()
    text = text.replace("namespace: simple-device-plugin", "namespace: mine")
    text = text.replace("newName: simple-device-plugin", "newName: a/b").replace(f"newTag: {VERSION}", "newTag: mine")
    tmp_path.joinpath("kustomization.yaml").write_text(text)
    for name in ["manifest.yaml", "namespace.yaml"]:
        shutil.copy(ROOT / "deploy" / name, tmp_path)
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    objects = list(yaml.safe_load_all(done.stdout))
    names = {(each["kind"], each["metadata"].get("namespace", each["metadata"]["name"])) for each in objects}
    assert names == {("Namespace", "mine"), ("DaemonSet", "mine"), ("ServiceAccount", "mine")}
    assert daemonset(objects)["spec"]["template"]["spec"]["containers"][0]["image"] == "a/b:mine"
    assert variables(objects)["NUMBER_DEVICES"] == "2"
    for each in objects:
        validate(each, "1.37", strict=True)


def test_skipper_runs_make_in_the_build_image(tools, tmp_path):
    repository = tmp_path / "repository"
    subprocess.run(["git", "clone", "--quiet", ROOT, repository], check=True)
    for name in ["skipper.yaml", "skipper.env", "Dockerfile.simple-device-plugin-build"]:
        shutil.copy(ROOT / name, repository)
    done = subprocess.run(
        [shutil.which("skipper"), "make", "deploy", "NUMBER_DEVICES_0.worker2=0"],
        cwd=repository,
        env={"PATH": f"{tools.bin}:{os.environ['PATH']}", "RECORD": str(tools.record), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "docker build" in tools.calls and "Dockerfile.simple-device-plugin-build" in tools.calls
    [ran] = [line for line in tools.calls.splitlines() if line.startswith("docker run")]
    assert "--env-file skipper.env" in ran and "make -f Makefile deploy NUMBER_DEVICES_0.worker2=0" in ran.replace("\\", "")
