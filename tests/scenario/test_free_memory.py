# SPDX-License-Identifier: Apache-2.0
"""A guest that has used and freed most of its memory: what is free stays home."""
import json

from godwit import Vm
from net import Veth

FILL_MIB = 600
FILL_PAGES = FILL_MIB * 256


def used_and_freed(cluster, name, keys, rate=5):
    vm = Vm(cluster, name, memory="1 GiB", rate=rate, set=0, fill=FILL_MIB, keys=keys)
    vm.boot(cluster.alpha)
    witness = vm.witness(cluster.alpha)
    witness.ask("drop", timeout=120)
    witness.ask("set 16")
    return vm


def figures(move):
    return {key: move.get(key) for key in (
        "pages", "zero_pages", "bytes", "rounds", "total_ms", "downtime_ms", "downtime_qemu_ms")}


def test_freed_memory_stays_home(make_cluster):
    """Of two guests that did the same the one without hints sends what it freed, the other not.

    The guest tells what is free while its memory is sent, an emulated one in about two seconds: on a
    fast link it is a matter of luck how much was sent before.
    """
    cluster = make_cluster(Veth, mbit=100)
    moves = {}
    for balloon in "hint", "plain":
        vm = used_and_freed(cluster, balloon, f"balloon = {balloon}\n")
        moves[balloon] = cluster.migrate(vm, cluster.alpha)
        vm.verify(cluster.beta)
        assert cluster.beta.vm(balloon)["run"]["balloon"] == balloon
        # What it takes from the free pages at the target is whole, too.
        witness = vm.witness(cluster.beta)
        witness.ask("set 300", timeout=120)
        vm.verify(cluster.beta)
        moves[balloon]["back"] = figures(cluster.migrate(vm, cluster.beta))
        vm.verify(cluster.alpha)
        vm.witness(cluster.alpha).ask("poweroff")
        vm.observer.wait(lambda vm=vm: not vm.observer.connected, what="the end of the guest")
    print(json.dumps({name: {**figures(move), "back": move["back"]} for name, move in moves.items()}))
    assert moves["plain"]["pages"] > FILL_PAGES, "the test itself: the guest has not used its memory"
    assert moves["hint"]["pages"] < FILL_PAGES / 3


def test_guest_without_balloon(cluster):
    vm = Vm(cluster, "none", rate=5, set=16, keys="balloon = none\n")
    vm.boot(cluster.alpha)
    cluster.migrate(vm, cluster.alpha)
    vm.verify(cluster.beta)
    assert cluster.beta.vm("none")["run"]["balloon"] == "none"
