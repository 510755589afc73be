#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Everything that is tested; ends in "N passed, N failed".   usage: tools/test.sh [PART...]
# The parts and their order are in tools/test.py; logs go to build/test/.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != help ] && ! tools/setup.sh all; then
    echo "0 passed, 1 failed"
    exit 1
fi
exec /usr/bin/python3 tools/test.py "$@"
