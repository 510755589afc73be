#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records the migration stream of a small real guest, byte for byte as QEMU writes it.

The guest is a q35 machine under TCG with two vCPUs, a virtio disk and a virtio NIC, halted in
SeaBIOS because there is nothing to boot. Modes: "precopy"; "bitmap", the same with a dirty bitmap
that is moved along; "postcopy", to a second QEMU with most of the RAM sent after switchover (an
empty file is written if this kernel has no userfaultfd for us).
"""
import argparse
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

TIMEOUT_S = 120
BOOTED = b"No bootable device"


class Qmp:
    """QMP on a socket that QEMU connects to; events are kept until they are asked for."""

    def __init__(self, listener):
        connection = listener.accept()[0]
        connection.settimeout(TIMEOUT_S)
        self.file = connection.makefile("rw")
        self.events = []
        self.receive()
        self.call("qmp_capabilities")

    def receive(self):
        line = self.file.readline()
        if not line:
            raise EOFError("QEMU closed its monitor")
        return json.loads(line)

    def call(self, command, **arguments):
        json.dump({"execute": command, "arguments": arguments}, self.file)
        self.file.flush()
        while True:
            message = self.receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            self.events.append(message)

    def wait_migration(self, *wanted):
        while True:
            event = self.events.pop(0) if self.events else self.receive()
            if event.get("event") != "MIGRATION":
                continue
            status = event["data"]["status"]
            if status in wanted:
                return status
            if status in ("failed", "cancelled"):
                raise RuntimeError(f"the migration {status}: {self.call('query-migrate')}")


class Guest:
    def __init__(self, stack, options, folder, name, incoming=False):
        def listen(what):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(folder / f"{name}.{what}"))
            listener.listen(1)
            listener.settimeout(TIMEOUT_S)
            return listener

        monitor, console = listen("qmp"), listen("console")
        command = [
            options.qemu, "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", options.machine, "-accel", "tcg", "-smp", "2",
            "-m", f"{options.memory_mib}M",
            "-chardev", f"socket,id=console,path={folder}/{name}.console",
            "-device", "isa-debugcon,iobase=0x402,chardev=console",
            "-blockdev", "driver=file,node-name=file0,filename="
                         f"{folder}/disk.qcow2,locking=off",
            "-blockdev", "driver=qcow2,node-name=disk0,file=file0",
            "-device", "virtio-blk-pci,drive=disk0",
            "-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0,romfile=",
            "-chardev", f"socket,id=qmp,path={folder}/{name}.qmp",
            "-mon", "chardev=qmp,mode=control",
        ] + (["-incoming", "defer"] if incoming else []) + options.extra
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        stack.callback(self.end)
        self.qmp = Qmp(monitor)
        self.console = console.accept()[0]
        self.console.settimeout(TIMEOUT_S)

    def wait_booted(self):
        text = b""
        while BOOTED not in text:
            piece = self.console.recv(4096)
            if not piece:
                raise EOFError("QEMU closed its debug console")
            text += piece

    def end(self):
        self.process.kill()
        self.process.wait()


def set_capabilities(qmp, *names):
    qmp.call("migrate-set-capabilities",
             capabilities=[{"capability": name, "state": True} for name in names])


def pump(source, target, copy):
    """From one socket to the other until the end, then half-closes."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            copy.write(piece)
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def migrate_to_us(stack, guest, folder):
    """Starts the migration; the socket that QEMU writes to."""
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(folder / "migration"))
    listener.listen(1)
    listener.settimeout(TIMEOUT_S)
    guest.qmp.call("migrate", uri=f"unix:{folder}/migration")
    connection = stack.enter_context(listener.accept()[0])
    connection.settimeout(TIMEOUT_S)
    return connection


def record_all(stack, guest, folder):
    connection = migrate_to_us(stack, guest, folder)
    with open(folder / "stream", "wb") as stream:
        while piece := connection.recv(65536):
            stream.write(piece)
    guest.qmp.wait_migration("completed")


def record_precopy(stack, options, folder):
    guest = Guest(stack, options, folder, "source")
    guest.wait_booted()
    set_capabilities(guest.qmp, "events")
    record_all(stack, guest, folder)


def record_bitmap(stack, options, folder):
    guest = Guest(stack, options, folder, "source")
    guest.wait_booted()
    for name in ("daily", "weekly"):
        guest.qmp.call("block-dirty-bitmap-add", node="disk0", name=name)
    set_capabilities(guest.qmp, "events", "dirty-bitmaps")
    record_all(stack, guest, folder)


def record_postcopy(stack, options, folder):
    source = Guest(stack, options, folder, "source")
    target = Guest(stack, options, folder, "target", incoming=True)
    source.wait_booted()
    try:
        set_capabilities(target.qmp, "events", "postcopy-ram")
    except RuntimeError as error:
        print(f"record-stream: no post-copy here: {error}", file=sys.stderr)
        (folder / "stream").touch()
        return
    set_capabilities(source.qmp, "events", "postcopy-ram")
    target.qmp.call("migrate-incoming", uri=f"unix:{folder}/incoming")
    # So slow that nearly all is left for post-copy, which has no limit.
    source.qmp.call("migrate-set-parameters", **{"max-bandwidth": 65536})
    from_source = migrate_to_us(stack, source, folder)
    to_target = stack.enter_context(socket.socket(socket.AF_UNIX))
    to_target.connect(str(folder / "incoming"))
    with open(folder / "stream", "wb") as stream, open(folder / "answers", "wb") as answers:
        threads = [threading.Thread(target=pump, args=(from_source, to_target, stream)),
                   threading.Thread(target=pump, args=(to_target, from_source, answers))]
        for thread in threads:
            thread.start()
        source.qmp.wait_migration("active")
        source.qmp.call("migrate-start-postcopy")
        source.qmp.wait_migration("completed")
        for thread in threads:
            thread.join(TIMEOUT_S)


MODES = {"precopy": record_precopy, "bitmap": record_bitmap, "postcopy": record_postcopy}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--qemu-img", default="qemu-img")
    parser.add_argument("--machine", default="q35")
    parser.add_argument("--memory-mib", type=int, default=64)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("extra", nargs="*", help="further options for QEMU, after --")
    options = parser.parse_args()
    # Short names: a Unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gw-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        subprocess.run([options.qemu_img, "create", "-q", "-f", "qcow2", folder / "disk.qcow2",
                        "64M"], check=True)
        MODES[options.mode](stack, options, folder)
        shutil.copyfile(folder / "stream", options.output)


main()
