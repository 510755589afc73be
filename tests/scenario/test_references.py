# SPDX-License-Identifier: Apache-2.0
"""Pages that the target has: on a disk that both hosts read, and from the VM's earlier visit."""
import os
import pwd
import subprocess

from godwit import Vm, page_faults_allowed, qemu_user
from guest import wait_for
from net import Veth
from test_move import move_and_verify

MIB = 1 << 20
DISK_MIB = 64


def make_disk(cluster, seed):
    """A qcow2 over a raw image full of content that does not compress."""
    base, top = cluster.folder / "base.raw", cluster.folder / "top.qcow2"
    with open(base, "wb") as file:
        for _ in range(DISK_MIB):
            file.write(os.urandom(MIB))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top],
                   check=True)
    for path in base, top:
        os.chown(path, pwd.getpwnam(qemu_user()).pw_uid, -1)
    return base, top


def reader(cluster, name, path, **witness):
    """A guest that has read its disk."""
    vm = Vm(cluster, name, memory="384 MiB", definition=(
        f"[disk data]\npath = {path}\nformat = qcow2\nbus = virtio\ncache = none\n"), **witness)
    text = vm.file.read_text()
    vm.file.write_text(text.replace("append = ", "append = guest.read=/dev/vda "))
    return vm


def wait_indexed(host, n):
    folder = host.state / "cache" / "images"
    wait_for(lambda: len(list(folder.glob("*.index"))) >= n, "the indexes of the disk", timeout=60)


def test_a_guest_that_has_read_its_disk(cluster):
    _, top = make_disk(cluster, 1)
    vm = reader(cluster, "reader", top, rate=2, set=4, fill=16)
    vm.boot(cluster.alpha)
    wait_indexed(cluster.alpha, 2)
    move = move_and_verify(cluster, vm, cluster.alpha)
    pages = DISK_MIB * MIB // 4096
    assert move["reference_pages"] > pages * 0.9, move
    assert move["reference_misses"] == 0
    assert move["bytes"]["reference"] < move["reference_pages"] * 12
    # Beside the disk, in plain: on a link as fast as this one nothing is compressed.
    assert move["bytes"]["wire"] < (100 + DISK_MIB // 8) * MIB
    print({"wire": move["bytes"]["wire"], "reference": move["bytes"]["reference"],
           "reference_pages": move["reference_pages"]})


def test_a_post_copy_of_such_a_guest(make_cluster):
    """It writes more than the link carries; what it has read is on the disk all the same."""
    cluster = make_cluster(Veth, mbit=100)
    _, top = make_disk(cluster, 3)
    vm = reader(cluster, "hybrid", top, rate=40, set=96, fill=16)
    vm.boot(cluster.alpha)
    wait_indexed(cluster.alpha, 2)
    with page_faults_allowed():
        move = move_and_verify(cluster, vm, cluster.alpha, "--mode=post-copy")
    assert move["postcopy"] is True
    assert move["reference_pages"] > DISK_MIB * MIB // 4096 * 0.9, move
    assert move["reference_misses"] == 0
    print({"total_ms": move["total_ms"], "wire": move["bytes"]["wire"],
           "reference_pages": move["reference_pages"]})


def test_a_disk_that_was_written_under_an_old_index(cluster):
    base, top = make_disk(cluster, 2)
    vm = reader(cluster, "stale", top, rate=2, set=4, fill=16)
    vm.boot(cluster.alpha)
    wait_indexed(cluster.alpha, 2)
    # Behind everybody's back: what the index says of every eighth MiB is wrong from now on.
    with open(base, "r+b") as file:
        for i in range(0, DISK_MIB, 8):
            file.seek(i * MIB)
            file.write(os.urandom(MIB))
    move = move_and_verify(cluster, vm, cluster.alpha)
    assert move["reference_pages"] > 1000
    print({"misses": move["reference_misses"], "references": move["reference_pages"]})


def visits_of(host):
    return host.state / "visits"


def wait_visit(left, came):
    """What is kept of a move is written behind it."""
    wait_for(lambda: list(visits_of(left).glob("*.pages")), "the pages", timeout=60)
    wait_for(lambda: list(visits_of(came).glob("*.tags")), "the hashes", timeout=60)


def test_return_to_a_host_left_a_moment_ago(make_cluster):
    cluster = make_cluster(Veth, settings={"migration": {"visits-size": "2 GiB"}})
    vm = Vm(cluster, "back", memory="512 MiB", rate=0, set=4, fill=200)
    vm.boot(cluster.alpha)
    there = move_and_verify(cluster, vm, cluster.alpha)
    wait_visit(cluster.alpha, cluster.beta)
    back = move_and_verify(cluster, vm, cluster.beta)
    share = back["bytes"]["wire"] / there["bytes"]["wire"]
    print({"there": there["bytes"]["wire"], "back": back["bytes"]["wire"], "share": share,
           "misses": back["reference_misses"]})
    assert share <= 0.06
    wait_visit(cluster.beta, cluster.alpha)
    assert not list(visits_of(cluster.alpha).glob("*.pages")), "it was used, and is older"
    again = move_and_verify(cluster, vm, cluster.alpha)
    assert again["bytes"]["wire"] < 0.06 * there["bytes"]["wire"]
    cluster.beta.godwit("vm", "stop", vm.name, "--force")
    cluster.beta.godwit("vm", "undefine", vm.name)
    wait_for(lambda: not list(visits_of(cluster.beta).glob("back@*")), "the end of the files")


def test_daemon_killed_while_a_visit_is_written(make_cluster):
    cluster = make_cluster(Veth, settings={"migration": {"visits-size": "2 GiB"}})
    vm = Vm(cluster, "cut", memory="256 MiB", rate=2, set=4, fill=64)
    vm.boot(cluster.alpha)
    visits = visits_of(cluster.alpha)
    events = cluster.alpha.events()
    events.on_state("precopy", lambda move: cluster.alpha.kill())
    cluster.start_move(vm, cluster.alpha)
    wait_for(lambda: not cluster.alpha.alive, "the end of the daemon")
    assert list(visits.glob("*.part"))
    cluster.alpha.start()
    cluster.wait_moves_over()
    vm.verify(cluster.alpha)
    assert not list(visits.glob("*"))
    events.close()
    move_and_verify(cluster, vm, cluster.alpha)
