# SPDX-License-Identifier: Apache-2.0
"""Whatever dies, and whenever: afterwards the guest runs on exactly one host.

(Or, if its QEMU was killed while it ran there, on none, with a record that says so.) The daemons are
built with fault points (build/asan): one of them stops itself the moment a move enters a state, the
fault strikes, and the daemon goes on or is killed.
"""
import http.client
import json
import os
import signal
import threading

import pytest

from godwit import ApiError, Vm
from guest import wait_for
from paths import BUILD

pytestmark = pytest.mark.faults

SETTINGS = {"peer": {"session-timeout": "3 s", "connect-timeout": "1 s"},
            "migration": {"prepare-timeout": "20 s", "switchover-timeout": "20 s",
                          "refuse-timeout": "20 s"}}
UNDER_WAY = "under-way"  # not a state: in the middle of pre-copy
SOURCE = [("alpha", state) for state in ("planned", "checked", "prepared", "precopy", UNDER_WAY,
                                         "switchover", "handed-over", "settled")]
TARGET = [("beta", state) for state in ("preparing", "incoming", "accepted", "running")]
# Where the source alone decides, and does so without the target.
SOURCE_DECIDES = SOURCE[:5]
BANDWIDTH = 8_000_000  # pre-copy lasts a few seconds at this rate
UNDER_WAY_BYTES = 4_000_000

stages = pytest.mark.parametrize("stage", SOURCE + TARGET, ids="-".join)


def kill(pid):
    os.kill(pid, signal.SIGKILL)


class Faulty:
    """A guest on alpha and a move of it to beta that has come to a stage."""

    def __init__(self, make_cluster, stage, stop_at=None):
        name, state = stage
        stop_at = stop_at or ({} if state == UNDER_WAY else {name: state})
        self.cluster = make_cluster(settings=SETTINGS, stop_at=stop_at)
        self.alpha, self.beta = self.cluster.hosts
        self.vm = Vm(self.cluster, "guest", memory="128 MiB", rate=5, set=8, fill=16)
        self.vm.boot(self.alpha)
        limit = {"max_bandwidth_bytes_s": BANDWIDTH} if state == UNDER_WAY else {}
        threading.Thread(target=self._start_move, kwargs=limit, daemon=True).start()
        if state == UNDER_WAY:
            wait_for(self._is_under_way, "pages on their way", 60)
        elif stop_at.get(name) == state:
            getattr(self.cluster, name).wait_stopped()

    def _start_move(self, **options):
        try:
            self.cluster.start_move(self.vm, self.alpha, **options)
        except (OSError, AssertionError, ValueError, http.client.HTTPException):
            pass  # the daemon was killed before it answered

    def _is_under_way(self):
        moves = self.alpha.moves()
        return moves and moves[0].get("bytes", {}).get("wire", 0) > UNDER_WAY_BYTES

    def go_on(self):
        """Lets a stopped daemon run, and starts a dead one."""
        for host in self.cluster.hosts:
            if host.alive:
                host.resume()
            else:
                host.start()

    def abandon(self, move_id):
        try:
            self.alpha.api("POST", f"/migrations/{move_id}/abandon", {"peer_is_off": True})
        except (OSError, AssertionError, ValueError, http.client.HTTPException):
            pass  # the target is still heard, or the daemon was stopped before it answered

    def check_one_copy(self):
        """All moves are over, there is one copy, undamaged. Returns its host."""
        self.cluster.wait_moves_over()
        running = self.cluster.running_on(self.vm)
        assert len(running) == 1, f"running on {[host.name for host in running]}"
        host = running[0]
        other = self.cluster.other(host)
        self.vm.verify(host)
        assert self.vm.observer.silent(self.cluster.side(other))
        assert host.vm("guest").get("held_by") is None
        assert "guest" not in other.vms(), "the other host keeps nothing but history"
        return host

    def check_moves_again(self, host):
        self.cluster.migrate(self.vm, host)
        self.vm.verify(self.cluster.other(host))

    def check_lost(self):
        """On no host, with records that say so; the definition is on exactly one."""
        def owner():
            owners = [host for host in self.cluster.hosts if "guest" in host.vms()]
            return owners[0] if len(owners) == 1 else None
        host = wait_for(owner, "the other host to forget the guest", 10)
        vm = host.vm("guest")
        assert vm["state"] == "stopped" and "killed" in vm["stop_reason"], vm
        move = self.alpha.moves()[0]
        if move["outcome"] == "completed":  # it died on beta like any other guest
            assert host is self.beta
        else:
            assert move["outcome"] in ("guest-lost", "rolled-back") and move["error"]["message"]


@pytest.fixture
def faulty(make_cluster):
    options = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
    if not any(option["name"] == "faults" and option["value"] for option in options):
        pytest.skip(f"{BUILD} has no fault points: tools/build.sh asan, GODWIT_BUILD=build/asan")
    return lambda *arguments, **options: Faulty(make_cluster, *arguments, **options)


@stages
def test_source_daemon_killed(faulty, stage):
    fault = faulty(stage)
    fault.alpha.kill()
    fault.go_on()
    fault.check_moves_again(fault.check_one_copy())


@stages
def test_target_daemon_killed(faulty, stage):
    fault = faulty(stage)
    fault.beta.kill()
    fault.go_on()
    fault.check_one_copy()


@pytest.mark.parametrize("stage", SOURCE[3:7] + TARGET[1:3], ids="-".join)
def test_both_daemons_killed(faulty, stage):
    fault = faulty(stage)
    fault.alpha.kill()
    fault.beta.kill()
    fault.go_on()
    fault.check_one_copy()


@stages
def test_link_cut(faulty, stage):
    fault = faulty(stage)
    fault.cluster.link.down()
    fault.go_on()
    if stage in SOURCE_DECIDES:
        move = wait_for(fault.alpha.moves, "the move's record")[0]
        fault.cluster.wait_move(fault.alpha, move["id"])
        fault.vm.observer.wait_beating(0)
    fault.cluster.link.up()
    fault.check_moves_again(fault.check_one_copy())


@pytest.mark.parametrize("stage", SOURCE[3:7] + TARGET[1:], ids="-".join)
def test_target_qemu_killed(faulty, stage):
    """Before the guest may have run there it goes on at the source."""
    fault = faulty(stage)
    kill(wait_for(lambda: fault.beta.qemu_pid("guest"), "the target's QEMU"))
    fault.go_on()
    fault.cluster.wait_moves_over()
    if fault.cluster.running_on(fault.vm):
        assert fault.check_one_copy() is fault.alpha
    else:
        assert stage in (("alpha", "handed-over"), ("beta", "accepted"), ("beta", "running"))
        fault.check_lost()


@pytest.mark.parametrize("stage", SOURCE[3:7] + TARGET[1:], ids="-".join)
def test_source_qemu_killed(faulty, stage):
    """Before the hand-over the guest dies with it, and the records say so; after it nothing does."""
    fault = faulty(stage)
    pid = fault.alpha.qemu_pid("guest")
    if pid:
        kill(pid)
    fault.go_on()
    fault.cluster.wait_moves_over()
    if fault.cluster.running_on(fault.vm):
        assert stage in SOURCE[5:7] + TARGET[1:]
        assert fault.check_one_copy() is fault.beta
    else:
        assert stage not in [("alpha", "handed-over"), ("beta", "accepted"), ("beta", "running")]
        fault.check_lost()


@pytest.mark.parametrize("stage", SOURCE, ids="-".join)
def test_cancel(faulty, stage):
    fault = faulty(stage)
    fault.go_on()
    move = wait_for(fault.alpha.moves, "the move's record")[0]
    try:
        fault.alpha.api("POST", f"/migrations/{move['id']}/cancel")
        refused = False
    except ApiError as error:
        assert error.code == "wrong-state", error
        refused = True
    host = fault.check_one_copy()
    outcome = fault.alpha.move(move["id"])["outcome"]
    if refused or outcome == "completed":
        assert outcome == "completed" and host is fault.beta
        assert stage in SOURCE[5:]
    else:
        assert outcome == "cancelled" and host is fault.alpha


@pytest.mark.parametrize("way_back", ["cancelling", "rolling-back"])
def test_source_daemon_killed_on_the_way_back(faulty, way_back):
    fault = faulty(("alpha", UNDER_WAY), stop_at={"alpha": way_back})
    if way_back == "cancelling":
        move = fault.alpha.moves()[0]
        threading.Thread(target=fault.alpha.api, daemon=True,
                         args=("POST", f"/migrations/{move['id']}/cancel")).start()
    else:
        kill(fault.beta.qemu_pid("guest"))
    fault.alpha.wait_stopped()
    fault.alpha.kill()
    fault.go_on()
    assert fault.check_one_copy() is fault.alpha


def test_target_daemon_killed_when_it_has_refused(faulty):
    fault = faulty(("alpha", UNDER_WAY), stop_at={"beta": "refused"})
    kill(fault.beta.qemu_pid("guest"))
    fault.beta.wait_stopped()
    fault.beta.kill()
    fault.go_on()
    assert fault.check_one_copy() is fault.alpha
    fault.check_moves_again(fault.alpha)


def abandon(fault):
    """On the source, whose target is silent; the VM starts again from its disks."""
    move = fault.alpha.moves()[0]
    assert move["state"] == "handed-over"
    def done():
        try:
            return fault.alpha.api("POST", f"/migrations/{move['id']}/abandon", {"peer_is_off": True})
        except ApiError as error:
            assert "not to be abandoned yet" in error.message, error
            return None
    assert wait_for(done, "the target to be silent", 60)["state"] == "abandoned"
    assert not fault.alpha.qemu_pid("guest")
    fault.alpha.godwit("vm", "start", "guest")
    return move["id"]


def check_let_go(fault, move_id):
    """The target has heard that the VM is not its own any more."""
    wait_for(lambda: fault.alpha.move(move_id).get("settled"), "the target to let go", 60)
    assert "guest" not in fault.beta.vms()
    assert fault.cluster.running_on(fault.vm) == [fault.alpha]
    assert fault.alpha.vm("guest")["generation"] == 3


HANDED_OVER = pytest.mark.parametrize(
    "stage", [("alpha", "handed-over"), ("beta", "accepted"), ("beta", "running")], ids="-".join)


@HANDED_OVER
def test_target_is_gone_for_good(faulty, stage):
    """Whatever it came to: the VM starts on the source, and not there when it comes back."""
    fault = faulty(stage)
    pid = fault.beta.qemu_pid("guest")
    fault.beta.kill()
    kill(pid)
    fault.alpha.resume()
    move_id = abandon(fault)
    fault.alpha.restart()
    fault.beta.start()
    fault.cluster.wait_moves_over()
    check_let_go(fault, move_id)
    fault.cluster.migrate(fault.vm, fault.alpha)


@HANDED_OVER
def test_target_was_said_to_be_off_and_is_not(faulty, stage):
    """When it is heard again the older generation ends."""
    fault = faulty(stage)
    fault.cluster.link.down()
    fault.go_on()
    move_id = abandon(fault)
    fault.cluster.link.up()
    check_let_go(fault, move_id)
    fault.cluster.wait_moves_over()


def test_source_daemon_killed_when_it_has_abandoned(faulty):
    """What was decided is done by the next daemon."""
    fault = faulty(("beta", "accepted"), stop_at={"beta": "accepted", "alpha": "abandoned"})
    pid = fault.beta.qemu_pid("guest")
    fault.beta.kill()
    kill(pid)
    move = fault.alpha.moves()[0]
    def stops():
        threading.Thread(target=fault.abandon, args=(move["id"],), daemon=True).start()
        try:
            fault.alpha.wait_stopped(2)
        except AssertionError:
            return False
        return True
    wait_for(stops, "the source to stop", 60)
    assert fault.alpha.qemu_pid("guest"), "before it was ended"
    fault.alpha.kill()
    fault.alpha.start()
    assert fault.alpha.move(move["id"])["state"] == "abandoned"
    wait_for(lambda: not fault.alpha.qemu_pid("guest"), "what is left of the guest to end", 10)
    wait_for(lambda: fault.alpha.vm("guest")["state"] == "stopped", "the daemon to know", 10)
    fault.alpha.godwit("vm", "start", "guest")
    fault.beta.start()
    check_let_go(fault, move["id"])
