#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Godwit's moves measured, also beside QEMU's own.   usage: [BENCH="WORD..."] tools/bench.sh [WORD...]
# Words are those at the head of tests/bench/bench.py: quick; guest=idle link=1gbit; ablation …
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: network namespaces need root" >&2; exit 1; }
tools/setup.sh all
tools/build.sh plain
tests/guest/mkguest.sh
# shellcheck disable=SC2086 # BENCH holds words
PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 tests/bench/bench.py ${BENCH:-} "$@"
