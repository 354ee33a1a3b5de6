# What is longer than a few lines is a script: Tests/checks, examples/demo.py, bench/.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The order of prerequisites is meant: packages before build, build before checks.
.NOTPARALLEL:

SWIFT ?= swift
PYTHON := /usr/bin/python3
PREFIX ?= /usr/local
VERSION := $(shell sed -n 's/.*version: "sanswitch \([0-9.]*\)".*/\1/p' Sources/sanswitch/Sanswitch.swift)
DESTDIR ?=

LIBRARY := build/lib/libsanswitch.so
TOOL := build/bin/sanswitch
UNSTRIPPED := .build-embedded/release/libsanswitch.so
SIZE_LIMIT := 1000000
STARTUP_LIMIT_US := 200
# A test that hangs fails by itself, and says where.
TEST_TIMEOUT_S := 240
# Every send and recv of a switched session runs through these (Tests/checks/hotpath).
HOT := switch_send switch_recv switch_write switch_read sendAttached receiveAttached sendOnCompanion receiveOnCompanion

DEB_PACKAGES := debhelper fakeroot lintian
BUILD_PACKAGES := binutils ca-certificates g++ git libc6-dev libibverbs-dev librdmacm-dev
# The emulator and what runs in its guest; a machine that cannot have them skips those tests and says why.
RDMA_PACKAGES := qemu-system-x86 linux-image-amd64 busybox-static cpio kmod iproute2 rdma-core ibverbs-providers ibverbs-utils rdmacm-utils
DEMO_PACKAGES := iperf3 python3
TEST_PACKAGES := $(DEMO_PACKAGES) python3-pytest python3-pytest-timeout redis-server redis-tools memcached nginx-light wrk curl sockperf \
    netcat-openbsd rsync openssh-server openssh-client postgresql postgresql-contrib socat iproute2 default-jdk-headless nodejs \
    pkg-config zsh fish bash-completion mandoc spin

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '  make %-15s %s\n' "$$target" "$$text"; done

# ---- Build

.PHONY: toolchain build library tool clean install
toolchain:
	@Tests/checks/toolchain $(SWIFT)

build: toolchain build-deps library tool programs ## Build build/bin/sanswitch and build/lib/libsanswitch.so

# Replaced by rename: programs that run now keep the library that they have mapped.
library: toolchain
	SANSWITCH_EMBEDDED=1 $(SWIFT) build -c release --scratch-path .build-embedded --disable-local-rpath --product sanswitch
	@mkdir -p $(dir $(LIBRARY))
	@strip --strip-unneeded -o $(LIBRARY).new $(UNSTRIPPED)
	@mv $(LIBRARY).new $(LIBRARY)

tool: toolchain
	$(SWIFT) build -c release --product sanswitch --static-swift-stdlib
	@mkdir -p $(dir $(TOOL))
	@strip -o $(TOOL).new .build/release/sanswitch
	@mv $(TOOL).new $(TOOL)

EXAMPLES := $(patsubst examples/provider/%.c,build/examples/lib%.so,$(wildcard examples/provider/*.c))
.PHONY: examples
examples: $(EXAMPLES) ## Build examples/provider into build/examples

build/examples/lib%.so: examples/provider/%.c Sources/CProvider/include/sanswitch/provider.h
	@mkdir -p $(dir $@)
	$(CC) -std=c11 -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -ISources/CProvider/include -o $@ $<

# Programs of `sanswitch bench`, and what shells complete: built here, so that installing needs no compiler.
BENCH_SOURCES := $(wildcard bench/*.c)
BENCH_PROGRAMS := $(BENCH_SOURCES:bench/%.c=build/bench/%)
SHELLS := bash zsh fish
.PHONY: programs
programs: $(BENCH_PROGRAMS) $(SHELLS:%=build/completions/%)

build/bench/%: bench/%.c bench/common.h
	@mkdir -p $(dir $@)
	$(CC) -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o $@ $<

build/completions/%: $(TOOL)
	@mkdir -p $(dir $@)
	@$(TOOL) --generate-completion-script $* | sed '1{/^#!/d}' >$@

SHARE = $(DESTDIR)$(PREFIX)/share
install: ## Install what `make build` made below PREFIX (/usr/local), DESTDIR in front
	@test -x $(TOOL) -a -r $(LIBRARY) -a -r build/completions/fish -a -x build/bench/pair || { echo "Nothing to install: run \`make build\` first." >&2; exit 1; }
	install -D -m 755 $(TOOL) $(DESTDIR)$(PREFIX)/bin/sanswitch
	install -D -m 755 $(LIBRARY) $(DESTDIR)$(PREFIX)/lib/libsanswitch.so
	install -D -m 644 Sources/CProvider/include/sanswitch/provider.h $(DESTDIR)$(PREFIX)/include/sanswitch/provider.h
	install -d $(SHARE)/pkgconfig $(DESTDIR)$(PREFIX)/lib/sanswitch/bench
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' packaging/sanswitch.pc.in >$(SHARE)/pkgconfig/sanswitch.pc
	install -m 755 bench/compare.py $(BENCH_PROGRAMS) $(DESTDIR)$(PREFIX)/lib/sanswitch/bench
	install -m 644 $(filter-out bench/compare.py bench/bench.py,$(wildcard bench/*.py)) bench/thresholds.json $(DESTDIR)$(PREFIX)/lib/sanswitch/bench
	install -D -m 644 man/sanswitch.1 $(SHARE)/man/man1/sanswitch.1
	install -D -m 644 man/sanswitch.conf.5 $(SHARE)/man/man5/sanswitch.conf.5
	install -D -m 644 man/sanswitch.7 $(SHARE)/man/man7/sanswitch.7
	install -D -m 644 build/completions/bash $(SHARE)/bash-completion/completions/sanswitch
	install -D -m 644 build/completions/zsh $(SHARE)/zsh/vendor-completions/_sanswitch
	install -D -m 644 build/completions/fish $(SHARE)/fish/vendor_completions.d/sanswitch.fish

.PHONY: deb
deb: build deb-deps ## Build Debian packages into build/, and look at them with lintian
	dh clean
	dh binary
	lintian --allow-root --fail-on error build/*_$(VERSION)-*.deb

clean: ## Remove everything that was built
	rm -rf build .build .build-embedded .build-tsan .build-asan

# ---- Packages of the system

.PHONY: deps build-deps demo-deps deb-deps
deps: ## Install the Debian packages that build, demo and tests need
	@Tests/checks/packages $(BUILD_PACKAGES) $(TEST_PACKAGES)

deb-deps:
	@Tests/checks/packages $(BUILD_PACKAGES) $(DEB_PACKAGES)

build-deps:
	@Tests/checks/packages $(BUILD_PACKAGES)

demo-deps:
	@Tests/checks/packages $(BUILD_PACKAGES) $(DEMO_PACKAGES)

# ---- Use

.PHONY: demo bench bench-check rdma-lab
rdma-lab: rdma-deps ## Run CMD='...' between two soft-RoCE hosts in an emulated guest (Tests/rdma/lab --help)
	@test -n "$${CMD:-}" || { Tests/rdma/lab --help; exit 1; }
	@Tests/rdma/lab -- bash -c "$$CMD"

demo: toolchain demo-deps build ## Run iperf3 plain and under the switch, and compare
	@$(PYTHON) examples/demo.py

bench: toolchain deps build ## Measure beside plain TCP (bench/bench.py)
	@$(PYTHON) bench/bench.py

bench-check: toolchain deps build ## Compare with TCP and Unix sockets, and with the committed ratios (bench/thresholds.json)
	$(TOOL) bench --check bench/thresholds.json --json build/bench.json --html build/bench.html

# ---- Test

.PHONY: test test-rdma rdma-deps test-tsan test-asan check check-exports check-deps check-size check-hotpath check-model check-startup check-reference reference format lint
test: toolchain deps build examples check ## Build, then run every check and test
	$(SWIFT) test
	@$(MAKE) test-tsan test-asan
	@$(MAKE) test-rdma
	$(PYTHON) -m pytest Tests/tool Tests/programs Tests/model Tests/providers -v --no-header --timeout=$(TEST_TIMEOUT_S) --durations=10

test-rdma: toolchain rdma-deps library tool ## The RDMA tests, between two soft-RoCE hosts in an emulated guest
	@Tests/rdma/build-contract $(SWIFT) build/rdma-lab
	$(PYTHON) -m pytest Tests/rdma -v -rs --no-header --timeout=$(TEST_TIMEOUT_S)

# Without the packages the tests themselves say what is missing.
rdma-deps:
	@Tests/checks/packages $(BUILD_PACKAGES)
	@Tests/checks/packages $(RDMA_PACKAGES) || echo "No emulator can be installed here: the RDMA tests will be skipped." >&2

test-tsan: toolchain ## The engine's tests under ThreadSanitizer
	$(SWIFT) test --sanitize=thread --scratch-path .build-tsan

test-asan: toolchain ## The engine's tests under AddressSanitizer
	LSAN_OPTIONS=suppressions=$(CURDIR)/Tests/checks/lsan.supp:print_suppressions=0 $(SWIFT) test --sanitize=address --scratch-path .build-asan

check: check-exports check-deps check-size check-hotpath check-reference check-model ## The checks that `make test` runs first

check-exports: ## The library exports exactly the names in preload/exports.map
	@Tests/checks/exports $(LIBRARY) preload/exports.map

check-deps: ## The library needs libc only
	@Tests/checks/needed $(LIBRARY)

check-size: ## The stripped library is under 1 MB
	@Tests/checks/size $(LIBRARY) $(SIZE_LIMIT)

check-hotpath: ## No allocation, reference counting or trap on the way of a send or recv
	@Tests/checks/hotpath $(UNSTRIPPED) $(HOT)

check-model: ## The path-change protocol, in every state of a small model (spin)
	@$(PYTHON) Tests/protocol/run

check-startup: ## Preloading into /bin/true costs under 0.2 ms
	@Tests/checks/startup $(LIBRARY) $(STARTUP_LIMIT_US)

reference: tool ## Put the settings and reasons into the manual and docs/configuration.md
	@Tests/checks/reference $(TOOL)

check-reference: ## The manual and docs/configuration.md have every setting and reason
	@Tests/checks/reference $(TOOL) --check

format: toolchain ## Format the Swift sources in place
	$(SWIFT) format --in-place --recursive --parallel Package.swift Sources Tests

lint: toolchain ## Report Swift sources that are not formatted
	$(SWIFT) format lint --strict --recursive --parallel Package.swift Sources Tests
