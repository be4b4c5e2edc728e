"""The Makefile's targets, dry: helm, kubectl, kind and docker are stand-ins that record what they were asked."""

import os
import pathlib
import shutil
import signal
import subprocess

import pytest
import yaml
from conftest import ROOT, render, variables
from kubernetes_validate import validate
from manifest import manifest

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

    def make(self, *arguments, **environment):
        for leftover in self.record.parent.glob("record*"):
            leftover.unlink()
        with subprocess.Popen(
            ["make", "--no-print-directory", *arguments],
            cwd=ROOT,
            env={"PATH": str(self.bin), "RECORD": str(self.record), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as made:
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
    assert dry.values == {"resources": [], "extraEnv": []}
    assert "--namespace simple-device-plugin" in dry.asked


def test_a_value_reaches_the_program_as_it_is(dry):
    odd = 'a "b" \\ $(X) # é\ttab'
    assert dry.make("deploy", ANNOTATION_PREFIX=odd)[0] == 0
    assert variables(render(dry.values)[0])["ANNOTATION_PREFIX"] == odd


@pytest.mark.parametrize(
    "image, parts",
    [
        ("a/b:1", ("a/b", "1", "")),
        ("registry.example.com:5000/a", ("registry.example.com:5000/a", "latest", "")),
        ("host:5000/a:2@sha256:12", ("host:5000/a", "2", "sha256:12")),
    ],
)
def test_an_image_is_taken_apart(dry, image, parts):
    assert dry.make("deploy", f"IMG={image}")[0] == 0
    repository, tag, digest = parts
    expected = f"image.repository={repository}\\,image.tag={tag}\\,image.digest={digest}"
    assert expected in dry.asked, dry.asked


def test_a_namespace_that_is_made_may_have_host_paths(dry):
    assert dry.make("deploy", FAILS_kubectl="get namespace")[0] == 0
    assert "kubectl create namespace simple-device-plugin" in dry.asked
    assert "pod-security.kubernetes.io/enforce=privileged" in dry.asked
    assert dry.make("deploy")[0] == 0
    assert "create namespace" not in dry.asked and "label" not in dry.asked


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


def test_undeploy_removes_what_deploy_made_in_its_namespace(dry):
    assert dry.make("undeploy", NAMESPACE="mine")[0] == 0
    assert "helm uninstall simple-device-plugin --namespace mine --wait" in dry.asked
    assert dry.make("undeploy", NAMESPACE="mine", FAILS_helm="status")[0] == 0
    assert "helm uninstall" not in dry.asked
    asked = dry.asked.replace("\\", "")
    assert "kubectl --namespace mine delete daemonsets,resourcequotas,serviceaccounts --selector" in asked
    assert "delete secrets --selector owner=helm,name=simple-device-plugin" in asked


@pytest.mark.parametrize(
    "made, others, goes", [("", "", False), ("namespace/mine", "", True), ("namespace/mine", "service/web", False)]
)
def test_a_namespace_goes_if_deploy_made_it_and_nobody_is_in_it(dry, tmp_path, made, others, goes):
    answers = tmp_path / "answers"
    answers.write_text(
        f'#!/bin/bash\ncase "$*" in *"get namespaces"*) echo {made} ;; *"get deployments,"*) echo {others} ;; esac\n'
    )
    answers.chmod(0o755)
    code, said = dry.make("undeploy", NAMESPACE="mine", ANSWERS=str(answers))
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
    answers = tmp_path / "answers"
    answers.write_text('#!/bin/bash\ncase "$*" in *status.phase}) printf "$PHASE" ;; esac\n')
    answers.chmod(0o755)
    given = {"NAMESPACE": "mine", "ANSWERS": str(answers), **names}
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


CLUSTER = r"""#!/bin/bash
case "$*" in
    *".items[*].metadata.name}"*) printf 'n1 n2' ;;
    *hostname*) printf 'n1-host' ;;
    *"get pods --selector"*) echo pod/simple-device-plugin-x ;;
    *"logs both"*) printf '%s' "$GOT" ;;
    *status.phase*) printf Running ;;
    *"--watch"*) printf '6\n0\n6\n' ;;
    *"get namespaces"*) echo namespace/simple-device-plugin-e2e ;;
    *"get namespace"*) exit 1 ;;
esac
exit 0
"""
PROMISED = "E2E_A_0=/dev/0\nE2E_A_1=/dev/1\nE2E_B_0=/dev/0\ne2e-a-0\ne2e-a-1\ne2e-b-0\nend"


def test_e2e_goes_its_way_and_cleans_up(dry, tmp_path):
    answers = tmp_path / "answers"
    answers.write_text(CLUSTER)
    answers.chmod(0o755)
    for tool in ["grep", "cat"]:
        if not dry.bin.joinpath(tool).exists():
            dry.bin.joinpath(tool).symlink_to(shutil.which(tool))
    code, said = dry.make("e2e", "IMG=a/b:1", ANSWERS=str(answers), GOT=PROMISED)
    assert code == 0, said
    assert "e2e passed on 2 nodes" in said and "allocatable was 0 for" in said
    assert "wait node n2 --for=jsonpath=" in dry.asked
    assert dry.asked.rstrip().splitlines()[-1].startswith("kubectl get daemonsets")
    for pod in yaml.safe_load_all(dry.stdin.replace("apiVersion", "---\napiVersion")):
        if pod:
            validate(pod, "1.37", strict=True)
    code, said = dry.make("e2e", "IMG=a/b:1", ANSWERS=str(answers), GOT="E2E_A_0=/dev/0\nend")
    assert code != 0 and "FAILED: the container has" in said
    assert "helm uninstall" in dry.asked


def test_e2e_touches_no_pods_but_its_own(dry, tmp_path):
    answers = tmp_path / "answers"
    answers.write_text(CLUSTER)
    answers.chmod(0o755)
    dry.make("e2e", "NAMESPACE=default", ANSWERS=str(answers), GOT=PROMISED)
    assert "default" not in dry.asked and "--all " not in dry.asked
    # One where the namespace is there: nothing is asked but that.
    code, said = dry.make("e2e", ANSWERS="")
    assert code != 0 and "is there already" in said
    assert dry.asked.strip() == "kubectl get namespace simple-device-plugin-e2e --output name"


def test_help_names_every_target(dry):
    code, said = dry.make("help")
    assert code == 0
    for target in ["image", "push", "deploy", "undeploy", "cluster", "start", "test-both", "e2e", "clean"]:
        assert f"  make {target} " in said


def test_the_plain_manifest_is_the_charts():
    kept = (ROOT / "deploy/manifest.yaml").read_text()
    assert kept == manifest(), "make manifest renders it"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here")
def test_the_kustomization_sets_namespace_and_image(tmp_path):
    text = (ROOT / "deploy/kustomization.yaml").read_text()
    text = text.replace("namespace: simple-device-plugin", "namespace: mine")
    text = text.replace("newTag: 0.1.0", "newTag: mine")
    tmp_path.joinpath("kustomization.yaml").write_text(text)
    shutil.copy(ROOT / "deploy/manifest.yaml", tmp_path)
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    objects = list(yaml.safe_load_all(done.stdout))
    names = {(each["kind"], each["metadata"].get("namespace", each["metadata"]["name"])) for each in objects}
    assert names == {("Namespace", "mine"), ("DaemonSet", "mine")}
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
