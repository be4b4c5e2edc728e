"""The image's last stage around a program that was built here: what is in it, and that it runs with nothing."""

import json
import os
import shutil
import subprocess
import time

import pytest
from conftest import ROOT, needs

pytestmark = [
    needs("buildah", "podman", "runc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

# What a container may use here, and a runtime that Debian has.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""
NAME = "localhost/simple-device-plugin-test:1"
SIZE_MAX = 6 * 1024 * 1024


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, **options).stdout


@pytest.fixture(scope="module")
def image(program, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("image")
    shutil.copy(program, tmp / "simple-device-plugin")
    tmp.joinpath("containers.conf").write_text(CONTAINERS_CONF)
    os.environ["CONTAINERS_CONF"] = str(tmp / "containers.conf")
    # The builder stage is a directory with the program: no registry is asked.
    run(
        "buildah", "build", "--isolation", "chroot", "--build-context", f"builder={tmp}", "--tag", NAME,
        "--build-arg", "VERSION=7.8.9", "--build-arg", "REVISION=abc", ".", cwd=ROOT,
    )  # fmt: skip
    yield NAME
    run("podman", "rmi", "--force", NAME)


def test_it_is_small_and_has_the_program_alone(image, tmp_path):
    [inspected] = json.loads(run("podman", "image", "inspect", image))
    assert inspected["Size"] <= SIZE_MAX
    assert inspected["Config"]["Entrypoint"] == ["/simple-device-plugin"]
    labels = inspected["Config"]["Labels"]
    for label in ["title", "description", "licenses"]:
        assert labels[f"org.opencontainers.image.{label}"]
    assert labels["org.opencontainers.image.version"] == "7.8.9"
    assert labels["org.opencontainers.image.revision"] == "abc"
    saved = tmp_path / "image.tar"
    run("podman", "save", "--output", saved, image)
    run("tar", "--extract", "--file", saved, "--directory", tmp_path)
    [manifest] = json.loads(tmp_path.joinpath("manifest.json").read_text())
    files = [run("tar", "--list", "--file", tmp_path / layer) for layer in manifest["Layers"]]
    assert "".join(files).split() == ["simple-device-plugin"]


# Podman would make /run writable.
NOTHING = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--network", "none"]
NOTHING += ["--security-opt", "no-new-privileges"]


def test_it_runs_with_nothing(image):
    said = run("podman", "run", "--rm", *NOTHING, "--env", "NODE_NAME=n", image, "check")
    assert "simple-device-n-0 … simple-device-n-1" in said


def status(container):
    """As soon as the program listens."""
    for _ in range(50):
        asked = ["podman", "exec", container, "/simple-device-plugin", "status"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            break
        time.sleep(0.1)
    return done.stdout + done.stderr


def test_it_tells_how_it_stands_and_ends_in_order(image, tmp_path):
    container = run(
        "podman", "run", "--detach", *NOTHING, "--env", "NODE_NAME=n",
        "--volume", f"{tmp_path}:/var/lib/kubelet/device-plugins", "--tmpfs", "/run/simple-device-plugin:size=1m", image,
    ).strip()  # fmt: skip
    try:
        assert "0 of 1 resources ready" in status(container)
        run("podman", "stop", "--time", "30", container)
        assert run("podman", "wait", container).strip() == "0"
    finally:
        run("podman", "rm", "--force", container)


def test_a_clean_checkout_has_what_the_builder_needs(tmp_path):
    """What .dockerignore lets through is all that cargo asks for."""
    tmp_path.joinpath("Dockerfile").write_text("FROM scratch\nCOPY . /src\n")
    run(
        "buildah", "build", "--isolation", "chroot", "--file", tmp_path / "Dockerfile",
        "--ignorefile", ROOT / ".dockerignore", "--tag", f"{NAME}-src", ".", cwd=ROOT,
    )  # fmt: skip
    container = run("buildah", "from", f"{NAME}-src").strip()
    try:
        source = run("buildah", "mount", container).strip() + "/src"
        run("cargo", "metadata", "--locked", "--format-version", "1", cwd=source)
        assert set(os.listdir(source)) == {
            "Cargo.toml", "Cargo.lock", "Makefile", "build.rs", "proto", "src", "benches", "crates", "README.md",
        }  # fmt: skip
    finally:
        run("buildah", "rm", container)
        run("buildah", "rmi", f"{NAME}-src")
