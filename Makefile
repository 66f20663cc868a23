# make quickstart   set everything up and run the whole recipe on the embedded model and data
# make test         format, lints, tests, docs
# make interop      compare with Python's transformers and PyTorch, which it installs in .venv (5 GB)
# make GPU=1 …      with libtorch's full GPU build instead of the CPU one
# LIBTORCH=DIR make …   with a libtorch 2.13.0 of your own

SHELL := /bin/bash
ifdef LIBTORCH
setup:
else
setup:
	@python3 scripts/setup_libtorch.py .libtorch $(if $(GPU),--gpu)
endif

# With the examples, cargo chooses the features that tests have: what is built once serves both.
build: setup
	@cargo build --release --locked --workspace --bins --examples

quickstart: build
	@target/release/align quickstart --out runs/quickstart

test: setup
	cargo fmt --all -- --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo test --release --locked --workspace
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace --document-private-items

.venv/complete: interop/requirements.txt
	@rm -rf .venv
	@python3 -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@cp $< $@

interop: build .venv/complete
	@target/release/examples/write_sets target/interop/sets 0
	@.venv/bin/python interop/run.py --align target/release/align --sets target/interop/sets --work target/interop/work

.PHONY: setup build quickstart test interop
.DEFAULT_GOAL := build
