# SPDX-License-Identifier: Apache-2.0
"""Moves that switch to post-copy: they go well, and they survive what breaks meanwhile."""
import json
import os
import signal
import time

import pytest

from godwit import Vm, page_faults_allowed, reconnects
from guest import wait_for
from net import Veth, Wanbox

SHORT = {"peer": {"session-timeout": "1 min"}}


@pytest.fixture(scope="module", autouse=True)
def page_faults():
    with page_faults_allowed():
        yield


def start(cluster, mode="post-copy", **writer):
    """A guest that writes more than it could move otherwise, until its pages are being fetched."""
    vm = Vm(cluster, "post", **writer)
    vm.boot(cluster.alpha)
    return vm, cluster.start_move(vm, cluster.alpha, mode=mode)


def wait_fetching(cluster, move_id):
    """The guest runs on the target, and half of it is on the source."""
    def fetches():
        state = cluster.beta.move(move_id)["state"]
        assert state != "running", "all of it is there already: the guest was too small"
        return state == "fetching"
    wait_for(fetches, "the guest to run on the target", 120, 0.01)


def finish(cluster, vm, move_id, timeout=180):
    cluster.wait_move(cluster.alpha, move_id, timeout)
    move = cluster.alpha.move(move_id)
    assert move["outcome"] == "completed", (
        f"{move}\nalpha:\n{cluster.alpha.tail(40)}\nbeta:\n{cluster.beta.tail(40)}")
    wait_for(lambda: cluster.beta.move(move_id)["state"] == "running", "the target's record", 30)
    vm.verify(cluster.beta)
    assert cluster.running_on(vm) == [cluster.beta]
    assert move["postcopy"] is True
    return move


def switch_ms(vm):
    assert len(vm.observer.switches) == 1, vm.observer.switches
    return vm.observer.switches[0]["downtime_us"] / 1000


@pytest.mark.parametrize("link", [(Veth, {"mbit": 100}), (Wanbox, {"mbit": 100, "delay_ms": 20}),
                                  (Wanbox, {"mbit": 1000, "delay_ms": 0})],
                         ids=["near", "far", "gigabit"])
def test_busy_writer(make_cluster, link):
    """It writes faster than the link carries: a pre-copy would not end."""
    cluster = make_cluster(link[0], settings=SHORT, **link[1])
    vm, move_id = start(cluster, disk=True, rate=40, set=96, fill=64)
    move = finish(cluster, vm, move_id)
    target = cluster.beta.move(move_id)
    print(json.dumps({"total_ms": move["total_ms"], "downtime_ms": move["downtime_ms"],
                      "downtime_observed_ms": switch_ms(vm), "bytes": move["bytes"],
                      "rtt_us": move["rtt_us"], "page_requests": target.get("page_requests"),
                      "page_request_us": target.get("page_request_us")}))


def test_hybrid_and_by_hand(make_cluster):
    """Hybrid goes on as pre-copy until it is told otherwise."""
    cluster = make_cluster(Veth, mbit=100, settings=SHORT)
    vm, move_id = start(cluster, mode="hybrid", rate=40, set=96, fill=16)
    wait_for(lambda: cluster.alpha.move(move_id)["state"] == "precopy", "the pre-copy", 60, 0.02)
    cluster.alpha.godwit("migration", "postcopy", move_id)
    finish(cluster, vm, move_id)


def start_slow(cluster, **options):
    """Minutes of work for the link, if it is not given more of it: time for accidents."""
    vm, move_id = start(cluster, mode="hybrid", rate=5, set=64, fill=80, **options)
    wait_for(lambda: (cluster.alpha.move(move_id).get("bytes") or {}).get("wire", 0) > 1 << 20,
             "the stream to flow", 60, 0.02)
    cluster.alpha.godwit("migration", "postcopy", move_id)
    wait_fetching(cluster, move_id)
    return vm, move_id


@pytest.mark.parametrize("end", [0, 1], ids=["source", "target"])
def test_connections_are_killed(make_cluster, end):
    cluster = make_cluster(Veth, mbit=50, settings=SHORT)
    vm, move_id = start_slow(cluster)
    for _ in range(3):
        host = cluster.hosts[end]
        before = reconnects(cluster.alpha)
        killed = host.namespace.run(["ss", "-K", "-t", "state", "established",
                                     "dst", cluster.other(host).address])
        assert killed.returncode == 0, killed.stderr
        wait_for(lambda: reconnects(cluster.alpha) > before, "a new connection", 10, 0.01)
    assert cluster.beta.move(move_id)["state"] == "fetching", "in the middle of it"
    finish(cluster, vm, move_id)
    assert "needs a new session" not in cluster.beta.log.read_text(), "the session outlives it"


def test_link_is_down_for_20_s(make_cluster):
    cluster = make_cluster(Wanbox, mbit=50, delay_ms=10, settings=SHORT)
    vm, move_id = start_slow(cluster)
    cluster.link.down()
    time.sleep(20)  # the outage itself
    assert cluster.beta.move(move_id)["state"] == "fetching", "in the middle of it"
    cluster.link.up()
    finish(cluster, vm, move_id)
    assert "needs a new session" not in cluster.beta.log.read_text(), "the session outlives it"


def test_session_times_out(make_cluster):
    """QEMU pauses the post-copy; a new session resumes it as soon as the link is back."""
    cluster = make_cluster(Wanbox, mbit=50, delay_ms=10,
                           settings={"peer": {"session-timeout": "5s"}})
    vm, move_id = start_slow(cluster)
    cluster.link.down()
    wait_for(lambda: "asking again" in cluster.alpha.log.read_text(), "the session to end", 60)
    time.sleep(5)  # some tries without a link
    cluster.link.up()
    finish(cluster, vm, move_id)
    assert "goes on over a new session" in cluster.alpha.log.read_text()


@pytest.mark.parametrize("ends", [[0], [1], [0, 1]], ids=["source", "target", "both"])
def test_daemon_is_killed(make_cluster, ends):
    cluster = make_cluster(Veth, mbit=50, settings=SHORT)
    vm, move_id = start_slow(cluster)
    hosts = [cluster.hosts[end] for end in ends]
    for host in hosts:
        host.kill()
    time.sleep(1)
    for host in hosts:
        host.start()
    finish(cluster, vm, move_id)
    assert "goes on over a new session" in cluster.alpha.log.read_text()


@pytest.mark.parametrize("end", [0, 1], ids=["source", "target"])
def test_qemu_is_killed(make_cluster, end):
    """Half a guest is none: both records say so, and no half runs on."""
    cluster = make_cluster(Veth, mbit=50, settings=SHORT)
    vm, move_id = start_slow(cluster)
    os.kill(cluster.hosts[end].qemu_pid(vm.name), signal.SIGKILL)
    for host in cluster.hosts:
        cluster.wait_move(host, move_id, 60)
        assert host.move(move_id)["outcome"] == "guest-lost", host.move(move_id)
    wait_for(lambda: not cluster.running_on(vm), "the other half to end", 30)


def switch_off(host, vm):
    """As far as Godwit and its guests go."""
    pid = host.qemu_pid(vm.name)
    host.kill()
    os.kill(pid, signal.SIGKILL)


def abandon(host, move_id, state):
    """As soon as the silence of the other host tells, on the operator's word; what is said then."""
    def wants_word():
        tried = host.godwit("migration", "abandon", move_id, check=False)
        assert tried.returncode == 2 or "not to be abandoned yet" in tried.stderr, tried.stderr
        return tried.stderr if tried.returncode == 2 else None
    asked = wait_for(wants_word, "the other host to be silent", 60, 0.5)
    assert "--peer-is-off" in asked and "two copies" in asked
    assert host.move(move_id)["state"] == state
    return host.godwit("migration", "abandon", move_id, "--peer-is-off").stdout


def start_from_disk(host, vm):
    host.godwit("vm", "start", vm.name)
    assert host.vm(vm.name)["state"] == "running"
    host.kill()
    host.start()
    assert host.vm(vm.name)["state"] == "running", "it is nothing that is left of a lost guest"


@pytest.mark.parametrize("gone", ["off", "cut-off"])
def test_source_is_gone_for_good(make_cluster, gone):
    """The way out is what the refusal to cancel tells; then the VM starts from its disks."""
    cluster = make_cluster(Veth, mbit=50, settings={"peer": {"session-timeout": "15s"}})
    alpha, beta = cluster.hosts
    vm, move_id = start_slow(cluster, disk=True)
    refused = beta.godwit("migration", "abandon", move_id, check=False)
    assert refused.returncode == 4 and "host 'alpha' was heard" in refused.stderr, refused.stderr
    if gone == "off":
        switch_off(alpha, vm)
    else:
        cluster.link.down()
    refused = beta.godwit("migration", "cancel", move_id, check=False)
    assert refused.returncode == 4 and f"migration abandon {move_id}" in refused.stderr
    assert f"godwit vm start {vm.name}" in abandon(beta, move_id, "fetching")
    assert beta.move(move_id)["outcome"] == "guest-lost"
    assert not beta.qemu_pid(vm.name)
    start_from_disk(beta, vm)

    if gone == "off":
        alpha.start()
    else:
        cluster.link.up()
    cluster.wait_move(alpha, move_id)
    assert alpha.move(move_id)["outcome"] == "guest-lost"
    wait_for(lambda: vm.name not in alpha.vms(), "the source to keep nothing", 30)
    assert cluster.running_on(vm) == [beta]


def test_target_is_gone_for_good(make_cluster):
    """The operator says that it is off; it comes back and hears that the VM is not its own."""
    cluster = make_cluster(Veth, mbit=50, settings={"peer": {"session-timeout": "15s"}})
    alpha, beta = cluster.hosts
    vm, move_id = start_slow(cluster, disk=True)
    refused = alpha.godwit("migration", "abandon", move_id, "--peer-is-off", check=False)
    assert refused.returncode == 4 and "host 'beta' was heard" in refused.stderr, refused.stderr
    switch_off(beta, vm)
    assert f"godwit vm start {vm.name}" in abandon(alpha, move_id, "postcopy")
    assert alpha.move(move_id)["state"] == "abandoned"
    assert "the other host is off: done" in alpha.log.read_text(), "who did it"
    assert not alpha.qemu_pid(vm.name)
    start_from_disk(alpha, vm)

    beta.start()
    cluster.wait_move(beta, move_id)
    assert beta.move(move_id)["outcome"] == "guest-lost"
    wait_for(lambda: vm.name not in beta.vms(), "the target to let go", 30)
    wait_for(lambda: alpha.move(move_id).get("settled"), "the source to hear of it", 30)
    assert cluster.running_on(vm) == [alpha]
    assert alpha.vm(vm.name)["generation"] == 3
    alpha.godwit("migrate", vm.name, "beta", "--transport", "lane")
    assert cluster.running_on(vm) == [beta]
