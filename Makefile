# SPDX-License-Identifier: Apache-2.0
# The work is done by meson and the scripts in tools/; logs and results go to build/.
PREFIX ?= /usr/local
.PHONY: all demo test bench fuzz asan tidy install clean help

all: ## build into build/plain (packages that are missing are installed if you are root)
	@tools/build.sh plain

demo: ## as root: two hosts on this machine, a guest that moves live there and back, a report
	@tools/demo.sh

test: ## as root: everything that is tested; ends in "N passed, N failed"
	@tools/test.sh

bench: ## as root: measure moves beside those of QEMU alone (BENCH=quick: under 10 minutes)
	@tools/bench.sh

fuzz: ## every fuzz target for FUZZ_SECONDS (60)
	@tools/test.sh fuzz

asan: ## unit tests, one move and all faults under address and undefined behaviour sanitizers
	@tools/test.sh asan guest asan-scenarios

tidy: ## clang-format and clang-tidy over the sources
	@tools/tidy.sh

install: all ## into PREFIX (/usr/local), below DESTDIR if that is set
	@meson configure build/plain -Dprefix=$(PREFIX)
	@meson install -C build/plain --quiet

clean: ## remove everything that was made here
	@rm -rf build

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18
