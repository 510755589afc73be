#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the disk of the bench's real guests: Debian 12 with redis, a compiler and our witness, as
# OUT/disk.raw (ext4), with its kernel and initrd beside it.
# usage: tests/bench/mkdisk.sh [OUT]          default: build/bench/guests of the project
# Needs root, debootstrap, e2fsprogs and the Debian mirror that apt uses here; 3 GB of disk.
# Does nothing, quietly, while its inputs are unchanged. Log: OUT/debootstrap.log.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../build/bench/guests}
release=bookworm
packages=redis-server,stress-ng,iproute2,procps,openssl,gcc,libc6-dev,linux-image-cloud-amd64
PATH=$PATH:/usr/sbin:/sbin

die() { echo "mkdisk: $*" >&2; exit 1; }

mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.lock"
flock 9
stamp=$(cat "$here"/mkdisk.sh "$here"/guest-init "$here"/../guest/*.[ch] | sha256sum)
if [ "$stamp" = "$(cat "$out/stamp" 2>/dev/null)" ] && [ -s "$out/disk.raw" ]; then
    exit 0
fi
command -v debootstrap >/dev/null || die "debootstrap is missing: run tools/setup.sh all"
mirror=$(apt-get indextargets --format '$(CODENAME)|$(ORIGIN)|$(COMPONENT)|$(SITE)' \
    'Created-By: Packages' | sed -n "s/^$release|Debian|main|//p" | head -n 1)
[ -n "$mirror" ] || die "apt knows no mirror of Debian 12 ($release main)"

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
echo "bench: making the guests' disk (debootstrap from $mirror, a few minutes)"
debootstrap --variant=minbase --include=$packages $release "$root" "$mirror" \
    >"$out/debootstrap.log" 2>&1 ||
    { tail -n 15 "$out/debootstrap.log" >&2; die "debootstrap failed (log: $out/debootstrap.log)"; }
${CC:-cc} -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -static -s -pthread \
    -o "$root/usr/sbin/witness" "$here"/../guest/*.c
install -m 755 "$here/guest-init" "$root/usr/sbin/guest-init"
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd"
mke2fs -q -t ext4 -d "$root" "$work/disk.raw" 2000M
chmod 644 "$work"/{vmlinuz,initrd,disk.raw}
rm -f "$out"/*.state "$out"/*.json # made from an older disk
mv "$work"/{vmlinuz,initrd,disk.raw} "$out/"
echo "$stamp" >"$out/stamp"
