# Every task of the project. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# The program is linked statically for the host's target, so it runs without the build machine's libraries.
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
PROGRAM = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/simple-device-plugin

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# The image reference: IMG, or REPO and TAG.
REPO ?= simple-device-plugin
TAG ?= $(VERSION)
IMG ?= $(REPO):$(TAG)
export IMG

# The first container tool whose `info` command succeeds.
CONTAINER_RUNTIME_COMMAND ?= $(shell for command in docker podman buildah; do \
	$$command info >/dev/null 2>&1 && echo $$command && exit; done; echo docker)

KIND ?= kind
CLUSTER ?= simple-device-plugin
export KIND CLUSTER

# Make does not export variables whose names contain a dot, so export the per-node variables (NAME.<node>) explicitly.
$(foreach name,$(.VARIABLES),$(if $(findstring .,$(name)),$(if $(filter command environment,$(firstword \
	$(origin $(name)))),$(eval export $(name)))))

.PHONY: help build test lint demo bench soak fuzz image push deploy undeploy cluster start test-a test-b test-both e2e \
	manifest test-install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Packed relocations save 220 KiB of file size.
STATIC := RUSTFLAGS='-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs'

# Each package is built in its own cargo run: in a joint build, cargo would unify the features of their dependencies.
BUILD_PACKAGES ?= simple-device-plugin kubelet-sim

build: ## Build static binaries of the daemon and kubelet-sim, and show their paths
	for package in $(BUILD_PACKAGES); do
		$(STATIC) cargo build --locked --release --target $(TARGET) --package $$package
	done
	@ls -l $(BUILD_PACKAGES:%=$(dir $(PROGRAM))%)

test: ## Run all Rust tests (needs only cargo)
	cargo test --locked

lint: ## Check formatting, clippy and rustdoc, with warnings as errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	cargo fmt --check --manifest-path fuzz/Cargo.toml

demo: ## Run the demo on a simulated kubelet; resource variables such as NUMBER_DEVICES apply
	cargo build --locked
	$(or $(CARGO_TARGET_DIR),target)/debug/kubelet-sim demo

bench: build ## Run the benchmarks (about 5 minutes with the build)
	# `cargo bench` overwrites the program with a build that has the features of the dev-dependencies. Measure a copy.
	cp $(PROGRAM) $(PROGRAM)-measured
	PROGRAM=$(PROGRAM)-measured $(STATIC) cargo bench --locked --target $(TARGET) --bench figures

ONE_TEST := cargo test --locked --test it -- --nocapture --exact
# Cargo succeeds when no test matches the name, so require that one test passed.
SOAK_LOG = $(or $(CARGO_TARGET_DIR),target)/soak.log
HAS_PASSED = tee $(SOAK_LOG) && grep -q '1 passed' $(SOAK_LOG)

soak: build ## Run the soak tests: RESTARTS=1000 (kubelet restarts, then reloads) and COMMANDS=100000; SEED=N replays a run
	TESTED_PROGRAM=$(PROGRAM) SOAK_SEED=$(SEED) SOAK_RESTARTS=$(or $(RESTARTS),1000) $(ONE_TEST) soak::recovers_from_random_restarts_and_failures | $(HAS_PASSED)
	RELOAD_SEED=$(SEED) RELOADS=$(or $(RESTARTS),1000) $(ONE_TEST) reload_soak::random_reloads_leak_nothing | $(HAS_PASSED)
	TESTED_PROGRAM=$(PROGRAM) COMMAND_SEED=$(SEED) COMMANDS=$(or $(COMMANDS),100000) $(ONE_TEST) command_soak::random_commands_and_a_reset_leave_everything_as_configured | $(HAS_PASSED)

# The compiler flags that libFuzzer requires. cargo-fuzz also enables a sanitizer, which needs a nightly toolchain.
COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing
SECONDS_EACH ?= 60

fuzz: ## Run each fuzz target for SECONDS_EACH=60 (needs a C++ compiler)
	cd fuzz
	RUSTFLAGS='$(COVERAGE)' cargo build --locked --release --target $(TARGET)
	for target in variables config_file checkpoint plugin_socket; do
		mkdir -p corpus/$$target artifacts/$$target
		$(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/$$target -max_total_time=$(SECONDS_EACH) -max_len=2048 \
			-timeout=10 -dict=$$target.dict -artifact_prefix=artifacts/$$target/ -verbosity=0 -print_final_stats=1 corpus/$$target
		echo "$$target: nothing found"
	done

image: ## Build the image IMG with docker, podman or buildah (CONTAINER_RUNTIME_COMMAND)
	$(CONTAINER_RUNTIME_COMMAND) build --tag $(IMG) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) $(IMAGE_ARGS) .

push: ## Push the image IMG
	$(CONTAINER_RUNTIME_COMMAND) push $(IMG)

deploy: ## Deploy with helm; takes NAMESPACE, IMG and resource variables, e.g. NUMBER_DEVICES_0.worker2=0
	@deploy/deploy

undeploy: ## Remove everything that deploy created in NAMESPACE
	@deploy/undeploy

cluster: ## Create a kind cluster with two workers
	$(KIND) create cluster --name $(CLUSTER) --config deploy/kind.yaml

start: image ## Build the image, load it into the kind cluster and deploy it there
	@CONTAINER_RUNTIME_COMMAND="$(CONTAINER_RUNTIME_COMMAND)" deploy/start

test-a: ## Run a pod that requests one device of the first resource in RESOURCE_NAME
	@deploy/test-pod a

test-b: ## Run a pod that requests one device of the second resource
	@deploy/test-pod b

test-both: ## Run a pod that requests one device of each of the two resources
	@deploy/test-pod both

e2e: ## Run the end-to-end tests on the cluster of KUBECONFIG, with IMG and E2E_POD_IMAGE
	@tests/e2e/run

VENV := target/venv
$(VENV)/installed: tests/install/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $<
	touch $@

manifest: $(VENV)/installed ## Render deploy/manifest.yaml from the chart
	$(VENV)/bin/python tests/install/manifest.py > deploy/manifest.yaml

test-install: build $(VENV)/installed ## Test the chart, the scripts and the image (needs python3; buildah, podman and runc for the image; promtool for the metrics)
	PROGRAM=$(PROGRAM) PATH="$$PWD/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m pytest -q tests/install

clean: ## Remove build output; keeps the fuzz corpus and artifacts
	cargo clean
	cargo clean --manifest-path fuzz/Cargo.toml
