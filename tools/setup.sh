#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what Godwit needs on Debian 12 (amd64); quiet and quick when everything is there.
#
# usage: tools/setup.sh build|test|all
#     build   compiler, meson, libraries
#     test    QEMU, test tools, and the test guest's kernel (unpacked into build/guest/kernel,
#             never installed on this machine)
#
# QEMU comes from bookworm-backports, because QEMU before 9.0 damages guests that migrate under
# TCG. If the machine does not have backports yet, they are added as a copy of its own source of
# bookworm (same mirror, same key) with a pin that takes QEMU and SeaBIOS from there and nothing
# else: /etc/apt/sources.list.d/godwit-backports.*, /etc/apt/preferences.d/godwit-backports.
# Needs root only when packages are missing. Log: build/setup.log.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
log=$top/build/setup.log
guest=$top/build/guest
oldest_qemu=1:9.0
kernel_meta=linux-image-cloud-amd64
release=bookworm
apt_dir=/etc/apt

build_packages=(gcc libc6-dev make pkgconf meson ninja-build
    clang libclang-rt-14-dev clang-format clang-tidy
    libglib2.0-dev libjansson-dev libmicrohttpd-dev libcurl4-gnutls-dev libgnutls28-dev
    libzstd-dev libxxhash-dev libsqlite3-dev python3)
test_packages=(qemu-system-x86 qemu-utils ovmf seabios
    busybox-static cpio kmod gcc libc6-dev debootstrap e2fsprogs zstd
    python3 python3-pytest iproute2 jq curl gnutls-bin universal-ctags)

die() {
    echo "setup: $*" >&2
    exit 1
}

# Runs a command with its output in the log; shows the end of it if the command fails.
logged() {
    mkdir -p "$top/build"
    echo "+ $*" >>"$log"
    "$@" >>"$log" 2>&1 8>&- 9>&- && return 0
    echo "setup: this failed: $*" >&2
    tail -n 15 "$log" | sed 's/^/    /' >&2
    return 1
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l logged apt-get -q -y \
        -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root "$@"
}

# --- what is there -----------------------------------------------------------------------------

missing_packages() {
    local installed package
    # dpkg-query fails for names it has never heard of, which are just missing.
    installed=$(dpkg-query -W -f '${db:Status-Status}:${Package}\n' "$@" 2>/dev/null) || true
    installed=$'\n'$installed$'\n'
    for package in "$@"; do
        case $package in
        qemu-system-x86 | qemu-utils) qemu_is_new "$package" || echo "$package" ;;
        *) [[ $installed == *$'\n'"installed:$package"$'\n'* ]] || echo "$package" ;;
        esac
    done
}

qemu_is_new() {
    local version
    version=$(dpkg-query -W -f '${db:Status-Status}:${Version}' "$1" 2>/dev/null) || return 1
    [[ $version == installed:* ]] && dpkg --compare-versions "${version#installed:}" ge $oldest_qemu
}

# --- sources -----------------------------------------------------------------------------------

# Where apt knows a suite of Debian from: "FILE:N", N being a line (*.list) or a stanza (*.sources).
source_entry() { # CODENAME ORIGIN
    apt-get indextargets --format '$(CODENAME)|$(ORIGIN)|$(COMPONENT)|$(SOURCESENTRY)' \
        'Created-By: Packages' | awk -F'|' -v codename="$1" -v origin="$2" \
        '$1 == codename && $2 == origin && $3 == "main" { print $4; exit }'
}

# The same one-line source with another suite.
derive_line() { # FILE LINE
    sed -nE "$2s/^[[:space:]]*(deb[[:space:]]+(\[[^]]*\][[:space:]]+)?[^[:space:]]+)[[:space:]].*/\1 $release-backports main/p" "$1"
}

# The same deb822 stanza with other suites; keys, options and mirrors stay.
derive_stanza() { # FILE NUMBER
    awk -v wanted="$2" -v suite="$release-backports" '
        /^#/ { next }
        /^[[:space:]]*$/ { inside = 0; next }
        !inside { inside = 1; n++ }
        n != wanted { next }
        /^[^[:space:]]/ { skip = tolower($0) ~ /^(types|suites|components|enabled)[[:space:]]*:/ }
        !skip { print }
        END { print "Types: deb\nSuites: " suite "\nComponents: main" }' "$1"
}

add_backports() {
    local entry file number to
    entry=$(source_entry $release Debian)
    [ -n "$entry" ] || die "apt knows no source of Debian 12 ($release main); add one to $apt_dir and run again"
    file=${entry%:*} number=${entry##*:}
    case $file in
    *.sources) to=$apt_dir/sources.list.d/godwit-backports.sources ;;
    *) to=$apt_dir/sources.list.d/godwit-backports.list ;;
    esac
    echo "setup: adding $release-backports ($to), from the same mirror as $file"
    if [[ $to == *.sources ]]; then
        derive_stanza "$file" "$number" >"$to"
    else
        derive_line "$file" "$number" >"$to"
    fi
    if ! apt_get update -o Dir::Etc::sourcelist="$to" -o Dir::Etc::sourceparts=- \
        -o APT::Get::List-Cleanup=0 || [ -z "$(source_entry $release-backports 'Debian Backports')" ]; then
        mv "$to" "$top/build/"
        die "this machine's mirror does not give $release-backports (tried with build/$(basename "$to")); add a source of it to $apt_dir and run again"
    fi
}

write_pin() {
    local to=$apt_dir/preferences.d/godwit-backports
    local text="# From backports: QEMU and its BIOS, nothing else unless asked for.
Package: src:qemu src:seabios
Pin: release n=$release-backports
Pin-Priority: 600

Package: *
Pin: release n=$release-backports
Pin-Priority: 100"
    [ "$text" = "$(cat "$to" 2>/dev/null)" ] || echo "$text" >"$to"
}

# --- packages ----------------------------------------------------------------------------------

check_machine() {
    [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] && grep -q "^VERSION_CODENAME=$release$" /etc/os-release ||
        die "this installs packages on Debian 12 (amd64) only; here these are missing: $*"
    [ "$(id -u)" = 0 ] || die "run as root, or let root install: $*"
}

install_packages() { # PACKAGE...
    check_machine "$@"
    exec 8>/run/lock/godwit-setup.lock
    flock 8
    local missing
    missing=$(missing_packages "$@") # somebody else may have installed them in the meantime
    [ -n "$missing" ] || return 0
    echo "setup: installing $(wc -w <<<"$missing") packages and what they need (log: build/setup.log)"
    [ -n "$(source_entry $release Debian)" ] || apt_get update || true
    if [[ $missing == *qemu-* ]]; then
        [ -n "$(source_entry $release-backports 'Debian Backports')" ] || add_backports
        write_pin
    fi
    # Lists that are a few days old may name files that the mirror does not have any more.
    apt_get install --no-install-recommends $missing 2>/dev/null ||
        { apt_get update || true; apt_get install --no-install-recommends $missing; } ||
        die "apt could not install:" $missing
    missing=$(missing_packages "$@")
    [ -z "$missing" ] || die "still missing or too old after installation:" $missing
    exec 8>&-
}

# --- the guest's kernel --------------------------------------------------------------------------

kernel_package() {
    apt-cache depends $kernel_meta 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*-cloud-amd64\)$/\1/p'
}

download_kernel() { # FOLDER
    local package
    package=$(kernel_package)
    [ -n "$package" ] && (cd "$1" && apt_get download "$package")
}

fetch_kernel() {
    [ -s "$guest/kernel/version" ] && return 0
    mkdir -p "$guest"
    exec 9>"$guest/.kernel-lock"
    flock 9
    [ -s "$guest/kernel/version" ] && return 0
    echo "setup: fetching the test guest's kernel"
    local work
    work=$(mktemp -d "$guest/kernel.XXXXXX")
    download_kernel "$work" 2>/dev/null ||
        { [ "$(id -u)" = 0 ] && { apt_get update || true; download_kernel "$work"; }; } ||
        die "cannot download the package that $kernel_meta depends on (log: build/setup.log); as root, run apt-get update"
    mkdir "$work/kernel"
    logged dpkg -x "$work"/*.deb "$work/kernel"
    basename "$work"/*.deb .deb >"$work/kernel/version"
    rm -rf "$guest/kernel"
    mv "$work/kernel" "$guest/kernel"
    rm -rf "$work"
    exec 9>&-
}

main() {
    local packages=()
    case ${1:-} in
    build) packages=("${build_packages[@]}") ;;
    test) packages=("${test_packages[@]}") ;;
    all) packages=("${build_packages[@]}" "${test_packages[@]}") ;;
    *) die "usage: tools/setup.sh build|test|all" ;;
    esac
    local missing
    missing=$(missing_packages "${packages[@]}")
    [ -z "$missing" ] || install_packages $missing
    [ "$1" = build ] || fetch_kernel
}

# Sourced by its test, which calls single functions.
[ "${BASH_SOURCE[0]}" != "$0" ] || main "$@"
