# Short names for the commands of CONTRIBUTING.md.
.PHONY: help install run build image test test-unit test-e2e lint fmt clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12
install: ## Download the dependencies
	cargo fetch --locked
run: ## Run a single node: data in ./data, API at http://127.0.0.1:8080 (Ctrl-C stops it)
	cargo run --release --package quorate
build: ## Build target/release/quorate
	cargo build --release --package quorate
# A static binary for the C library of this host, without the whole-program optimisation of a release (the profile `image`).
# The variable replaces the flags that the simulator needs, so this has a target directory of its own.
TARGET_DIR ?= target/static
IMAGE ?= quorate
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
image: ## Build the container image from a static binary: needs Docker
	RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --locked --profile image --package quorate --target $(TRIPLE) --target-dir $(TARGET_DIR)
	rm -rf $(TARGET_DIR)/image && mkdir -p $(TARGET_DIR)/image/data
	strip -o $(TARGET_DIR)/image/quorate $(TARGET_DIR)/$(TRIPLE)/image/quorate
	DOCKER_BUILDKIT=0 docker build --quiet --tag $(IMAGE) --file deploy/Dockerfile $(TARGET_DIR)/image
test: ## Every test, the simulator's seeds included
	cargo test --workspace --locked
test-unit: ## The fast tests: units and routers, no processes and no simulator
	cargo test --locked --package quorate-core --package quorate-io --package quorate
test-e2e: ## Three containers: needs Docker, skipped without it
	cargo test --workspace --locked --test containers -- --nocapture
lint: ## Formatting and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
fmt: ## Format all source
	cargo fmt --all
clean: ## Remove the build and ./data
	cargo clean
	rm -rf ./data
