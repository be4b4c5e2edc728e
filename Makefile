# The one command surface. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help build test lint demo clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the program: target/release/simple-device-plugin
	cargo build --locked --release

test: ## run every test; needs cargo alone
	cargo test --locked

lint: ## formatting, clippy and documentation, warnings as errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

demo: ## the whole job on an embedded kubelet; the variables of the README work here
	cargo run --locked -- demo

clean: ## remove what was built
	cargo clean
