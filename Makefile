# `make` alone lists the targets. What is missing on a Debian machine is installed, and said, by .ci/packages.

SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)
# More arguments: make demo ARGS="--listen 127.0.0.1:7000", make bench ARGS="--rounds 3 --only get-p1-c50"
ARGS ?=
FUZZ_TARGETS := request reply merge nodes slots shards
FUZZ_SECONDS ?= 60

.PHONY: help demo test check fmt clippy doc bench neighbours chaos fuzz clean

help: ## lists the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

demo: ## starts a throwaway cluster with the proxy in front of it; Ctrl-C leaves nothing behind
	@.ci/packages cc redis-server
	cargo build --release
	@$(TARGET)/release/slotmux demo $(ARGS)

test: ## runs all the tests
	@.ci/packages cc redis-server redis-benchmark redis-cli openssl libfaketime prlimit python3-venv npm prometheus promtool systemd-analyze
	cargo test

check: fmt clippy doc ## everything that .ci/run asks for
	cargo build --release
	$(MAKE) test

fmt:
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	cargo fmt --check
	cargo fmt --check --manifest-path benches/floor/Cargo.toml

clippy:
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	@.ci/packages cc
	cargo clippy --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

bench: ## measures proxy, bare forwarder and direct connection in turns
	@.ci/packages cc redis-server redis-benchmark taskset
	cargo build --release --manifest-path benches/floor/Cargo.toml --target-dir $(TARGET)/floor
	cargo bench --bench proxy -- --floor $(TARGET)/floor/release/floor $(ARGS)

neighbours: ## measures what a client notices of a stopped node and of neighbours that load one
	@.ci/packages cc redis-server taskset
	cargo bench --bench neighbours -- $(ARGS)

# CHAOS_SECONDS (3600), CHAOS_CLIENTS (50), CHAOS_RATE (6000 commands a second, of all clients together), CHAOS_SEED
# (drawn, and printed: it repeats the schedule), CHAOS_NEMESES (all, quiet, or names: move,half,rebalance,add,replica,
# failover,force,takeover,kill,stop,address,mute,garbage,kill-replica,stop-replica,pause,client-kill,reload),
# CHAOS_VALKEY (on Valkey 9, where slots move at once, too: burst), CHAOS_VERBOSE (shows the schedule also if all is
# well), CHAOS_PROXY_ARGS (more arguments for the proxy).
chaos: ## checks what clients see for an hour while everything happens to a cluster that can
	@.ci/packages cc redis-server
	cargo build --release
	SLOTMUX_BINARY=$(abspath $(TARGET))/release/slotmux \
		cargo test --test chaos -- --ignored --exact --nocapture an_hour_of_everything

# cargo-fuzz stays below target/, what it builds below fuzz/target/. The sanitizers need a nightly toolchain, but there is no unsafe code
# here that they could find fault with: without them the stable toolchain does, and the fuzzers are faster.
fuzz: $(TARGET)/tools/bin/cargo-fuzz ## runs each fuzz target for FUZZ_SECONDS (60)
	@.ci/packages c++
	for target in $(FUZZ_TARGETS); do \
		$(TARGET)/tools/bin/cargo-fuzz run --sanitizer none $$target -- \
			-max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

$(TARGET)/tools/bin/cargo-fuzz:
	@echo "installing cargo-fuzz into $(TARGET)/tools"
	cargo install --quiet --locked --root $(TARGET)/tools cargo-fuzz

clean: ## removes what was built
	cargo clean
	rm -rf benches/floor/target fuzz/target
