#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# clang-format and clang-tidy over the sources; fails on the first finding of either.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/build.sh plain
tools/check-layout.sh
# Only what meson compiles has flags to be read with.
mapfile -t compiled < <(jq -r '.[].file' build/plain/compile_commands.json |
    sed 's|^\(\.\./\)*||' | sort -u | grep -E '^(src|tests)/.*\.c$')
printf '%s\n' "${compiled[@]}" | xargs -P 2 -n 8 clang-tidy -p build/plain --quiet
