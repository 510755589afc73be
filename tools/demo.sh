#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A guest that moves live between two hosts, both of them on this machine.   usage: tools/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "demo: network namespaces need root" >&2; exit 1; }
echo "Setting up: packages, build, guest"
tools/setup.sh all
tools/build.sh plain
tests/guest/mkguest.sh
PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 tools/demo.py
