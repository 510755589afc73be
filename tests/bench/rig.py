# SPDX-License-Identifier: Apache-2.0
"""Links, clusters on them, and Godwit as a system under test.

A Godwit's guest begins from a saved state like QEMU's: godwitd is given a QEMU command that adds
-incoming to the first start of a VM, and is itself stopped (SIGSTOP) until that is loaded, as it
expects a guest that it starts to run at once.
"""
import contextlib
import functools
import os
import pathlib
import re
import signal
import subprocess
import time

from godwit import Cluster
from guest import GuestError, Witness, wait_for
from native import machine_of
from net import Veth, Wanbox, ip
from paths import BUILD
from qmp import Monitor
from system import MoveFailed, System

import sample

LINKS = {
    "100mbit": {"link": Wanbox, "mbit": 100, "delay_ms": 20},
    "1gbit": {"link": Veth, "mbit": 1000},
    "1gbit-box": {"link": Wanbox, "mbit": 1000},
    "1gbit-lossy": {"link": Wanbox, "mbit": 1000, "delay_ms": 50, "loss_percent": 0.1},
    "unshaped": {"link": Veth},
}
NETWORK = "10.77.0.0/24"
CONGESTION = "cubic"  # Linux's default; this machine's may be another one
UNAWARE = "same,equal,delta,zstd"
ENCODINGS = ["same", "equal", "delta", "reference", "visit", "zstd"]
# What the godwit command is told.
GODWIT = {
    "auto": ["--transport=auto"],
    "lane": ["--transport=lane"],
    "direct": ["--transport=direct"],
    "trusted": ["--transport=auto"],
    "unaware": ["--transport=lane", f"--encodings={UNAWARE}"],
    "return": ["--transport=lane"],
    **{f"no-{name}": ["--transport=lane", "--encodings="
                      + ",".join(other for other in ENCODINGS if other != name)]
       for name in ENCODINGS},
    "no-encodings": ["--transport=lane", "--encodings=none"],
    "one-connection": ["--transport=lane", "--connections=1"],
    "four-connections": ["--transport=lane", "--connections=4"],
    "lane-postcopy": ["--transport=lane", "--mode=post-copy"],
}
RETURNS = {"return", "no-visit"}  # move twice and measure the way back
# What the hosts of a configuration are told beyond SETTINGS.
KEEPING = {"migration": {"visits-size": "16G"}}  # the memory of a VM that leaves, for its return
TRUSTING = {"migration": {"plain-networks": NETWORK}}
HOSTS = {**dict.fromkeys(RETURNS, KEEPING), "trusted": TRUSTING}
CANCEL_LIMIT_S = 60
IDLE_LIMIT_S = 120
SETTINGS = {"peer": {"session-timeout": "2 min"}, "log": {"level": "debug"}}

STARTER = """#!/bin/sh
# The QEMU of this cluster: a VM's first start begins from the saved state if there is to be one.
here=${0%/*}
case "$*" in
*-incoming*) ;;
*guest=bench-*)
    if [ -e "$here/from-state" ]; then
        : >"$here/asked"
        until [ -e "$here/go" ]; do sleep 0.02; done
        set -- "$@" -incoming "file:$here/../state" \\
            -qmp "unix:$here/start.sock,server=on,wait=off"
    fi ;;
esac
exec qemu-system-x86_64 "$@"
"""


@functools.cache
def help_of_migrate():
    return subprocess.run([BUILD / "src/cli/godwit", "migrate", "--help"], capture_output=True,
                          text=True).stdout


def has_option(words, text):
    """Whether every option is one that @text (a help text) tells of, with that choice."""
    for word in words:
        name, _, value = word.partition("=")
        told = re.search(rf"^ *{name}\b(.*)$", text, re.M)
        if not told:
            return False
        choices = re.match(r"=(\S+)", told.group(1))
        if choices and "|" in choices.group(1) and value not in choices.group(1).split("|"):
            return False
    return True


def hosts_of(config):
    return HOSTS.get(config, {})


@functools.cache
def known_keys():
    return subprocess.run([BUILD / "src/daemon/godwitd", "--print-config"], capture_output=True,
                          text=True).stdout


def possible(config):
    """Whether this build knows what the configuration needs."""
    keys = [key for group in hosts_of(config).values() for key in group]
    return has_option(GODWIT[config], help_of_migrate()) and all(
        f"\n#{key} =" in known_keys() for key in keys)


def make_cluster(folder, link, hosts):
    """@hosts: what they are told beyond SETTINGS."""
    start = folder / "start"
    start.mkdir()
    start.chmod(0o777)  # QEMU's user tells there that it was asked
    starter = start / "qemu-system-x86_64"
    starter.write_text(STARTER)
    starter.chmod(0o755)
    options = dict(LINKS[link])
    settings = {**SETTINGS, "qemu": {"binary": starter}, **hosts}
    cluster = Cluster(folder, options.pop("link"), settings=settings, **options)
    for host in cluster.hosts:
        device = "wan0" if isinstance(cluster.link, Wanbox) else cluster.link.dev
        ip("-n", host.namespace.name, "route", "change", NETWORK, "dev", device, "proto",
           "kernel", "scope", "link", "src", host.address, "congctl", CONGESTION)
    return cluster


def flat_causes(n_bytes):
    """A move's bytes by cause as one level of names, without the sums."""
    causes = {}
    for name, value in n_bytes.items():
        if isinstance(value, dict):
            causes.update({f"{name}.{inner}": n for inner, n in value.items()})
        elif name not in ("wire", "stream"):
            causes[name] = value
    return causes


class Godwit(System):
    """configurations: those of GODWIT that are possible()"""

    name = "godwit"

    def __init__(self, cluster, files):
        super().__init__(cluster, files)
        here = cluster.alpha.api("GET", "/host")
        self.version = here["godwit_version"]
        self.machine = {"qemu_version": here["qemu_version"], "accel": here["accel"]}
        self.vm = None
        self._n_vms = 0
        self._start = cluster.folder / "start"

    def host(self, side=None):
        return self.cluster.hosts[self.side if side is None else side]

    def sockets(self, port):
        return [host.vm_socket(self.vm, f"serial{port}.sock") for host in self.cluster.hosts]

    def witness(self):
        return Witness(self.sockets(2)[self.side])

    def processes(self):
        source, target = self.host(), self.host(1 - self.side)
        return {
            "source_qemu": lambda: source.qemu_pid(self.vm),
            "target_qemu": lambda: target.qemu_pid(self.vm),
            "source_daemon": lambda: source.process.pid,
            "target_daemon": lambda: target.process.pid,
        }

    def _define(self):
        """A VM that was never anywhere."""
        self._n_vms += 1
        self.vm = f"bench-{self._n_vms}"
        file = self.cluster.folder / f"{self.vm}.vm"
        file.write_text(self.files.definition(self.vm))
        self.host().godwit("vm", "define", file)

    def wait_idle(self):
        """Until both daemons have nothing more to do in the background, such as indexes."""
        daemons = [host.process.pid for host in self.cluster.hosts]

        def idle():
            before = [sample.cpu_s(pid) for pid in daemons]
            time.sleep(1)  # the span over which their use is looked at
            return all(sample.cpu_s(pid) - cpu_s < 0.05 for pid, cpu_s in zip(daemons, before))
        wait_for(idle, "the daemons to be idle", IDLE_LIMIT_S)

    def native_machine(self):
        """The command line that godwitd makes for this guest, without what is the process's."""
        self.files.new_disk()
        self._define()
        try:
            self.host().godwit("vm", "start", self.vm)
            return machine_of(self.host().qemu_pid(self.vm))
        finally:
            self.stop()

    def _start_guest(self, state):
        state.lay_out()
        self._define()
        host, start = self.host(), self._start
        for name in "asked", "go", "start.sock":
            (start / name).unlink(missing_ok=True)
        (start / "from-state").touch()
        starting = host.namespace.popen(host.command("vm", "start", self.vm),
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            wait_for((start / "asked").exists, "godwitd to start QEMU", 30)
            os.kill(host.process.pid, signal.SIGSTOP)
            (start / "go").touch()
            monitor = Monitor(start / "start.sock", starting)
            monitor.wait_loaded()
            monitor.close()
        finally:
            host.resume()
            (start / "from-state").unlink()
        said, _ = starting.communicate(timeout=60)
        assert starting.returncode == 0, f"godwit vm start: {said}"

    def stop(self):
        super().stop()
        if not self.vm:
            return
        for host in self.cluster.hosts:
            with contextlib.suppress(OSError):  # a daemon that is gone leaves it to the cluster
                if host.vm(self.vm):
                    host.godwit("vm", "stop", "--force", self.vm, check=False)
                    host.godwit("vm", "undefine", self.vm, check=False)
        self.vm = None

    # --- its moves

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

    def _ask_for_move(self, config):
        """By the command, as an operator would; returns the move's id."""
        told = self.host().godwit("migrate", self.vm, self.host(1 - self.side).name, "--no-wait",
                                  "--json", *GODWIT[config], check=False)
        found = re.search(r'"id": *"([^"]+)"', told.stdout)
        if told.returncode or not found:
            raise MoveFailed("failed", f"godwit migrate: {told.stdout}{told.stderr}".strip())
        return found.group(1)

    def _move(self, config, limit_s, on_progress):
        source, target = self.host(), self.host(1 - self.side)
        deadline = time.monotonic() + limit_s
        events = source.events()
        try:
            move_id = self._ask_for_move(config)
            move = self._follow(events, move_id, deadline, on_progress)
        finally:
            events.close()
        if move["outcome"] != "completed":
            reason = (move.get("error") or {}).get("message") or move.get("reason")
            raise MoveFailed("timeout" if time.monotonic() > deadline else "failed",
                             f"{move['outcome']}: {reason}", rounds=move.get("rounds"))
        self.cluster.wait_move(target, move_id)
        return self._figures(move, target.move(move_id))

    def _follow(self, events, move_id, deadline, on_progress):
        try:
            return self._watch(events, move_id, deadline, on_progress)
        except GuestError:
            raise
        except AssertionError:
            if not self.host().alive or time.monotonic() < deadline:
                raise
        self.host().api("POST", f"/migrations/{move_id}/cancel", {})
        return self._watch(events, move_id, time.monotonic() + CANCEL_LIMIT_S, None)

    @staticmethod
    def _figures(move, other):
        """@other: the target's record of the same move."""
        at_us = {step["state"]: step["at"] for step in reversed(move["history"])}
        other_us = {step["state"]: step["at"] for step in reversed(other["history"])}
        to_monotonic_us = (time.monotonic_ns() - time.time_ns()) // 1000
        n_bytes = move.get("bytes", {})
        figures = {
            "began_us": at_us["prepared"] + to_monotonic_us, "transport": move["transport"],
            "total_told_ms": move["total_ms"], "downtime_qemu_ms": move.get("downtime_qemu_ms"),
            "downtime_godwit_ms": move.get("downtime_ms"), "rounds": move.get("rounds"),
            "wire_told_bytes": n_bytes.get("wire"), "bytes_by_cause": flat_causes(n_bytes),
            "resent_bytes": move.get("resent_bytes", n_bytes.get("resent")),
            "record": {key: value for key, value in move.items()
                       if key not in ("history", "id", "vm", "source", "target")},
        }
        steps = {"stopped": at_us.get("switchover"), "sent": at_us.get("handed-over"),
                 "accepted": other_us.get("accepted"), "running": other_us.get("running")}
        if all(steps.values()):
            figures["steps_us"] = {name: us + to_monotonic_us for name, us in steps.items()}
        if move.get("digest") and other.get("digest"):
            same = move["digest"] == other["digest"]
            figures.update(digests_equal=same, lane_cpu_s=[move.get("cpu_us", 0) / 1e6,
                                                           other.get("cpu_us", 0) / 1e6])
            assert same, f"digests differ: {move['digest']} and {other['digest']}"
        return figures


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
        "tcp_congestion_control": CONGESTION,
    }
