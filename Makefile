# make quickstart   set everything up and run the whole recipe on the embedded model and data
# make test         format, lints, tests, docs
# make test-data    tests of the crates without libtorch alone: two minutes from nothing
# make test-reference   all tests under ALIGN_BACKEND=reference: the way of a device without kernels of its own
# make docs         regenerates docs/config.md from the doc comments of the config keys
# make interop      compare with Python's transformers, PyTorch and lm-evaluation-harness, which it installs in .venv (5 GB)
# make real         a real pretrained model through sft, rm and ppo, checked; 20 minutes. DATA=DIR takes data of your own: alpaca_en_demo.json,
#                   hh-harmless.jsonl.gz and wiki_demo.txt
# make bench        the speed of every stage on this machine, as fractions of its peak: an hour; HH=FILE takes a file of HH-RLHF,
#                   BENCH_DATA=DIR data of your own, BENCH_MODELS="nano small" fewer models, BENCH_FLAGS=… flags of `align bench`
# make compare      alternates TRL, transformers, lm-evaluation-harness and align, some hours; installs them in target/bench/venv (5 GB).
#                   COMPARE_FLAGS=--quick
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

# In the dev profile, which compiles faster. Needs no libtorch.
test-data:
	cargo test --locked -p align-core -p align-statistics -p align-text -p align-data -p align-tokens -p align-curation \
		-p align-sandbox -p align-tasks -p align-tools -p align-judgments

test-reference: setup
	ALIGN_BACKEND=reference cargo test --release --locked --workspace

docs: build
	@sed -i '/^## /,$$d' docs/config.md
	@target/release/align config --markdown >>docs/config.md

.venv/complete: interop/requirements-lm-eval.txt interop/requirements.txt
	@rm -rf .venv
	@python3 -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@cp $< $@

interop: build .venv/complete
	@target/release/examples/write_sets target/interop/sets 0
	@.venv/bin/python interop/run.py --align target/release/align --sets target/interop/sets --work target/interop/work

REAL := target/interop/real

.venv/real: .venv/complete interop/requirements-real.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r interop/requirements-real.txt >.venv/real.log 2>&1 || \
		{ echo "real: gguf cannot be installed here, .venv/real.log says why"; exit 1; }
	@touch $@

$(REAL)/model/config.json: .venv/real interop/real_model.py interop/weights-real.txt
	@.venv/bin/python interop/real_model.py --work $(REAL)/weights --out $(REAL)/model

real: build $(REAL)/model/config.json
	@target/release/examples/write_sets target/interop/sets 0
	@.venv/bin/python interop/real.py --align target/release/align --sets target/interop/sets --work $(REAL)/work --model $(REAL)/model $(if $(DATA),--data $(DATA))

BENCH := target/bench
BENCH_MODELS ?= nano small half-b
BENCH_DATA ?= $(BENCH)/data
comma := ,
space := $(subst ,, )

bench-inputs: build
	@python3 bench/prepare.py $(BENCH) --examples target/release/examples --models $(subst $(space),$(comma),$(strip $(BENCH_MODELS))) $(if $(HH),--hh $(HH))

bench: bench-inputs
	@target/release/align bench --models $(addprefix $(BENCH)/models/,$(BENCH_MODELS)) --data $(BENCH_DATA) $(BENCH_FLAGS)

$(BENCH)/venv/complete: bench/requirements.txt bench/requirements-ppo.txt
	@rm -rf $(BENCH)/venv $(BENCH)/trl-ppo
	@python3 -m venv $(BENCH)/venv
	@$(BENCH)/venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@$(BENCH)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(BENCH)/trl-ppo -r bench/requirements-ppo.txt
	@touch $@

compare: bench-inputs $(BENCH)/venv/complete
	@python3 bench/compare.py --dir $(BENCH) --data $(BENCH_DATA) $(COMPARE_FLAGS)

.PHONY: setup build quickstart test test-data test-reference docs interop real bench-inputs bench compare
.DEFAULT_GOAL := build
