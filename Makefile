# make quickstart   set everything up and run the whole recipe on the embedded model and data
# make test         format, lints, tests, docs
# make GPU=1 …      with libtorch's full GPU build instead of the CPU one
# LIBTORCH=DIR make …   with a libtorch 2.13.0 of your own

SHELL := /bin/bash
ifdef LIBTORCH
setup:
else
setup:
	@python3 scripts/setup_libtorch.py .libtorch $(if $(GPU),--gpu)
endif

build: setup
	@cargo build --release --locked

quickstart: build
	@target/release/align quickstart --out runs/quickstart

test: setup
	cargo fmt --all -- --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo test --release --locked --workspace
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace --document-private-items

.PHONY: setup build quickstart test
.DEFAULT_GOAL := build
