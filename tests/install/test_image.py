"""Builds the image's last stage around a prebuilt program, and checks its contents and that it runs without privileges."""

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

# Limits that also work in unprivileged environments, and a container runtime that Debian has.
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
    # A local directory replaces the builder stage, so the build needs no registry.
    run(
        "buildah", "build", "--isolation", "chroot", "--build-context", f"builder={tmp}", "--tag", NAME,
        "--build-arg", "VERSION=7.8.9", "--build-arg", "REVISION=abc", ".", cwd=ROOT,
    )  # fmt: skip
    yield NAME
    run("podman", "rmi", "--force", NAME)


def test_the_image_is_small_and_contains_only_the_program(image, tmp_path):
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


# Without --read-only-tmpfs=false, podman makes /run writable.
NO_PRIVILEGES = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--network", "none"]
NO_PRIVILEGES += ["--security-opt", "no-new-privileges"]


def test_the_program_runs_without_privileges(image):
    output = run("podman", "run", "--rm", *NO_PRIVILEGES, "--env", "NODE_NAME=n", image, "check")
    assert "simple-device-n-0 … simple-device-n-1" in output


def status(container):
    """Runs the command status, and retries until the program listens."""
    for _ in range(50):
        command = ["podman", "exec", container, "/simple-device-plugin", "status"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            break
        time.sleep(0.1)
    return done.stdout + done.stderr


def test_status_works_in_the_container_and_the_program_stops_cleanly(image, tmp_path):
    container = run(
        "podman", "run", "--detach", *NO_PRIVILEGES, "--env", "NODE_NAME=n",
        "--volume", f"{tmp_path}:/var/lib/kubelet/device-plugins", "--tmpfs", "/run/simple-device-plugin:size=1m", image,
    ).strip()  # fmt: skip
    try:
        assert "0 of 1 resources ready" in status(container)
        run("podman", "stop", "--time", "30", container)
        assert run("podman", "wait", container).strip() == "0"
    finally:
        run("podman", "rm", "--force", container)


def test_the_build_context_has_all_sources(tmp_path):
    """Checks that .dockerignore includes every file that cargo needs."""
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
