# SPDX-License-Identifier: Apache-2.0
"""F0: what any move of this memory would have to send.

The guest's pages, each content once, without zero pages and, for `f0_bytes`, without those that
are blocks of its disk, in the order of memory through zstd -19 with a window over all of it.
`f0_unaware_bytes`, on demand, is the same with the blocks of the disk left in. zstd does 2 to 5 MB/s
here: a minute for the first, several for the second.
"""
import hashlib
import json
import subprocess

PAGE = 4096
ZSTD = ["nice", "zstd", "-19", "--long=31", "-T2", "-q", "-c"]


def pages_of(path):
    with open(path, "rb") as file:
        while page := file.read(PAGE):
            yield page


def digest(page):
    return hashlib.blake2b(page, digest_size=16).digest()


def blocks_of(path):
    """The contents of a disk's blocks, as digests."""
    zero = bytes(PAGE)
    return {digest(page) for page in pages_of(path) if page != zero}


def split(memory, known, to_new, to_known):
    """Writes each content once, to one file or the other; returns the counts."""
    zero, seen = bytes(PAGE), set()
    counts = {"pages": 0, "zero": 0, "repeated": 0, "on_disk": 0, "new": 0}
    for page in pages_of(memory):
        counts["pages"] += 1
        if page == zero:
            counts["zero"] += 1
            continue
        name = digest(page)
        if name in seen:
            counts["repeated"] += 1
            continue
        seen.add(name)
        counts["on_disk" if name in known else "new"] += 1
        (to_known if name in known else to_new).write(page)
    return counts


def compressed_bytes(*paths):
    cat = subprocess.Popen(["cat", *paths], stdout=subprocess.PIPE)
    zstd = subprocess.Popen(ZSTD, stdin=cat.stdout, stdout=subprocess.PIPE)
    cat.stdout.close()
    total = 0
    while block := zstd.stdout.read(1 << 20):
        total += len(block)
    if zstd.wait() or cat.wait():
        raise RuntimeError("zstd failed")
    return total


def compute(native, state, unaware):
    """Measures the guest of a saved state; keeps the figures beside it."""
    folder = native.files.folder
    memory, disk = folder / "memory", folder / "disk.flat"
    native.start(state)
    try:
        native.dump(memory)
        disk.write_bytes(b"")
        native.files.flat_disk(disk)
    finally:
        native.stop()
    new, known = folder / "pages-new", folder / "pages-known"
    with open(new, "wb") as to_new, open(known, "wb") as to_known:
        figures = split(memory, blocks_of(disk), to_new, to_known)
    figures["f0_bytes"] = compressed_bytes(new)
    if unaware:
        figures["f0_unaware_bytes"] = compressed_bytes(new, known)
    for path in memory, disk, new, known:
        path.unlink()
    state.floor.write_text(json.dumps(figures) + "\n")
    return figures
