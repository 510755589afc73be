# SPDX-License-Identifier: Apache-2.0
"""The guests of the bench, and the saved states that every run of a guest begins from.

A guest is booted once by QEMU alone, with the machine that godwitd makes for it; when it is READY
and has been left alone for a while, its memory is saved with its disk's overlay. Godwit and QEMU
then both begin each run from that, so that all runs of a cell move the same memory. States are kept
in build/bench/guests, named by a hash of all that they depend on.
"""
import hashlib
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess

from godwit import qemu_user
from paths import GUEST, TOP

FOLDER = TOP / "build/bench/guests"
REAL = ["idle", "redis", "gcc"]
WRITERS = {f"writer-{rate}-{size}": {"rate": rate, "set": size, "fill": 200}
           for size in (64, 512) for rate in (5, 20, 80)}
WITNESSES = {**WRITERS, "freed": {"rate": 0, "set": 0, "fill": 700}}
NAMES = [*REAL, *WITNESSES]
REST_S = 10  # from READY to the saved state


def is_real(name):
    return name in REAL


def settle_s(name):
    """How long a guest runs from its saved state before it is moved."""
    return 10 if is_real(name) else 3


def vcpus(name):
    return 1 if is_real(name) else 2


def append(name):
    """The kernel's command line."""
    base = (GUEST / "append").read_text().strip()
    if is_real(name):
        return (f"{base} root=/dev/vda rw init=/usr/sbin/guest-init net.ifnames=0 "
                f"workload={name} witness.rate=0 witness.set=0")
    return base + "".join(f" witness.{key}={value}" for key, value in WITNESSES[name].items())


def bring_about(name, witness):
    """What is to have happened in a guest that is READY, before its state is saved."""
    if name == "freed":
        witness.ask("drop", timeout=120)


def prepare():
    """Makes what the real guests boot from; quick when it is there."""
    subprocess.run([TOP / "tests/bench/mkdisk.sh", FOLDER], check=True)


def put(source, target):
    """The same file under another name, or a copy where that cannot be."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def give_to_qemu(path):
    os.chown(path, pwd.getpwnam(qemu_user()).pw_uid, -1)


class Files:
    """A guest's files in a cluster's folder, where QEMU's user reads them."""

    def __init__(self, folder, guest, mem_mb):
        self.folder = folder
        self.guest = guest
        self.mem_mb = mem_mb
        self.disk = folder / "disk.qcow2"
        boot = FOLDER if is_real(guest) else GUEST
        for file in "vmlinuz", "initrd":
            put(boot / file, folder / f"guest-{file}")
        if is_real(guest):
            put(FOLDER / "disk.raw", folder / "disk.raw")
            self.new_disk()

    def new_disk(self):
        """An overlay on which nothing was written yet."""
        if is_real(self.guest):
            self.disk.unlink(missing_ok=True)
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
                            "disk.raw", self.disk], check=True)
            give_to_qemu(self.disk)

    def definition(self, name):
        text = (f"[vm]\nname = {name}\nmemory = {self.mem_mb} MiB\nvcpus = {vcpus(self.guest)}\n"
                f"serial-ports = 3\n[boot]\nkernel = {self.folder}/guest-vmlinuz\n"
                f"initrd = {self.folder}/guest-initrd\nappend = {append(self.guest)}\n")
        if is_real(self.guest):
            text += (f"[disk root]\npath = {self.disk}\nformat = qcow2\nbus = virtio\n"
                     "cache = none\n")
        return text

    def flat_disk(self, to):
        """What the guest sees as its disk, as one raw file."""
        if is_real(self.guest):
            subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", self.disk, to], check=True)


class State:
    """A guest's saved memory and overlay."""

    def __init__(self, files, machine, qemu_version):
        """@machine: QEMU's command line but for what belongs to the process."""
        words = [re.sub(r"/[^\s\",=]*/", "", word) for word in machine]
        if "-uuid" in words:
            words[words.index("-uuid") + 1] = ""
        stamp = FOLDER / "stamp" if is_real(files.guest) else GUEST / "stamp"
        known = json.dumps([words, qemu_version, files.mem_mb, stamp.read_text()])
        digest = hashlib.sha256(known.encode()).hexdigest()[:12]
        self.name = f"{files.guest}-{files.mem_mb}-{digest}"
        self.files = files
        self.memory = FOLDER / f"{self.name}.state"
        self.disk = FOLDER / f"{self.name}.qcow2"
        self.floor = FOLDER / f"{self.name}.floor.json"

    @property
    def exists(self):
        return self.memory.exists()

    def save(self, memory):
        """@memory: the file that QEMU wrote; it has ended."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        for old in FOLDER.glob(f"{self.files.guest}-{self.files.mem_mb}-*"):
            old.unlink()
        if is_real(self.files.guest):
            shutil.copy(self.files.disk, self.disk)
        part = self.memory.with_suffix(".part")
        shutil.move(memory, part)
        part.chmod(0o644)
        part.replace(self.memory)

    def lay_out(self):
        """Makes the cluster's folder ready for a run; returns the file of the memory."""
        placed = self.files.folder / "state"
        put(self.memory, placed)
        if is_real(self.files.guest):
            self.files.disk.unlink(missing_ok=True)
            shutil.copy(self.disk, self.files.disk)
            give_to_qemu(self.files.disk)
        return placed


def known_floor(state):
    """The figures of floor.py for this state, if they were computed."""
    path = pathlib.Path(state.floor)
    return json.loads(path.read_text()) if path.exists() else {}
