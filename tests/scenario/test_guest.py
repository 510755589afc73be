# SPDX-License-Identifier: Apache-2.0
"""The test guest itself, without Godwit: it works, and it notices damage."""
import socket
import subprocess

import pytest

from guest import GuestError, Observer, Witness, append, find_pages, wait_ready
from plain_qemu import Qemu


@pytest.fixture
def qemus(folder):
    started = []

    def start(name, *arguments, **options):
        memory = options.pop("memory", "256M")
        started.append(Qemu(folder / name, append(**options), *arguments, memory=memory))
        return started[-1]
    yield start
    for qemu in started:
        qemu.close()


def test_commands_network_and_power_button(qemus):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    qemu = qemus("one", "-nic", f"user,model=virtio-net-pci,hostfwd=udp:127.0.0.1:{port}-:7",
                 rate=10, set=16, ip="10.0.2.15/24")
    wait_ready(qemu.console)
    witness = Witness(qemu.folder / "serial2.sock")
    status = witness.ask("status")
    assert (status["cpus"], status["set_mib"], status["rate_mb"]) == (2, 16, 10)
    assert witness.verify()["pass_pages"] == 16 * 256
    assert witness.ask("set 8")["set_mib"] == 8
    assert witness.verify()["pass_pages"] == 8 * 256
    assert witness.ask("rate 0")["rate_mb"] == 0
    for wrong in "dance", "rate", "rate ten", "status 1", "set 1000000", "x" * 300:
        with pytest.raises(GuestError, match="wanted|not enough|too long"):
            witness.ask(wrong)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        asker.sendto(b"are you there", ("127.0.0.1", port))
        assert asker.recv(100) == b"are you there"
    qemu.qmp("system_powerdown")
    assert qemu.process.wait(30) == 0


def test_unknown_option_is_not_ready(qemus):
    qemu = qemus("one", rait=20)
    with pytest.raises(GuestError, match="witness.rait=20: no such option"):
        wait_ready(qemu.console)


def test_moves_between_plain_qemus(qemus, folder):
    """The yardstick: what a move without Godwit looks like to the witness and the observer."""
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    drive = "-drive", f"file={disk},if=virtio,format=qcow2,cache=none"
    options = {"rate": 20, "set": 32, "fill": 64, "disk": "/dev/vda"}
    source = qemus("a", *drive, **options)
    observer = Observer([folder / "a/serial1.sock", folder / "b/serial1.sock"], folder / "observer.log")
    wait_ready(source.console)
    observer.wait_beating(0)
    target = qemus("b", *drive, "-incoming", "defer", **options)
    observer.wait(lambda: 1 in observer.connected, what="the target's port")
    info = source.migrate_to(target)
    observer.wait_beating(1)
    source.close()
    answer = Witness(folder / "b/serial2.sock").verify(disk=True)
    observer.check()
    observer.close()
    assert len(observer.switches) == 1
    away_ms = observer.switches[0]["downtime_us"] / 1000
    assert 0 < away_ms < 2000
    print(f"QEMU says {info['downtime']} ms, observed {away_ms:.0f} ms, {answer}")


def paused_with_memory_file(qemus, folder):
    file = folder / "memory"
    qemu = qemus("one", "-object",
                 f"memory-backend-file,id=ram,size=128M,share=on,mem-path={file}",
                 "-machine", "q35,memory-backend=ram", memory="128M", rate=4, set=16)
    wait_ready(qemu.console)
    qemu.qmp("stop")
    return qemu, file


def damage_found(qemu, kind):
    with pytest.raises(GuestError, match="found damage"):
        Witness(qemu.folder / "serial2.sock").verify()
    answer = Witness(qemu.folder / "serial2.sock").ask("status")
    assert answer["damaged_pages"] == 1, "one changed page is one damaged page, for ever"
    assert f" {kind}: " in qemu.console.read_text()


@pytest.mark.parametrize("kind", ["torn", "foreign", "stale"])
def test_damage_is_noticed(qemus, folder, kind):
    qemu, file = paused_with_memory_file(qemus, folder)
    pages = {number: (offset, generation) for offset, number, generation in find_pages(file)}
    assert len(pages) == 16 * 256
    number = sorted(pages)[1234]
    offset, generation = pages[number]
    with open(file, "r+b") as memory:
        memory.seek(offset)
        old = memory.read(4096)
        if kind == "torn":
            new = old[:2048] + bytes([old[2048] ^ 1]) + old[2049:]
        elif kind == "foreign":
            memory.seek(pages[number + 1][0])
            new = memory.read(4096)
        else:
            new = old
            witness = Witness(qemu.folder / "serial2.sock")
            qemu.qmp("cont")
            written = witness.ask("status")["writes_bytes"]
            while witness.ask("status")["writes_bytes"] < written + 17 * 2**20:
                pass  # the writer has gone round once
            qemu.qmp("stop")
        memory.seek(offset)
        memory.write(new)
    qemu.qmp("cont")
    damage_found(qemu, kind)
