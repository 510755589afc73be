# SPDX-License-Identifier: Apache-2.0
"""Moves that go well: there and back, under load, with a disk, direct; watched from outside."""
import json
import os
import statistics

import pytest

from godwit import Vm
from guest import wait_for
from net import Wanbox

ROUND_TRIPS = int(os.environ.get("GODWIT_ROUND_TRIPS", "10"))


def move_and_verify(cluster, vm, source, *options):
    """One move; returns its object with the observed downtime added."""
    n_before = len(vm.observer.switches)
    move = cluster.migrate(vm, source, *options)
    target = cluster.other(source)
    vm.verify(target)
    assert cluster.running_on(vm) == [target]
    assert source.vm(vm.name) is None, "the source keeps nothing but history"
    switches = vm.observer.switches[n_before:]
    assert len(switches) == 1, switches
    move["downtime_observed_ms"] = switches[0]["downtime_us"] / 1000
    return move


def check_figures(move):
    assert move["rounds"] >= 1 and move["total_ms"] > 0
    assert move["bytes"]["wire"] >= move["bytes"]["page"] + move["bytes"]["zero"]
    assert move["bytes"]["stream"] > 0 and move["digest"]
    assert move["accel"] == "tcg"
    # All but firmware and displays went straight into the target's memory.
    assert move["at_target"]["placed_pages"] > 0.95 * move["ram_bytes"] / 4096


def test_there_and_back_under_a_writer(cluster):
    """2 vCPUs, 1 GiB, 20 MB/s, and a disk that both hosts see."""
    vm = Vm(cluster, "busy", memory="1 GiB", disk=True, rate=20, set=64, fill=256)
    vm.boot(cluster.alpha)
    moves = []
    for _ in range(ROUND_TRIPS):
        moves.append(move_and_verify(cluster, vm, cluster.alpha))
        moves.append(move_and_verify(cluster, vm, cluster.beta))
    for move in moves:
        check_figures(move)
    away = [move["downtime_observed_ms"] for move in moves]
    report = {"moves": len(moves), "downtime_observed_ms": {
        "median": statistics.median(away), "max": max(away)},
        "downtime_qemu_ms": statistics.median(move["downtime_qemu_ms"] for move in moves),
        "total_ms": statistics.median(move["total_ms"] for move in moves),
        "wire_bytes": statistics.median(move["bytes"]["wire"] for move in moves)}
    (cluster.folder / "figures.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


@pytest.mark.sanitized
def test_one_round_trip(cluster):
    """The whole way once; also the scenario for sanitized daemons."""
    vm = Vm(cluster, "small", disk=True, rate=5, set=16, fill=16)
    vm.boot(cluster.alpha)
    check_figures(move_and_verify(cluster, vm, cluster.alpha))
    check_figures(move_and_verify(cluster, vm, cluster.beta))
    vm.witness(cluster.alpha).ask("poweroff")
    vm.observer.wait(lambda: not vm.observer.connected, what="the end of the guest")
    wait_for(lambda: cluster.alpha.vm(vm.name)["state"] == "stopped", "QEMU's end")
    cluster.alpha.godwit("vm", "undefine", vm.name)
    for host in cluster.hosts:
        host.stop()


def test_direct_transport(cluster):
    vm = Vm(cluster, "direct", rate=10, set=16, fill=32)
    vm.boot(cluster.alpha)
    move = move_and_verify(cluster, vm, cluster.alpha, "--transport", "direct")
    assert move["transport"] == "direct"
    move_and_verify(cluster, vm, cluster.beta)


def test_auto_transport(cluster):
    """Which one depends on this machine; that one is chosen, for a reason, does not."""
    vm = Vm(cluster, "auto", rate=5, set=16, fill=16)
    vm.boot(cluster.alpha)
    move = move_and_verify(cluster, vm, cluster.alpha, "--transport", "auto")
    assert move["transport"] in ("lane", "direct")
    assert move["transport_reason"]


def test_slow_distant_lossy_link(make_cluster):
    cluster = make_cluster(Wanbox, delay_ms=20, mbit=200, loss_percent=0.01)
    vm = Vm(cluster, "far", rate=2, set=8, fill=32)
    vm.boot(cluster.alpha)
    move_and_verify(cluster, vm, cluster.alpha)
    assert cluster.link.stats()[0]["bytes"] > 20 << 20


def test_outage_in_the_middle_is_survived(make_cluster):
    """Shorter than the session's timeout: the move waits and goes on."""
    cluster = make_cluster(Wanbox, mbit=100, settings={"peer": {"session-timeout": "1 min"}})
    vm = Vm(cluster, "patient", rate=1, set=4, fill=96)
    vm.boot(cluster.alpha)
    events = cluster.alpha.events()
    events.on_state("precopy", lambda move: cluster.link.down(5000))
    move = move_and_verify(cluster, vm, cluster.alpha)
    assert move["total_ms"] > 5000
    assert cluster.link.stats()[0]["outage_lost"] > 0
    events.close()


def test_progress_on_the_way(cluster):
    """Events tell of every state in order; percent never goes back."""
    vm = Vm(cluster, "watched", rate=5, set=16, fill=64)
    vm.boot(cluster.alpha)
    events = cluster.alpha.events()
    move_and_verify(cluster, vm, cluster.alpha)
    states, percents = [], []
    while True:
        event = events.next()
        if event["event"] in ("state", "progress", "end"):
            percents.append(event["move"]["percent"])
            if not states or states[-1] != event["move"]["state"]:
                states.append(event["move"]["state"])
        if event["event"] == "end":
            break
    events.close()
    assert states == ["planned", "checked", "prepared", "precopy", "switchover", "handed-over",
                      "settled"]
    assert percents == sorted(percents) and percents[-1] == 100
