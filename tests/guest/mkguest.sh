#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the test guest: OUT/vmlinuz, OUT/initrd and OUT/append (recommended kernel arguments).
# usage: tests/guest/mkguest.sh [OUT]          default: build/guest of the project
# Needs OUT/kernel (tools/setup.sh test puts it there), a C compiler, busybox-static, kmod, cpio.
# Needs no root. Does nothing, quietly, while its inputs are unchanged.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../build/guest}
modules=(virtio_pci virtio_net virtio_blk virtio_scsi virtio_balloon button evdev)
PATH=$PATH:/usr/sbin:/sbin

die() { echo "mkguest: $*" >&2; exit 1; }

[ -d "$out/kernel/boot" ] || die "no kernel in $out/kernel: run tools/setup.sh test"
busybox=$(command -v busybox) || die "busybox is missing: run tools/setup.sh test"
out=$(cd "$out" && pwd)
exec 9>"$out/.lock"
flock 9

stamp=$(cat "$here"/*.[ch] "$here/init" "$here/dhcp" "$here/mkguest.sh" "$busybox" \
    "$out/kernel/version" | sha256sum)
if [ "$stamp" = "$(cat "$out/stamp" 2>/dev/null)" ] && [ -s "$out/vmlinuz" ] && [ -s "$out/initrd" ]; then
    exit 0
fi

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,modules}
${CC:-cc} -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -static -s -pthread \
    -o "$root/bin/witness" "$here"/*.c
install -m 755 "$busybox" "$root/bin/busybox"
file_type=$(head -c 4096 "$busybox" | tr -d '\0')
case $file_type in *ld-linux*) die "$busybox is not static: install busybox-static" ;; esac
install -m 755 "$here/init" "$root/init"
install -m 755 "$here/dhcp" "$root/bin/dhcp"

release=$(ls "$out/kernel/lib/modules")
depmod -b "$out/kernel" "$release"
for module in "${modules[@]}"; do
    modprobe -d "$out/kernel" -S "$release" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/modules"
while read -r path; do
    install -m 644 "$path" "$root/modules/"
    basename "$path" >>"$root/modules/order"
done <"$work/modules"

(cd "$root" && find . | sort | cpio -o -H newc -R 0:0 --quiet | gzip -6) >"$work/initrd"
install -m 644 "$out/kernel/boot/vmlinuz-$release" "$work/vmlinuz"
echo "console=ttyS0 quiet mitigations=off cryptomgr.notests no_timer_check random.trust_cpu=on" \
    >"$work/append"
chmod 644 "$work"/{initrd,append}
mv "$work"/{vmlinuz,initrd,append} "$out/"
echo "$stamp" >"$out/stamp"
echo "guest: Linux $release, initrd $(($(stat -c %s "$out/initrd") / 1024)) KiB"
