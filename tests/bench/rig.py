# SPDX-License-Identifier: Apache-2.0
"""Links, guests, and the two systems under test: Godwit, and QEMU's own migration.

Both move the same machine: QEMU without Godwit gets the command line that godwitd made, but for
its sockets. Each system keeps its guest for all its runs and moves it there and back; run(move)
returns one record, fields as in docs/performance.md. A guest that must not disturb the other one's
run is told to stop writing.
"""
import os
import pathlib
import re
import socket
import subprocess
import time

from godwit import Cluster, Vm
from guest import GuestError, Observer, Witness, wait_for, wait_ready
from net import Veth, Wanbox
from plain_qemu import Qemu
from sample import Sampler

MEMORY_MIB = 1024
VCPUS = 2
MIGRATION_PORT = 4444
BEAT_US = 10000
LINKS = {
    "unshaped": {"link": Veth},
    "1gbit": {"link": Veth, "mbit": 1000},
    "1gbit-box": {"link": Wanbox, "mbit": 1000},
    "100mbit-40ms": {"link": Wanbox, "mbit": 100, "delay_ms": 20},
}
# Options of the witness (tests/guest/witness.h).
GUESTS = {
    "writer-20": {"rate": 20, "set": 64, "fill": 200},
    "writer-5": {"rate": 5, "set": 64, "fill": 200},
}
# QEMU's capabilities and parameters beside those that all have.
NATIVE = {
    "plain": ([], {}),
    "multifd": (["multifd"], {"multifd_channels": 4}),
    "multifd-zstd": (["multifd"], {"multifd_channels": 4, "multifd_compression": "zstd"}),
}
SETTINGS = {"peer": {"session-timeout": "2 min"}, "log": {"level": "debug"}}


class MoveFailed(Exception):
    """The move did not complete; the guest still runs where it was."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def wire_bytes(link, side):
    """What has gone out of this side of the link."""
    return link.stats()[side]["bytes"] if isinstance(link, Wanbox) else link.sent_bytes(side)


def make_cluster(folder, link):
    options = dict(LINKS[link])
    return Cluster(folder, options.pop("link"), settings=SETTINGS, **options)


def switchover_ms(steps_us, switch):
    """How long each step of the guest's absence took, from its last beat to its first."""
    last_beat_us = switch["us"] - switch["downtime_us"] - BEAT_US
    steps_us = {"last_beat": last_beat_us, **steps_us, "first_beat": switch["us"]}
    names = list(steps_us)
    return {f"{before}_to_{after}": round((steps_us[after] - steps_us[before]) / 1000, 1)
            for before, after in zip(names, names[1:])}


class System:
    """One system with its guest on one of the cluster's hosts."""

    name = version = None

    def __init__(self, cluster, guest, observer):
        self.cluster = cluster
        self.guest = guest
        self.observer = observer
        self.side = 0

    def witness(self):
        raise NotImplementedError

    def _move(self, config, limit_s, on_progress):
        """Moves to the other side; returns its figures, among them `began_us` (monotonic)."""
        raise NotImplementedError

    def _processes(self):
        raise NotImplementedError

    def rest(self):
        """Keeps the guest quiet while another one is measured."""
        self.witness().ask("rate 0")

    def wake(self):
        self.witness().ask(f"rate {GUESTS[self.guest]['rate']}")
        self.observer.wait_beating(self.side)

    def run(self, config, limit_s=120, on_progress=None):
        """Moves once and verifies. Never raises for what a move can do wrong: see `status`."""
        record = {
            "system": self.name, "version": self.version, "config": config, "guest": self.guest,
            "mem_mb": MEMORY_MIB, "vcpus": VCPUS, "direction": "ab"[self.side] + "-"
            + "ab"[1 - self.side], "status": "completed", "verified": False,
        }
        source, target = self.side, 1 - self.side
        n_before, self.observer.stall_us = len(self.observer.switches), 0
        sent = wire_bytes(self.cluster.link, source)
        try:
            with Sampler(self._processes()) as sampler:
                asked_us = time.monotonic_ns() // 1000
                figures = self._move(config, limit_s, on_progress)
                self.observer.wait(lambda: len(self.observer.switches) > n_before,
                                   what="the guest's first beat on the target")
            switch = self.observer.switches[n_before]
            record["wire_bytes"] = wire_bytes(self.cluster.link, source) - sent
            record["total_ms"] = round((switch["us"] - figures.pop("began_us")) / 1000)
            record["wall_ms"] = round((switch["us"] - asked_us) / 1000)
            record["downtime_observed_ms"] = round(switch["downtime_us"] / 1000, 1)
            record["longest_stall_ms"] = round(self.observer.stall_us / 1000, 1)
            if "steps_us" in figures:
                record["switchover_ms"] = switchover_ms(figures.pop("steps_us"), switch)
            record.update(figures, **sampler.results())
            self.side = target
        except MoveFailed as failure:
            record.update(status=failure.status, error=str(failure))
        except (AssertionError, OSError) as failure:
            record.update(status="failed", error=str(failure))
            return record  # where the guest is, if anywhere, is not known: no word from it
        self._verify(record)
        return record

    def _verify(self, record):
        try:
            self.observer.wait_beating(self.side)
            answer = self.witness().verify()
            self.observer.check()
            record.update(verified=True, verified_pages=answer["pass_pages"],
                          verify_ms=answer["pass_ms"])
        except GuestError as damage:
            record.update(status="damaged", error=str(damage))
        except (AssertionError, OSError) as failure:
            record.update(status="failed", error=f"the guest cannot be verified: {failure}")


class Godwit(System):
    """configurations: lane, direct"""

    name = "godwit"

    def __init__(self, cluster, guest, name="bench"):
        self.vm = Vm(cluster, name, memory=f"{MEMORY_MIB} MiB", vcpus=VCPUS, **GUESTS[guest])
        super().__init__(cluster, guest, self.vm.observer)
        self.vm.boot(self.host())
        here = cluster.alpha.api("GET", "/host")
        self.version = here["godwit_version"]
        self.machine = {"qemu_version": here["qemu_version"], "accel": here["accel"]}

    def host(self, side=None):
        return self.cluster.hosts[self.side if side is None else side]

    def witness(self):
        return self.vm.witness(self.host())

    def _processes(self):
        source, target = self.host(), self.host(1 - self.side)
        return {
            "source_qemu": lambda: source.qemu_pid(self.vm.name),
            "target_qemu": lambda: target.qemu_pid(self.vm.name),
            "source_daemon": lambda: source.process.pid,
            "target_daemon": lambda: target.process.pid,
        }

    def _watch(self, events, move_id, deadline, on_progress):
        """Until the source's record has its last state; returns it."""
        while True:
            event = events.next(max(0.1, deadline - time.monotonic()))
            assert event, f"{self.host().name}: godwitd is gone"
            move = event.get("move", {})
            if move.get("id") != move_id:
                continue
            if event["event"] == "end":
                return move
            if on_progress:
                on_progress(move)

    def _move(self, config, limit_s, on_progress):
        source, target = self.host(), self.host(1 - self.side)
        deadline = time.monotonic() + limit_s
        events = source.events()
        move_id = self.cluster.start_move(self.vm, source, transport=config)
        try:
            move = self._watch(events, move_id, deadline, on_progress)
        except AssertionError:
            if not source.alive or time.monotonic() < deadline:
                raise
            source.api("POST", f"/migrations/{move_id}/cancel", {})
            move = self._watch(events, move_id, time.monotonic() + 60, None)
            if move["outcome"] != "completed":
                raise MoveFailed("timeout", f"not converged after {limit_s} s, {move['rounds']} "
                                 "rounds") from None
        finally:
            events.close()
        if move["outcome"] != "completed":
            reason = (move.get("error") or {}).get("message") or move.get("reason")
            raise MoveFailed("failed", f"{move['outcome']}: {reason}")
        self.cluster.wait_move(target, move_id)
        return self._figures(move, target.move(move_id))

    @staticmethod
    def _figures(move, other):
        """@other: the target's record of the same move."""
        at_us = {step["state"]: step["at"] for step in reversed(move["history"])}
        other_us = {step["state"]: step["at"] for step in reversed(other["history"])}
        to_monotonic_us = (time.monotonic_ns() - time.time_ns()) // 1000
        n_bytes = dict(move["bytes"])
        figures = {
            "began_us": at_us["prepared"] + to_monotonic_us,
            "total_told_ms": move["total_ms"], "downtime_qemu_ms": move["downtime_qemu_ms"],
            "downtime_godwit_ms": move["downtime_ms"], "rounds": move["rounds"],
            "wire_told_bytes": n_bytes.pop("wire"), "bytes_by_cause": n_bytes,
            "steps_us": {
                "stopped": at_us["switchover"] + to_monotonic_us,
                "sent": at_us["handed-over"] + to_monotonic_us,
                "accepted": other_us["accepted"] + to_monotonic_us,
                "running": other_us["running"] + to_monotonic_us,
            },
        }
        if move["transport"] == "lane":
            same = move["digest"] == other["digest"]
            figures.update(digests_equal=same, lane_cpu_s=[move["cpu_us"] / 1e6,
                                                           other["cpu_us"] / 1e6])
            assert same, f"digests differ: {move['digest']} and {other['digest']}"
        return figures


class NativeProcess(Qemu):
    """A QEMU whose monitor is spoken to directly, in a host's namespace."""

    def __init__(self, folder, namespace, command):
        folder.mkdir(exist_ok=True)
        for left_over in folder.glob("*.sock"):
            left_over.unlink()
        self.folder = folder
        self.process = namespace.popen(
            [*command, "-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"],
            stdin=subprocess.DEVNULL, stderr=open(folder / "qemu.log", "a"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        wait_for(self._connect, "QEMU's monitor", 10)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.qmp("qmp_capabilities")


def machine_of(pid):
    """A running QEMU's command line without what belongs to the process rather than the machine."""
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    kept = [words[0]]
    for option, value in zip(words[1:], words[2:] + [""]):
        if option in ("-name", "-chardev", "-mon", "-add-fd", "-incoming", "-msg", "-sandbox"):
            continue
        if option.startswith("-") and option != "-S":
            kept.append(option)
            if not value.startswith("-"):
                kept.append(value)
    return kept


class Native(System):
    """configurations: those of NATIVE"""

    name = "qemu"

    def __init__(self, cluster, guest, like):
        """@like: the Godwit whose machine this one is to be the same as."""
        folders = [cluster.folder / f"native-{end}" for end in "ab"]
        observer = Observer([folder / "serial1.sock" for folder in folders],
                            cluster.folder / "native-observer.log")
        super().__init__(cluster, guest, observer)
        cluster.observers.append(observer)
        self.folders = folders
        self.machine = machine_of(like.host().qemu_pid(like.vm.name))
        self.version = like.machine["qemu_version"]
        self.target = None
        self.qemu = self._start(0)
        self.qemu.qmp("cont")
        wait_ready(folders[0] / "console.log")
        observer.wait_beating(0)

    def _start(self, side, *options):
        folder = self.folders[side]
        ports = [f"socket,id=port{i},path={folder}/serial{i}.sock,server=on,wait=off"
                 for i in range(3)]
        ports[0] += f",logfile={folder}/console.log"
        command = self.machine + [word for port in ports for word in ("-chardev", port)]
        return NativeProcess(folder, self.cluster.hosts[side].namespace,
                             [*command, "-name", "guest=native,debug-threads=on", "-S", *options])

    def witness(self):
        return Witness(self.folders[self.side] / "serial2.sock")

    def _processes(self):
        return {"source_qemu": lambda: self.qemu.process.pid,
                "target_qemu": lambda: self.target and self.target.process.pid}

    def _set_up(self, config):
        switched_on, parameters = NATIVE[config]
        possible = {"multifd"}
        capabilities = [{"capability": "return-path", "state": True}]
        capabilities += [{"capability": name, "state": name in switched_on} for name in possible]
        for qemu in self.qemu, self.target:
            qemu.qmp("migrate-set-capabilities", capabilities=capabilities)
            qemu.qmp("migrate-set-parameters", max_bandwidth=0, downtime_limit=300,
                     **{"multifd_compression": "none", **parameters})

    def _wait(self, limit_s):
        """query-migrate's last answer; MoveFailed otherwise."""
        deadline = time.monotonic() + limit_s
        while (info := self.qemu.qmp("query-migrate"))["status"] not in (
                "completed", "failed", "cancelled"):
            if time.monotonic() > deadline:
                rounds = info.get("ram", {}).get("dirty-sync-count")
                self.qemu.qmp("migrate_cancel")
                wait_for(lambda: self.qemu.qmp("query-status")["status"] == "running",
                         "the guest to go on on the source", 30)
                raise MoveFailed("timeout", f"not converged after {limit_s} s, {rounds} rounds")
            time.sleep(0.02)  # QEMU's events would have to be read beside its answers
        if info["status"] != "completed":
            raise MoveFailed("failed", f"{info['status']}: {info.get('error-desc')}")
        return info

    def _move(self, config, limit_s, on_progress):
        source = self.qemu
        self.target = self._start(1 - self.side, "-incoming", "defer")
        try:
            self._set_up(config)
            address = f"tcp:{self.cluster.hosts[1 - self.side].address}:{MIGRATION_PORT}"
            self.target.qmp("migrate-incoming", uri=address)
            self.target.qmp("cont")  # takes effect once it has loaded the guest
            began_us = time.monotonic_ns() // 1000
            source.qmp("migrate", uri=address)
            info = self._wait(limit_s)
            self.observer.wait_beating(1 - self.side, beats=1)
        except BaseException:
            self.target.close()
            self.target = None
            raise
        source.close()
        self.qemu, self.target = self.target, None
        return {"began_us": began_us, "total_told_ms": info["total-time"],
                "downtime_qemu_ms": info["downtime"],
                "rounds": info["ram"]["dirty-sync-count"],
                "wire_told_bytes": info["ram"]["transferred"]}

    def close(self):
        for qemu in self.qemu, self.target:
            if qemu:
                qemu.close()


def describe_machine():
    """What the figures belong to."""
    def read(path):
        try:
            return pathlib.Path(path).read_text().strip()
        except OSError:
            return None
    cpu = re.search(r"^model name\s*: (.*)$", read("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.M)
    return {
        "cpu": cpu.group(1) if cpu else os.uname().machine, "cores": os.cpu_count(),
        "memory_mib": int(memory.group(1)) // 1024, "kernel": os.uname().release,
        "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }
