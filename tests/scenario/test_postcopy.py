# SPDX-License-Identifier: Apache-2.0
"""Moves that switch to post-copy: they go well, and they survive what breaks meanwhile."""
import json
import os
import pwd
import signal
import time

import pytest

from godwit import Vm, qemu_user
from guest import wait_for
from net import Veth, Wanbox

DEVICE = "/dev/userfaultfd"
SHORT = {"peer": {"session-timeout": "1 min"}}


@pytest.fixture(scope="module", autouse=True)
def page_faults():
    """As the check's remedy says."""
    before = os.stat(DEVICE)
    os.chown(DEVICE, -1, pwd.getpwnam(qemu_user()).pw_gid)
    os.chmod(DEVICE, 0o660)
    yield
    os.chown(DEVICE, before.st_uid, before.st_gid)
    os.chmod(DEVICE, before.st_mode & 0o777)


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


def test_busy_writer(make_cluster):
    """It writes faster than the link carries: a pre-copy would not end."""
    cluster = make_cluster(Veth, mbit=100, settings=SHORT)
    vm, move_id = start(cluster, disk=True, rate=40, set=96, fill=64)
    move = finish(cluster, vm, move_id)
    print(json.dumps({"total_ms": move["total_ms"], "downtime_ms": move["downtime_ms"],
                      "downtime_observed_ms": switch_ms(vm), "bytes": move["bytes"],
                      "fault_latency_us": cluster.beta.move(move_id).get("fault_latency_us")}))
