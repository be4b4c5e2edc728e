"""The Makefile's targets, dry: helm, kubectl, kind and docker are stand-ins that record what they were asked."""

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

STAND_IN = """#!/bin/bash
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


class Dry:
    """A PATH whose cluster tools are stand-ins."""

    def __init__(self, tmp, names):
        self.record = tmp / "record"
        self.bin = tmp / "bin"
        self.bin.mkdir()
        for name in names:
            self.bin.joinpath(name).write_text(STAND_IN)
            self.bin.joinpath(name).chmod(0o755)
        for tool in ["make", "bash", "env", "sort", "sed", "head", "tail", "git", "mktemp", "rm", "dirname", "awk"]:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool))
        for tool in ["cp", "cat", "basename"]:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool))

    def start(self, *arguments, **environment):
        """make in a process group of its own."""
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
        with self.start(*arguments, **environment) as made:
            try:
                said, _ = made.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                # make's children too.
                os.killpg(made.pid, signal.SIGKILL)
                raise
        return made.returncode, said

    @property
    def asked(self):
        return self.record.read_text() if self.record.exists() else ""

    @property
    def stayed(self):
        """The processes of what does not end by itself."""
        path = pathlib.Path(f"{self.record}.stayed")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def values(self):
        return yaml.safe_load(pathlib.Path(f"{self.record}.values").read_text())

    @property
    def stdin(self):
        return pathlib.Path(f"{self.record}.stdin").read_text()


@pytest.fixture
def dry(tmp_path):
    return Dry(tmp_path, ["helm", "kubectl", "kind", "docker"])


SEED = {
    "NAMESPACE": "mine",
    "PLUGIN_NAME": "fpga",
    "RESOURCE_NAME": "example.com/fpga",
    "NUMBER_DEVICES": "3",
    "DEVICE_ID_PREFIX": "fpga",
    "ANNOTATION_PREFIX": "example.com/fpga",
    "ENV_PREFIX": "FPGA",
    "DEVICE_FILE_PREFIX": "fpga",
}


def test_deploy_takes_the_variables_of_the_environment(dry, check):
    code, said = dry.make("deploy", **SEED)
    assert code == 0, said
    assert "helm upgrade --install simple-device-plugin" in dry.asked
    assert "--namespace mine" in dry.asked
    assert "kubectl --namespace mine rollout status daemonset/simple-device-plugin" in dry.asked
    env = variables(render(dry.values)[0])
    assert {name: env[name] for name in SEED if name != "NAMESPACE"} == {
        name: value for name, value in SEED.items() if name != "NAMESPACE"
    }
    code, said = check(env)
    assert code == 0, said
    assert "3: fpga-worker-0 … fpga-worker-2" in said and "fpga.sock" in said


def test_deploy_takes_index_and_node_variables_as_arguments(dry, check):
    code, said = dry.make(
        "deploy",
        "RESOURCE_NAME_0=example.com/gpu",
        "RESOURCE_NAME_1=example.com/nic",
        "NUMBER_DEVICES.worker2=0",
        "NUMBER_DEVICES_1.kind-worker.example.com=7",
        "ENV_PREFIX=",
        **{"NUMBER_DEVICES_0.from-the-environment": "5"},
    )
    assert code == 0, said
    env = variables(render(dry.values)[0])
    assert env["NUMBER_DEVICES.worker2"] == "0"
    assert env["NUMBER_DEVICES_0.from-the-environment"] == "5"
    assert env["ENV_PREFIX"] == ""
    assert "7: nic-" in check(env, "kind-worker.example.com")[1]
    assert "5: gpu-" in check(env, "from-the-environment")[1]


EVERY = {
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
def test_every_variable_reaches_the_program_in_every_form(dry, check, form, how):
    given = {form.format(name): value for name, value in EVERY.items()}
    if how == "argument":
        code, said = dry.make("deploy", *(f"{name}={value}" for name, value in given.items()))
    else:
        code, said = dry.make("deploy", **given)
    assert code == 0, said
    env = variables(render(dry.values)[0])
    assert {name: env[name] for name in given} == given
    code, said = check(env)
    assert code == 0, said
    for shown in ["example.com/x", "3: id-worker-0 … id-worker-2", "plugin.sock", "packed", "ENV_0=/dev/0",
                  "annotation-0=id-worker-0", "/dev/file-0 (rw), the host's /dev/zero"]:  # fmt: skip
        assert shown in said, f"{shown}\n{said}"


def test_deploy_without_variables_is_the_programs_default(dry):
    assert dry.make("deploy")[0] == 0
    image = {"repository": "simple-device-plugin", "tag": VERSION, "digest": ""}
    assert dry.values == {"image": image, "resources": [], "extraEnv": []}
    # What an earlier deploy set does not stay.
    assert "--reset-values" in dry.asked
    assert "--namespace simple-device-plugin" in dry.asked


def test_a_value_reaches_the_program_as_it_is(dry):
    odd = 'a "b" \\ $(NODE_NAME) $$(X) a$$b # é\ttab\nline'
    assert dry.make("deploy", ANNOTATION_PREFIX=odd)[0] == 0
    assert variables(render(dry.values)[0])["ANNOTATION_PREFIX"] == odd
    code, said = dry.make("deploy", ENV_PREFIX="a\rb")
    assert code != 0 and "ENV_PREFIX has a control character" in said and dry.asked == ""


@pytest.mark.parametrize(
    "image, parts",
    [
        ("a/b:1", ("a/b", "1", "")),
        ("registry.example.com:5000/a", ("registry.example.com:5000/a", "latest", "")),
        ("host:5000/a:2@sha256:" + "1" * 64, ("host:5000/a", "2", "sha256:" + "1" * 64)),
    ],
)
def test_an_image_is_taken_apart(dry, image, parts):
    assert dry.make("deploy", f"IMG={image}")[0] == 0
    assert tuple(dry.values["image"].values()) == parts
    render(dry.values)


def test_repo_and_tag_name_the_image(dry):
    assert dry.make("deploy", "REPO=registry.example.com/a", "TAG=7")[0] == 0
    assert dry.values["image"]["repository"] == "registry.example.com/a" and dry.values["image"]["tag"] == "7"


def test_more_arguments_reach_helm(dry):
    assert dry.make("deploy", "HELM_ARGS=--set imagePullSecrets[0].name=x --debug")[0] == 0
    assert "--set imagePullSecrets[0].name=x --debug" in dry.asked.replace("\\", "")


def test_the_image_knows_its_version_and_commit(dry):
    assert dry.make("image", "IMAGE_ARGS=--no-cache")[0] == 0
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for argument in [f"VERSION={VERSION}", f"REVISION={commit.strip()}", "--no-cache"]:
        assert argument in dry.asked


def test_the_version_is_one():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    assert f"ARG VERSION={VERSION}\n" in (ROOT / "Dockerfile").read_text()
    assert f"IMG=${{IMG:-simple-device-plugin:{VERSION}}}" in (ROOT / "deploy/common").read_text()
    assert f"newTag: {VERSION}\n" in (ROOT / "deploy/kustomization.yaml").read_text()


def test_every_variable_is_known_everywhere():
    names = set(EVERY)
    assert names <= set((ROOT / "skipper.env").read_text().split())
    assert {"KUBECONFIG", "NAMESPACE", "IMG", "REPO", "TAG", "HELM_ARGS"} <= set((ROOT / "skipper.env").read_text().split())
    template = (CHART / "templates/_variables.tpl").read_text()
    assert names == set(re.findall(r"^[a-zA-Z]+: ([A-Z_]+)$", template, re.MULTILINE))


def answering(tmp_path, cases):
    """A cluster whose kubectl answers so."""
    answers = tmp_path / "answers"
    answers.write_text(f'#!/bin/bash\ncase "$*" in\n{cases}\nesac\n')
    answers.chmod(0o755)
    return str(answers)


def test_a_namespace_that_is_made_may_have_host_paths(dry, tmp_path):
    assert dry.make("deploy")[0] == 0
    made = yaml.safe_load(dry.stdin)
    assert made["metadata"]["name"] == "simple-device-plugin"
    assert made["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "privileged",
        "simple-device-plugin/made-by": "make-deploy",
    }
    there = answering(tmp_path, '*"get namespace"*) echo namespace/simple-device-plugin ;;')
    assert dry.make("deploy", ANSWERS=there)[0] == 0
    assert "create" not in dry.asked and "helm upgrade" in dry.asked
    # Whoever may not look makes nothing.
    assert dry.make("deploy", FAILS_kubectl="get namespace")[0] != 0
    assert "create" not in dry.asked and "helm" not in dry.asked


def test_a_rollout_that_fails_shows_why(dry):
    code, _ = dry.make("deploy", FAILS_kubectl="rollout")
    assert code != 0
    assert "describe daemonset/simple-device-plugin" in dry.asked
    assert "describe pods" in dry.asked and "logs daemonset/simple-device-plugin" in dry.asked


def test_without_helm_nothing_is_done_and_kubectl_is_offered(tmp_path):
    dry = Dry(tmp_path, ["kubectl"])
    code, said = dry.make("deploy")
    assert code != 0
    assert "helm is not here" in said and "kubectl apply -k deploy" in said
    assert "namespace simple-device-plugin, the image simple-device-plugin:0.1.0" in said
    assert dry.asked == ""


def test_undeploy_removes_what_deploy_made_in_its_namespace(dry, tmp_path):
    released = answering(tmp_path, '*"list "*) echo simple-device-plugin ;;')
    assert dry.make("undeploy", NAMESPACE="mine", ANSWERS=released)[0] == 0
    assert "helm uninstall simple-device-plugin --namespace mine --wait" in dry.asked
    assert "delete pods --selector app.kubernetes.io/part-of=simple-device-plugin-test" in dry.asked
    assert dry.make("undeploy", NAMESPACE="mine", FAILS_helm="list")[0] != 0
    assert "delete" not in dry.asked
    assert dry.make("undeploy", NAMESPACE="mine")[0] == 0
    assert "helm uninstall" not in dry.asked
    asked = dry.asked.replace("\\", "")
    assert "kubectl --namespace mine delete daemonsets,resourcequotas,serviceaccounts --selector" in asked
    assert "delete secrets --selector owner=helm,name=simple-device-plugin" in asked


@pytest.mark.parametrize(
    "made, others, goes", [("", "", False), ("namespace/mine", "", True), ("namespace/mine", "service/web", False)]
)
def test_a_namespace_goes_if_deploy_made_it_and_nobody_is_in_it(dry, tmp_path, made, others, goes):
    ours = "--selector simple-device-plugin/made-by=make-deploy --field-selector metadata.name=mine"
    answers = answering(tmp_path, f'*"get namespaces {ours}"*) echo {made} ;;\n*"get deployments,"*) echo {others} ;;')
    code, said = dry.make("undeploy", NAMESPACE="mine", ANSWERS=answers)
    assert code == 0, said
    assert ("kubectl delete namespace mine" in dry.asked) == goes
    assert ("The namespace mine stays" in said and "service/web" in said) == bool(others)


def test_helm_and_kubectl_can_be_others(tmp_path):
    dry = Dry(tmp_path, ["helm3", "oc"])
    assert dry.make("deploy", "HELM=helm3", "KUBECTL=oc")[0] == 0
    assert "helm3 upgrade" in dry.asked and "oc --namespace" in dry.asked
    assert dry.make("deploy", "HELM=helm3 --debug", "KUBECTL=oc --context there")[0] == 0
    assert "helm3 --debug upgrade" in dry.asked and "oc --context there --namespace" in dry.asked


def test_the_image_is_built_by_whoever_answers(tmp_path):
    dry = Dry(tmp_path, ["docker", "podman"])
    assert dry.make("image", "REPO=registry.example.com/sdp", "TAG=7")[0] == 0
    assert "docker build --tag registry.example.com/sdp:7" in dry.asked
    assert dry.make("image", FAILS_docker="info")[0] == 0
    assert "podman build --tag simple-device-plugin:0.1.0" in dry.asked
    assert dry.make("push", "CONTAINER_RUNTIME_COMMAND=podman", "IMG=a/b:1")[0] == 0
    assert dry.asked.strip() == "podman push a/b:1"


def test_a_kind_cluster_is_made_and_started(dry):
    assert dry.make("cluster")[0] == 0
    assert dry.asked.startswith("kind create cluster --name simple-device-plugin --config deploy/kind.yaml")
    assert dry.make("start")[0] == 0
    words = ["docker build", "kind load docker-image", "kind get kubeconfig --name simple-device-plugin", "helm upgrade"]
    order = [dry.asked.index(word) for word in words]
    assert order == sorted(order)
    assert "podAnnotations.simple-device-plugin/image=" in dry.asked


@pytest.mark.parametrize(
    "image, saved",
    [
        ("sdp:7", "docker.io/library/sdp:7"),
        ("registry.example.com:5000/sdp", "registry.example.com:5000/sdp:latest"),
    ],
)
def test_what_podman_built_reaches_kind_under_the_name_that_a_node_looks_for(tmp_path, image, saved):
    dry = Dry(tmp_path, ["helm", "kubectl", "kind", "podman"])
    code, said = dry.make("start", f"IMG={image}", "CONTAINER_RUNTIME_COMMAND=podman", "CLUSTER=mine")
    assert code == 0, said
    words = [f"podman tag {image} {saved}", f"image.tar {saved}", "kind load image-archive", "--name mine", "helm upgrade"]
    order = [dry.asked.index(word) for word in words]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "names",
    [
        {"RESOURCE_NAME": "example.com/a, example.com/b"},
        {"RESOURCE_NAME_0": "example.com/a", "RESOURCE_NAME_1": "example.com/b"},
    ],
)
@pytest.mark.parametrize(
    "target, asked",
    [
        ("test-a", {"example.com/a": 1}),
        ("test-b", {"example.com/b": 1}),
        ("test-both", {"example.com/a": 1, "example.com/b": 1}),
    ],
)
def test_a_pod_asks_for_its_devices(dry, tmp_path, target, asked, names):
    answers = answering(tmp_path, '*status.phase}) printf "$PHASE" ;;')
    given = {"NAMESPACE": "mine", "ANSWERS": answers, **names}
    code, said = dry.make(target, PHASE="Running", **given)
    assert code == 0, said
    pod = yaml.safe_load(dry.stdin)
    assert pod["spec"]["containers"][0]["resources"]["limits"] == asked
    validate(pod, "1.37", strict=True)
    assert "--namespace mine logs" in dry.asked and "--namespace mine delete pod" in dry.asked
    assert dry.make(target, PHASE="Failed", **given)[0] != 0
    assert "--namespace mine describe pod" in dry.asked and "--namespace mine delete pod" in dry.asked


def test_one_resource_is_too_few_for_both(dry):
    code, said = dry.make("test-both", RESOURCE_NAME="example.com/a")
    assert code != 0 and "make deploy test-both RESOURCE_NAME=" in said
    assert dry.asked == ""


# STAY is a kubectl that does not end by itself. The second rollout takes until a pod was placed.
CLUSTER = r"""
*"$HANGS"*) [[ ! $HANGS ]] || { STAY; } ;;&
*"$WRONG"*) [[ ! $WRONG ]] || { printf '%s' "${SAYS-}"; exit "${FAILS:-0}"; } ;;&
*"items[*].metadata.name}"*) printf 'n1 n2' ;;
*hostname*) printf 'n1-host' ;;
*"get pods --selector"*) echo pod/plugin-a; echo pod/plugin-b; STAY ;;
*"exec daemonset/"*" status") printf '2 of 2 resources ready' ;;
*"exec both"*) printf 'E2E_A_0=/dev/0\nE2E_A_1=/dev/1\nE2E_B_0=/dev/0\ne2e-a-0\ne2e-a-1\ne2e-b-0' ;;
*restartCount*) printf 0 ;;
*"get pods --output"*range*) printf 'fpga N\nghost-container-x N\ndemo-dp N\ntraining N\nserving N\n' ;;
*"logs "*) all="$*"; sed s/NODE/N/g examples/*/logs/"${all##*/}" ;;
*"get node n1 --watch"*) printf '6\n0\n6\n'; STAY ;;
*"rollout status"*) [[ $(<"$RECORD") != *" patch "* ]] || until [[ $(<"$RECORD") == *"delete pod placed"* ]]; do SLEEP 0.1; done ;;
*"wait pod placed --for=jsonpath"*) STAY ;;
*status.phase}) printf Running ;;
*"list "*) echo simple-device-plugin ;;
""".replace("STAY", 'echo $$ >>"$RECORD.stayed"; exec SLEEP 600').replace("SLEEP", shutil.which("sleep"))


@pytest.fixture
def e2e(dry, tmp_path):
    """Runs e2e on a cluster that does what it should, but for one answer."""
    answers = answering(tmp_path, CLUSTER)

    def run(wrong="", says="", fails=0, arguments=(), make=dry.make, **environment):
        environment = {"HANGS": "", "WRONG": wrong, "SAYS": says, "FAILS": str(fails), **environment}
        return make("e2e", "IMG=a/b:1", *arguments, ANSWERS=answers, **environment)

    return run


def still_run(processes):
    """Those of them that have not ended within a few seconds."""

    def runs(process):
        try:
            return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    end = time.monotonic() + 5
    while (left := [each for each in processes if runs(each)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


# What it waits for as it is stopped: the lines of a watch, or a pod while a watch and a rollout go on.
@pytest.mark.parametrize("hangs", ["get pods --selector", "wait pod placed --for=condition"])
# As Ctrl-C does, to all; and to make alone, which hands it on.
@pytest.mark.parametrize("stop, how", [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
def test_e2e_that_is_stopped_leaves_no_kubectl(dry, e2e, hangs, stop, how):
    with e2e(make=dry.start, HANGS=hangs) as made:
        try:
            end = time.monotonic() + 30
            while hangs not in dry.asked and time.monotonic() < end:
                time.sleep(0.05)
            stop(made.pid, how)
            said, _ = made.communicate(timeout=30)
            assert not still_run(dry.stayed), said
        finally:
            # What is left; each test has a group of its own.
            if still_run([made.pid, *dry.stayed]):
                os.killpg(made.pid, signal.SIGKILL)
    assert made.returncode != 0 and "kubectl delete namespace simple-device-plugin-e2e" in dry.asked


def test_e2e_goes_its_way_and_cleans_up(dry, e2e):
    code, said = e2e()
    assert code == 0, said
    assert "e2e passed on 2 nodes" in said
    assert "get nodes --selector kubernetes.io/os=linux" in dry.asked
    assert dry.stayed and not still_run(dry.stayed)
    assert re.search("allocatable was 0 for .* s; of [0-9]+ pods that were placed, 0 failed", said)
    assert "helm uninstall" in dry.asked
    assert "kubectl delete namespace simple-device-plugin-e2e" in dry.asked
    for made in yaml.safe_load_all(dry.stdin.replace("apiVersion", "---\napiVersion")):
        if made:
            validate(made, "1.37", strict=True)


FAILURES = {
    "other devices": ({"wrong": "exec both", "says": "E2E_A_0=/dev/0"}, "the container has"),
    "a plugin that is not ready": ({"wrong": "exec daemonset/", "says": "1 of 2 resources ready"}, "it is not"),
    "a restart": ({"wrong": "restartCount", "says": "1"}, "was restarted 1 times"),
    "a pod that is not Pending": ({"wrong": "wait pod more", "fails": 1}, ""),
    "no count": ({"wrong": r"wait node n2 --for=jsonpath={.status.allocatable.e2e\.example\.com/b}=2", "fails": 1}, ""),
    "another node's count": ({"wrong": r"wait node n2 --for=jsonpath={.status.allocatable.e2e\.example\.com/a}=1", "fails": 1}, ""),
    "no zero": ({"wrong": r"wait node n1 --for=jsonpath={.status.allocatable.e2e\.example\.com/b}=0", "fails": 1}, ""),
    "a leftover": ({"wrong": "get daemonsets,pods", "says": "pod/x"}, "left over: pod/x"),
    "an example that prints something else": ({"wrong": "logs pod/demo-dp", "says": "SAMPLE_DEVICE1=1"}, "pod/demo-dp prints"),
    "an example's pod that is not Pending": ({"wrong": "wait pod/demo-dp-overflow", "fails": 1}, ""),
    "a plugin that does not come back": ({"wrong": "get pods --selector", "says": "pod/plugin-a\n"}, "no pod of the plugin on n1"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_e2e_fails_where_the_cluster_has(dry, e2e, what):
    answer, said_so = FAILURES[what]
    code, said = e2e(**answer)
    assert code != 0 and said_so in said, said
    assert "e2e passed" not in said
    assert "helm uninstall" in dry.asked and "kubectl delete namespace simple-device-plugin-e2e" in dry.asked
    assert not still_run(dry.stayed)


def test_e2e_does_not_wait_for_a_kubelet_to_sync_a_config_map(dry, e2e):
    assert e2e()[0] == 0
    for example in ["002-variables", "003-widgets", "004-sample-device", "005-gpu-node"]:
        annotate = f"annotate pods --selector app.kubernetes.io/instance=simple-device-plugin --overwrite e2e={example}"
        words = [f"examples/{example}/config.yaml", annotate]
        _, changed, annotated = re.split("|".join(map(re.escape, words)), dry.asked.replace("\\", ""))
        assert "apply" not in changed and "apply" in annotated
    assert set(re.findall(r"--timeout[= ]\\?(\d+[ms])", dry.asked)) == {"180s"}, "deploy and undeploy too"


def test_e2e_counts_pods_that_failed(e2e):
    code, said = e2e(wrong="get pod placed", says="Failed")
    assert code == 0 and not re.search("placed, 0 failed", said), said


def test_e2e_kills_the_plugin(dry, e2e):
    assert e2e()[0] == 0
    assert "delete pod/plugin-a --grace-period=0 --force" in dry.asked


def test_e2e_touches_nothing_but_its_own(dry, e2e):
    e2e(arguments=["NAMESPACE=default", "RESOURCE_NAME_0=example.com/x", "NUMBER_DEVICES.n1=9"], NUMA_NODES="0")
    assert "--namespace default" not in dry.asked and "pods --all " not in dry.asked
    names = [each["name"] for each in dry.values["extraEnv"]]
    assert not {"RESOURCE_NAME_0", "NUMBER_DEVICES.n1", "NUMA_NODES"} & set(names)
    # One where the namespace is there: nothing is asked but that.
    code, said = e2e(wrong="create", fails=1)
    assert code != 0 and "cannot be made" in said
    assert dry.asked.strip() == "kubectl create --filename -"


def test_help_names_every_target(dry):
    code, said = dry.make("help")
    assert code == 0
    for target in ["image", "push", "deploy", "undeploy", "cluster", "start", "test-both", "e2e", "clean"]:
        assert f"  make {target} " in said


def test_the_plain_manifest_is_the_charts():
    kept = (ROOT / "deploy/manifest.yaml").read_text()
    assert kept == manifest(), "make manifest renders it"


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
    assert names == {("Namespace", "mine"), ("DaemonSet", "mine")}
    assert daemonset(objects)["spec"]["template"]["spec"]["containers"][0]["image"] == "a/b:mine"
    assert variables(objects)["NUMBER_DEVICES"] == "2"
    for each in objects:
        validate(each, "1.37", strict=True)


def test_skipper_runs_make_in_the_build_image(dry, tmp_path):
    repository = tmp_path / "repository"
    subprocess.run(["git", "clone", "--quiet", ROOT, repository], check=True)
    for name in ["skipper.yaml", "skipper.env", "Dockerfile.simple-device-plugin-build"]:
        shutil.copy(ROOT / name, repository)
    done = subprocess.run(
        [shutil.which("skipper"), "make", "deploy", "NUMBER_DEVICES_0.worker2=0"],
        cwd=repository,
        env={"PATH": f"{dry.bin}:{os.environ['PATH']}", "RECORD": str(dry.record), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "docker build" in dry.asked and "Dockerfile.simple-device-plugin-build" in dry.asked
    [ran] = [line for line in dry.asked.splitlines() if line.startswith("docker run")]
    assert "--env-file skipper.env" in ran and "make -f Makefile deploy NUMBER_DEVICES_0.worker2=0" in ran.replace("\\", "")
