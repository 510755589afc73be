# SPDX-License-Identifier: Apache-2.0
"""A guest on a bridge that both hosts have: reachable from its network before and after a move."""
import socket
import threading
import time

from godwit import Vm
from net import ip

LAN = "10.78.0.{}/24"
GUEST_IP = "10.78.0.9"
NIC = "[nic lan]\nmode = bridge\nbridge = br0\n"


def make_lan(cluster):
    """br0 on both hosts, joined: one network; each host has an address in it."""
    alpha, beta = (host.namespace.name for host in cluster.hosts)
    ip("link", "add", "lan0", "netns", alpha, "type", "veth", "peer", "name", "lan0", "netns", beta)
    for number, name in enumerate((alpha, beta), 1):
        ip("-n", name, "link", "add", "br0", "type", "bridge")
        ip("-n", name, "addr", "add", LAN.format(number), "dev", "br0")
        ip("-n", name, "link", "set", "lan0", "master", "br0")
        for device in "br0", "lan0":
            ip("-n", name, "link", "set", device, "up")


def echo_gap_ms(host, during):
    """Sends a datagram every 5 ms to the guest's echo port while @during runs: the longest silence."""
    port = host.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.settimeout(0.005)
    port.connect((GUEST_IP, 7))
    over = threading.Event()
    heard = []

    def ask():
        number = 0
        while not over.is_set():
            number += 1
            try:
                port.send(str(number).encode())
                port.recv(64)
                heard.append(time.monotonic())
                time.sleep(0.005)  # the rate of asking, not a wait for something
            except OSError:
                pass  # no answer yet
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        during()
        before = len(heard)
        end = time.monotonic() + 30
        while len(heard) < before + 20 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(heard) >= before + 20, "the guest does not answer after the move"
    finally:
        over.set()
        thread.join()
        port.close()
    return 1000 * max(b - a for a, b in zip(heard, heard[1:]))


def test_bridged_guest_stays_reachable(cluster):
    make_lan(cluster)
    vm = Vm(cluster, "bridged", definition=NIC, rate=5, set=16, ip=f"{GUEST_IP}/24")
    vm.boot(cluster.alpha)
    for source in cluster.alpha, cluster.beta:
        # Asked from the host that the guest comes to, so that the bridges have to learn.
        gap = echo_gap_ms(cluster.other(source), lambda source=source: cluster.migrate(vm, source))
        vm.verify(cluster.other(source))
        away = vm.observer.switches[-1]["downtime_us"] / 1000
        print(f"from {source.name}: silent on the network for {gap:.0f} ms, away {away:.0f} ms")
    taps = cluster.beta.namespace.run(["ip", "-o", "link", "show", "master", "br0"]).stdout
    assert taps.count("\n") == 1, f"a tap was left behind on beta: {taps}"


def test_missing_bridge_is_told_before_the_move(cluster):
    make_lan(cluster)
    vm = Vm(cluster, "bridged", definition=NIC, ip=f"{GUEST_IP}/24")
    vm.boot(cluster.alpha)
    ip("-n", cluster.beta.namespace.name, "link", "del", "br0")
    move = cluster.migrate(vm, cluster.alpha, check=False)
    assert move["exit_status"] == 7 and "no bridge 'br0'" in move["stderr"]
    vm.verify(cluster.alpha)
