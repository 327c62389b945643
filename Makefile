# Everything a user or developer runs. `make` alone lists the targets.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release
RESULTS ?= results

.DEFAULT_GOAL := help
.PHONY: help toolchain build measured reproduce reproduce-full compare redis-benchmark checkpoint-cost smoke test redis-tools simulator sim mutants bench lint torture

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# An older cargo fails late, or at the first word of Cargo.toml that it does not know.
toolchain:
	@want=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); have=$$($(CARGO) --version | cut -d ' ' -f 2); \
	printf '%s\n' "$$want" "$$have" | sort -V -C || \
	  { echo "Lockstep needs Rust $$want or later, and this is Rust $${have:-(no cargo found)}: rustup update" >&2; exit 1; }

build: toolchain ## Build the three programs, optimised
	$(CARGO) build --release --locked -p lockstep-server -p lockstep-client -p lockstep-loadgen

measured: toolchain # What measuring needs; the client's command line is not part of it.
	$(CARGO) build --release --locked -p lockstep-server -p lockstep-loadgen

reproduce: measured ## The main job: start real clusters of 1 to 5 servers, load them, measure, plot (under ten minutes)
	scripts/reproduce.sh quick $(RESULTS) $(BIN)

reproduce-full: measured ## The same with 1 to 7 servers, more repeats and longer runs (about an hour and a half)
	scripts/reproduce.sh full $(RESULTS) $(BIN)

compare: measured ## Lockstep beside Redis and Valkey, whatever is installed, under the same loads in turns (about six minutes)
	$(BIN)/lockstep-loadgen compare --connections 64 --duration 2s --warmup 1s --repeat 3 --results $(RESULTS)

redis-benchmark: measured ## redis-benchmark against three durable Lockstep servers and one Redis without persistence, in turns
	scripts/redis-benchmark.sh $(BIN)

checkpoint-cost: measured ## p99.9 at 20,000 writes/s with and without checkpoints of a million keys, in turns
	scripts/checkpoint-cost.sh $(BIN)

smoke: measured ## A minute of what reproduce does, into a temporary folder
	scripts/reproduce.sh smoke $$(mktemp -d) $(BIN)

test: toolchain ## Run all tests
	$(CARGO) test --workspace --locked

redis-tools: ## Install what the tests against Redis need, if allowed and missing (they are skipped without it)
	scripts/redis-tools.sh

simulator:
	$(CARGO) build --profile sim --locked -p lockstep-sim --features mutants

SEEDS ?= 0..2000
sim: simulator ## Simulate whole clusters with faults, SEEDS=0..2000 of them, and check that they keep their promises
	$(TARGET)/sim/lockstep-sim run --seeds $(SEEDS)

mutants: simulator ## Show that the simulator finds deliberately wrong variants of the code
	$(TARGET)/sim/lockstep-sim mutants

torture: ## Random faults on real clusters, judged by the checker, until MINUTES (10) are up; SEED repeats one story
	LOCKSTEP_TORTURE_MINUTES=$(or $(MINUTES),10) $(if $(SEED),LOCKSTEP_TORTURE_SEED=$(SEED)) \
	  $(CARGO) test --locked -p lockstep-server --test torture -- --ignored --nocapture

bench: ## Run all Criterion benches; one group: cargo bench -p lockstep-benches -- batching
	$(CARGO) build --release --locked -p lockstep-server
	$(CARGO) bench --locked -p lockstep-benches

lint: ## Format check and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
