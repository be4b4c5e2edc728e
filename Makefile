# The one command surface. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# The program is one static file, which takes nothing of the machine it is built on along.
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
PROGRAM := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/simple-device-plugin

.PHONY: help build test lint demo bench soak fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

STATIC := RUSTFLAGS='-C target-feature=+crt-static'

build: ## build the program, static; tells where it is
	$(STATIC) cargo build --locked --release --target $(TARGET)
	@ls -l $(PROGRAM)

test: ## run every test; needs cargo alone
	cargo test --locked

lint: ## formatting, clippy and documentation, warnings as errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	cargo fmt --check --manifest-path fuzz/Cargo.toml

demo: ## the whole job on an embedded kubelet; the variables of the README work here
	cargo run --locked -- demo

bench: build ## measure the figures of the README, some 5 minutes with the build
	# Cargo builds the program for the benchmark too, with what tests need of the libraries, and puts it in its place.
	cp $(PROGRAM) $(PROGRAM)-measured
	PROGRAM=$(PROGRAM)-measured $(STATIC) cargo bench --locked --target $(TARGET) --bench figures

soak: build ## 1,000 kubelet restarts and other trouble; SEED=... RESTARTS=... replays one
	TESTED_PROGRAM=$(PROGRAM) SOAK_SEED=$(SEED) SOAK_RESTARTS=$(or $(RESTARTS),1000) cargo test --locked --test soak -- --nocapture

# What libFuzzer needs of the compiler; cargo-fuzz sets the same, and a sanitizer that needs nightly.
COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing
SECONDS_EACH ?= 60

fuzz: ## a minute each for the variables, the checkpoint and a plugin's socket; needs a C++ compiler
	cd fuzz
	RUSTFLAGS='$(COVERAGE)' cargo build --locked --release --target $(TARGET)
	for target in variables checkpoint plugin_socket; do
		mkdir -p corpus/$$target artifacts/$$target
		$(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/$$target -max_total_time=$(SECONDS_EACH) -max_len=2048 \
			-timeout=10 -dict=$$target.dict -artifact_prefix=artifacts/$$target/ -verbosity=0 -print_final_stats=1 corpus/$$target
		echo "$$target: nothing found"
	done

clean: ## remove what was built; what fuzzing found stays
	cargo clean
	cargo clean --manifest-path fuzz/Cargo.toml
