# The one command surface. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# The program is one static file, which takes nothing of the machine it is built on along.
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
PROGRAM = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/simple-device-plugin

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# The image. IMG names it whole, or REPO and TAG do.
REPO ?= simple-device-plugin
TAG ?= $(VERSION)
IMG ?= $(REPO):$(TAG)
export IMG

# The first that answers.
CONTAINER_RUNTIME_COMMAND ?= $(shell for command in docker podman buildah; do \
	$$command info >/dev/null 2>&1 && echo $$command && exit; done; echo docker)

KIND ?= kind
CLUSTER ?= simple-device-plugin
export KIND CLUSTER

# Make hands its arguments and the environment on, but for names with a dot, as those for one node have.
$(foreach name,$(.VARIABLES),$(if $(findstring .,$(name)),$(if $(filter command environment,$(firstword \
	$(origin $(name)))),$(eval export $(name)))))

.PHONY: help build test lint demo bench soak fuzz image push deploy undeploy cluster start test-a test-b test-both e2e \
	manifest test-install clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Packed relocations are 220 KiB less of a file.
STATIC := RUSTFLAGS='-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs'

# The image needs the daemon alone. Built each by itself, neither has library features of the other.
BUILT ?= simple-device-plugin kubelet-sim

build: ## build the daemon and kubelet-sim, static; shows where they are
	for package in $(BUILT); do
		$(STATIC) cargo build --locked --release --target $(TARGET) --package $$package
	done
	@ls -l $(BUILT:%=$(dir $(PROGRAM))%)

test: ## run every test; needs cargo alone
	cargo test --locked

lint: ## formatting, clippy and documentation, warnings as errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	cargo fmt --check --manifest-path fuzz/Cargo.toml

demo: ## the whole job on a simulated kubelet; the variables of the README work here
	cargo build --locked
	$(or $(CARGO_TARGET_DIR),target)/debug/kubelet-sim demo

bench: build ## measure the figures of the README, some 5 minutes with the build
	# Cargo builds the program for the benchmark too, with what tests need of the libraries, and puts it in its place.
	cp $(PROGRAM) $(PROGRAM)-measured
	PROGRAM=$(PROGRAM)-measured $(STATIC) cargo bench --locked --target $(TARGET) --bench figures

ONE_TEST := cargo test --locked --test it -- --nocapture --exact
# A test that is not found is none, and cargo is content.
SOAK_LOG = $(or $(CARGO_TARGET_DIR),target)/soak.log
HAS_PASSED = tee $(SOAK_LOG) && grep -q '1 passed' $(SOAK_LOG)

soak: build ## 1,000 kubelet restarts and other trouble, then 1,000 reloads, then 100,000 commands; SEED=... replays one
	TESTED_PROGRAM=$(PROGRAM) SOAK_SEED=$(SEED) SOAK_RESTARTS=$(or $(RESTARTS),1000) $(ONE_TEST) soak::recovers_from_random_restarts_and_failures | $(HAS_PASSED)
	RELOAD_SEED=$(SEED) RELOADS=$(or $(RESTARTS),1000) $(ONE_TEST) reload_soak::random_reloads_leak_nothing | $(HAS_PASSED)
	TESTED_PROGRAM=$(PROGRAM) COMMAND_SEED=$(SEED) COMMANDS=$(or $(COMMANDS),100000) $(ONE_TEST) command_soak::random_commands_and_a_reset_leave_everything_as_configured | $(HAS_PASSED)

# What libFuzzer needs of the compiler; cargo-fuzz sets the same, and a sanitizer that needs nightly.
COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing
SECONDS_EACH ?= 60

fuzz: ## a minute each for the variables, the config file, the checkpoint and a plugin's socket; needs a C++ compiler
	cd fuzz
	RUSTFLAGS='$(COVERAGE)' cargo build --locked --release --target $(TARGET)
	for target in variables config_file checkpoint plugin_socket; do
		mkdir -p corpus/$$target artifacts/$$target
		$(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/$$target -max_total_time=$(SECONDS_EACH) -max_len=2048 \
			-timeout=10 -dict=$$target.dict -artifact_prefix=artifacts/$$target/ -verbosity=0 -print_final_stats=1 corpus/$$target
		echo "$$target: nothing found"
	done

image: ## build the image IMG with docker, podman or buildah (CONTAINER_RUNTIME_COMMAND)
	$(CONTAINER_RUNTIME_COMMAND) build --tag $(IMG) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) $(IMAGE_ARGS) .

push: ## push the image IMG
	$(CONTAINER_RUNTIME_COMMAND) push $(IMG)

deploy: ## deploy with helm: NAMESPACE, IMG and the variables, also NUMBER_DEVICES_0.worker2=0
	@deploy/deploy

undeploy: ## remove all that deploy made in NAMESPACE
	@deploy/undeploy

cluster: ## a kind cluster with two workers
	$(KIND) create cluster --name $(CLUSTER) --config deploy/kind.yaml

start: image ## load the image into the kind cluster and deploy it there
	@CONTAINER_RUNTIME_COMMAND="$(CONTAINER_RUNTIME_COMMAND)" deploy/start

test-a: ## a pod with a device of the first of RESOURCE_NAME, shown and deleted
	@deploy/test-pod a

test-b: ## the same with the second
	@deploy/test-pod b

test-both: ## the same with both: TopologyAffinityError where they share no NUMA node and the policy is strict
	@deploy/test-pod both

e2e: ## the whole of it on the cluster of KUBECONFIG, with IMG and E2E_POD_IMAGE for the pods
	@tests/e2e/run

VENV := target/venv
$(VENV)/installed: tests/install/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $<
	touch $@

manifest: $(VENV)/installed ## render deploy/manifest.yaml from the chart
	$(VENV)/bin/python tests/install/manifest.py > deploy/manifest.yaml

test-install: build $(VENV)/installed ## test chart, scripts and image; needs python3, and buildah and podman for the image
	PROGRAM=$(PROGRAM) PATH="$$PWD/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m pytest -q tests/install

clean: ## remove what was built; what fuzzing found stays
	cargo clean
	cargo clean --manifest-path fuzz/Cargo.toml
