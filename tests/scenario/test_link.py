# SPDX-License-Identifier: Apache-2.0
"""Moves whose connections break, and whose link is gone for a while."""
import json
import pathlib
import time

import pytest

from godwit import Vm, reconnects
from guest import wait_for
from net import Veth, Wanbox, ip

PATIENT = {"peer": {"session-timeout": "1 min"}}
KILLS = 5


def start(cluster, **writer):
    vm = Vm(cluster, "linked", **writer)
    vm.boot(cluster.alpha)
    move_id = cluster.start_move(vm, cluster.alpha)
    wait_for(lambda: (cluster.alpha.move(move_id).get("bytes") or {}).get("wire", 0) > 1 << 20, "the stream to flow",
             60, 0.02)
    return vm, move_id


def finish(cluster, vm, move_id):
    cluster.wait_move(cluster.alpha, move_id, 120)
    move = cluster.alpha.move(move_id)
    assert move["outcome"] == "completed", (
        f"{move}\nalpha:\n{cluster.alpha.tail()}\nbeta:\n{cluster.beta.tail()}")
    vm.verify(cluster.beta)
    assert cluster.running_on(vm) == [cluster.beta]
    return move


def kill_connections(cluster, host):
    """What TCP has between the hosts is destroyed at one end, which resets the other."""
    killed = host.namespace.run(["ss", "-K", "-t", "state", "established",
                                 "dst", cluster.other(host).address])
    assert killed.returncode == 0, killed.stderr


@pytest.mark.parametrize("end", [0, 1], ids=["source", "target"])
def test_connections_are_killed(make_cluster, end):
    cluster = make_cluster(Veth, mbit=100, settings=PATIENT)
    vm, move_id = start(cluster, rate=2, set=8, fill=96)
    for n in range(1, KILLS + 1):
        kill_connections(cluster, cluster.hosts[end])
        wait_for(lambda n=n: reconnects(cluster.alpha) >= n, "a new connection", 10, 0.01)
    move = finish(cluster, vm, move_id)
    print(json.dumps({"bytes": move["bytes"], "total_ms": move["total_ms"]}))


def congestion_controls(cluster, host):
    """Of the connections between the hosts, as the kernel of @host has it."""
    told = host.namespace.run(["ss", "-Htin", "state", "established",
                               "dst", cluster.other(host).address])
    assert told.returncode == 0, told.stderr
    return {line.split()[0] for line in told.stdout.splitlines() if line[:1].isspace()}


def test_congestion_control_is_the_configured_one(make_cluster):
    """Also where a route has one of its own, which the kernel gives to every connection that begins."""
    cluster = make_cluster(Veth, mbit=100, settings={**PATIENT, "lane": {"congestion": "reno"}})
    for host in cluster.hosts:
        ip("-n", host.namespace.name, "route", "change", "10.77.0.0/24", "dev", cluster.link.dev, "proto",
           "kernel", "scope", "link", "src", host.address, "congctl", "cubic")
    vm, move_id = start(cluster, rate=1, set=4, fill=96)
    assert [congestion_controls(cluster, host) for host in cluster.hosts] == [{"reno"}, {"reno"}]
    finish(cluster, vm, move_id)


def test_path_that_loses_packets(make_cluster):
    """Without a queue: the connections get a congestion control that does not slow down for it."""
    if "bbr" not in pathlib.Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split():
        pytest.skip("this kernel does not have BBR")
    cluster = make_cluster(Wanbox, mbit=500, delay_ms=15, loss_percent=0.5, settings=PATIENT)
    for host in cluster.hosts:
        assert host.namespace.run(["sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"]).returncode == 0
    vm, move_id = start(cluster, rate=1, set=4, fill=96)
    wait_for(lambda: congestion_controls(cluster, cluster.alpha) == {"bbr"}, "all connections to use BBR", 20, 0.05)
    finish(cluster, vm, move_id)


def test_link_is_down_for_20_s(make_cluster):
    cluster = make_cluster(Wanbox, mbit=100, delay_ms=10, settings=PATIENT)
    for host in cluster.hosts:
        assert host.namespace.run(["sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"]).returncode == 0
    vm, move_id = start(cluster, rate=1, set=4, fill=96)
    assert congestion_controls(cluster, cluster.alpha) == {"reno"}, "nothing was lost"
    cluster.link.down()
    time.sleep(20)  # the outage itself
    still = cluster.link.stats()[0]["bytes"]
    cluster.link.up()
    begin = time.monotonic()
    wait_for(lambda: cluster.link.stats()[0]["bytes"] > still + (1 << 20), "the stream to flow again",
             20, 0.01)
    seconds = time.monotonic() - begin
    move = finish(cluster, vm, move_id)
    print(json.dumps({"flows_after_s": seconds, "bytes": move["bytes"]}))
    assert seconds < 3, "TCP's own back-off would take as long as the outage"


SECOND_PATH = "10.78.0.1", "10.78.0.2"


def test_first_of_two_paths_goes_down(make_cluster):
    """The move goes on over the other one, long before the session's timeout."""
    settings = {"peer": {"session-timeout": "1 min", "bind": "0.0.0.0"},
                "lane": {"silence": "1 s", "connections": 2}}
    cluster = make_cluster(Veth, mbit=100, settings=settings)
    second = Veth(cluster.alpha.namespace, cluster.beta.namespace,
                  *(f"{address}/24" for address in SECOND_PATH), mbit=100, dev="gw1")
    for host in cluster.hosts:
        host.godwit("host", "remove", cluster.other(host).name)
    cluster.add_each_other(SECOND_PATH)
    vm, move_id = start(cluster, rate=1, set=4, fill=96)
    assert second.sent_bytes(0) < 1 << 20, "the first address is the one to begin with"
    cluster.link.down()
    begin = time.monotonic()
    wait_for(lambda: second.sent_bytes(0) > 1 << 20, "the stream on the second path", 20, 0.05)
    seconds = time.monotonic() - begin
    move = finish(cluster, vm, move_id)
    print(json.dumps({"flows_after_s": seconds, "bytes": move["bytes"]}))
    assert move["reconnects"] >= 1
