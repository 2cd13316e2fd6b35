# What people type here. `make` alone lists it.
# Tests and lints take the whole workspace with one profile and one set of features, so that nothing is compiled twice.
# run and demo build the program alone, in release: that is no slower to build, and what people should judge it by.

CARGO   ?= cargo
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
BUILD   := --workspace --bins --tests --examples
BINARY  := $(or $(CARGO_TARGET_DIR),target)/release/redeliver
SKIPPED := $(or $(CARGO_TARGET_DIR),target)/debug/skipped
SEEDS   ?= 1000

.DEFAULT_GOAL := help
.PHONY: help run demo test check lint fmt doc bench micro sim ci

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and serve on ws://127.0.0.1:7400, with the data in ./redeliver-data
	@$(CARGO) build --release -p redeliver-cli
	@$(BINARY) serve

demo: ## a minute on the real thing: a server dies, a reader is away, the missed events come back
	@$(CARGO) build --release -p redeliver-cli
	@REDELIVER_BIN=$(BINARY) docs/demo.sh

test: ## everything: set up what tests need, build, doctests, then all tests (what was SKIPPED comes last)
	@tests/setup.sh
	$(CARGO) build $(BUILD)
	$(CARGO) test --workspace --doc
ifeq ($(NEXTEST),yes)
	@$(CARGO) nextest run --workspace --no-fail-fast -E "$$($(SKIPPED) filter)"; status=$$?; $(SKIPPED) summary; exit $$status
else
	@$(CARGO) test --workspace --bins --lib --tests --no-fail-fast -- $$($(SKIPPED) args); status=$$?; $(SKIPPED) summary; exit $$status
endif

check: lint ## the fast loop: format, lints, unit tests
	$(CARGO) test -q --workspace --lib --bins

lint: ## format, lints and deny.toml
	$(CARGO) fmt --all --check
	$(CARGO) clippy -q --workspace --all-targets -- -D warnings
	@tests/deny.sh

fmt: ## format the code
	$(CARGO) fmt --all

doc: ## the libraries' documentation, without warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: ## measure a real server against raw programs: target/bench/report.{md,json,svg} (QUICK=1: within two minutes; ONLY='words of a name'; SUSTAINED=seconds)
	$(CARGO) build --release -p redeliver-cli -p redeliver-benches --bins
	$(CARGO) run -q --release -p redeliver-benches --bin load -- $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)') $(if $(SUSTAINED),--sustained $(SUSTAINED))
ifeq ($(QUICK)$(ONLY),)
	$(MAKE) micro
endif

micro: ## micro benchmarks of the codec, the session, the log and its tail (QUICK=1: rough and fast)
	$(CARGO) bench -p redeliver-benches --benches -- $(if $(QUICK),--quick)

sim: ## simulate SEEDS=1000 seeds in virtual time
	$(CARGO) run -q -p redeliver-sim -- --seeds $(SEEDS)

ci: ## what CI runs: lint, then test
	.ci/run
