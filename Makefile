# Thin front of Meson. `make help` lists the targets; every target works alone from a clean checkout.

BUILD  ?= build
ASSETS ?= build/assets
# Names (shell patterns) of the test programs to run; empty means all: make check T=mmu_walk, make check T='boot_*'
T      ?=
# Test programs that may run side by side. Two, because a guest with two vCPUs already fills two cores.
JOBS   ?= 2

# Warnings stop the build on CI only: a newer compiler must not break a user's build.
MESON_OPTIONS ?= $(if $(filter true 1,$(CI)),-Dwerror=true)

RUN = tests/run --build $(1) --assets $(ASSETS) --jobs $(JOBS)

.DEFAULT_GOAL := build
.PHONY: build deps assets demo check check-asan bench fuzz lint clean help

build: ## configure and build into build/ (installs nothing)
	@scripts/build $(BUILD) $(MESON_OPTIONS)

deps: ## install the Debian packages that are missing (scripts/packages.txt)
	@scripts/install-deps

assets: deps ## make the guests that tests and the demo boot, once, in build/assets
	@scripts/guest-assets --dir $(ASSETS) all

demo: deps ## one image behind two walls: as a container, as a machine, as a clone of one
	@$(MAKE) --no-print-directory build
	@scripts/guest-assets --dir $(ASSETS) kernel busybox
	@scripts/demo $(BUILD) $(ASSETS)

check: deps ## every test: unit, scripts, integration
	@$(MAKE) --no-print-directory build
	@$(call RUN,$(BUILD)) $(T)

check-asan: deps ## unit and fast integration tests under AddressSanitizer and UBSan
	@scripts/build build-asan -Db_sanitize=address,undefined -Db_lundef=false
	@$(call RUN,build-asan) --fast $(T)

bench: deps ## guests' programs and boots against QEMU's TCG and the host, about ten minutes (bench/README.md)
	@$(MAKE) --no-print-directory build
	@scripts/guest-assets --dir $(ASSETS) kernel busybox bench
	@bench/guest/run --build $(BUILD) --assets $(ASSETS)

fuzz: deps ## every fuzz target for FUZZ_SECONDS (default 20) each
	@scripts/fuzz

lint: deps ## include directions, formatting, clang-tidy, shell scripts, sizes
	@$(MAKE) --no-print-directory build
	@scripts/lint $(BUILD)

clean: ## remove the build directories, keep the guest assets
	@rm -rf build-asan build-fuzz && find $(BUILD) -mindepth 1 -maxdepth 1 ! -name assets -exec rm -rf {} +

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
