#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds one kind of build in build/KIND.   usage: tools/build.sh KIND [NINJA TARGET...]
#     plain   what is installed
#     asan    address and undefined behaviour sanitizers, and fault points (src/base/fault.h)
#     tsan    thread sanitizer
#     fuzz    clang, libFuzzer, address and undefined behaviour sanitizers
# Installs the packages it needs first (root). In tsan (gcc) and fuzz (clang) a warning is an error;
# gcc with the address sanitizer warns of what is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh build
kind=${1:-plain}
shift || true
case $kind in tsan | fuzz) options=(-Dwerror=true) ;; *) options=(-Dwerror=false) ;; esac
case $kind in
plain) ;;
asan) options+=(-Db_sanitize=address,undefined -Db_lundef=false -Dfaults=true) ;;
tsan) options+=(-Db_sanitize=thread -Db_lundef=false) ;;
fuzz)
    export CC=clang
    options+=(-Db_sanitize=address,undefined -Db_lundef=false -Dfuzz=true)
    ;;
*)
    echo "build: no such kind: $kind (plain, asan, tsan, fuzz)" >&2
    exit 2
    ;;
esac
mkdir -p build
exec 9>build/."$kind".lock # two builds at once take turns
flock 9
# Set up anew if the options changed or the tree was moved.
setup="$PWD ${CC:-} ${options[*]}"
if [ "$setup" != "$(cat build/"$kind"/godwit-setup 2>/dev/null)" ]; then
    rm -rf build/"$kind"
    meson setup build/"$kind" "${options[@]}" >build/"$kind".log 2>&1 9>&- || {
        tail -n 30 build/"$kind".log >&2
        exit 1
    }
    echo "$setup" >build/"$kind"/godwit-setup
fi
ninja --quiet -C build/"$kind" "$@" 9>&-
