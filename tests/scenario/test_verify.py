# SPDX-License-Identifier: Apache-2.0
"""`--verify full`: all memory is compared before the guest is given up."""
import json
import pathlib
import re
import threading

import pytest

from godwit import Vm
from guest import wait_for
from paths import BUILD

PLAIN = "balloon = plain\n"
DAMAGED_AT = 100 << 20  # the guest's address: its memory begins at 0 and has no hole below 2 GiB


def busy(cluster, memory="256 MiB", **writer):
    writer = {"rate": 20, "set": 32, "fill": 32, **writer}
    vm = Vm(cluster, "careful", memory=memory, keys=PLAIN, **writer)
    vm.boot(cluster.alpha)
    return vm


def test_round_trip_of_a_busy_guest(cluster):
    vm = busy(cluster, memory="1 GiB", set=64, fill=256, disk=True)
    for source in cluster.hosts:
        move = cluster.migrate(vm, source, "--verify", "full")
        vm.verify(cluster.other(source))
        print(json.dumps({"verify": move["verify"], "downtime_ms": move["downtime_ms"]}))
        assert move["verify"]["mismatches"] == 0
        # All of it, but for what is hidden behind devices.
        assert 0 <= 1024 * 256 + 256 - move["verify"]["pages"] < 512


def test_direct_transport(cluster):
    vm = busy(cluster)
    move = cluster.migrate(vm, cluster.alpha, "--transport", "direct", "--verify", "full")
    assert move["verify"]["pages"] > 65000 and move["verify"]["mismatches"] == 0
    vm.verify(cluster.beta)


def test_hints_leave_pages_out(cluster):
    """Pages that were not sent on purpose look like lost ones: that is said before the move."""
    vm = Vm(cluster, "hinting", rate=5, set=16)
    vm.boot(cluster.alpha)
    move = cluster.migrate(vm, cluster.alpha, "--verify", "full", check=False)
    assert move["exit_status"] != 0 and "balloon = plain" in move["stderr"], move
    vm.verify(cluster.alpha)
    cluster.migrate(vm, cluster.alpha, "--verify", "off")


def guest_memory(pid, size):
    """Where QEMU has the guest's memory: its largest mapping that may be it."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        begin, end = (int(word, 16) for word in re.match("([0-9a-f]+)-([0-9a-f]+) rw", line).groups()) \
            if re.match("([0-9a-f]+)-([0-9a-f]+) rw", line) else (0, 0)
        if end - begin >= size:
            found.append(begin)
    assert len(found) == 1, found
    return found[0]


def damage(pid, size):
    """Turns one bit over in one page."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        place = guest_memory(pid, size) + DAMAGED_AT + 1234
        memory.seek(place)
        byte = memory.read(1)
        memory.seek(place)
        memory.write(bytes([byte[0] ^ 4]))


@pytest.mark.faults
def test_one_damaged_bit_at_the_target(make_cluster):
    """It is found, named, and the guest goes on where it was."""
    options = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
    if not any(option["name"] == "faults" and option["value"] for option in options):
        pytest.skip(f"{BUILD} has no fault points: tools/build.sh asan, GODWIT_BUILD=build/asan")
    cluster = make_cluster(stop_at={"beta": "verifying"},
                           settings={"peer": {"session-timeout": "1 min"}})
    vm = busy(cluster, rate=5)
    done = []
    mover = threading.Thread(target=lambda: done.append(
        cluster.migrate(vm, cluster.alpha, "--verify", "full", check=False)))
    mover.start()
    cluster.beta.wait_stopped()
    damage(wait_for(lambda: cluster.beta.qemu_pid("careful"), "the target's QEMU"), 256 << 20)
    cluster.beta.resume()
    mover.join()
    move = done[0]
    assert move["outcome"] == "rolled-back", move
    assert move["verify"]["mismatches"] == 1
    assert f"pc.ram at {DAMAGED_AT:#x}" in move["error"]["message"], move["error"]
    vm.verify(cluster.alpha)
    assert cluster.running_on(vm) == [cluster.alpha]
    move = cluster.migrate(vm, cluster.alpha, "--verify", "full")
    assert move["verify"]["mismatches"] == 0
    vm.verify(cluster.beta)
