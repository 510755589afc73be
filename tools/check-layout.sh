#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Fails on a C file that clang-format would lay out otherwise.
cd "$(dirname "$0")/.." || exit 1
find src tests -name '*.[ch]' -print0 | sort -z | xargs -0 clang-format --dry-run --Werror
