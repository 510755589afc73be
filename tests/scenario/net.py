# SPDX-License-Identifier: Apache-2.0
"""Network namespaces as hosts, and the links between them.

Namespaces are named gw-PID-NAME. What a killed run left behind is swept away at the start of the
next one: processes in the namespaces first, then the namespaces with their interfaces.
"""
import ctypes
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

from paths import BUILD

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True)


def sweep():
    """Removes namespaces whose maker is gone."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for name, pid in re.findall(r"^(gw-(\d+)-\S+)", listed, re.M):
        if not pathlib.Path(f"/proc/{pid}").exists():
            Namespace.adopt(name).remove()


class Namespace:
    def __init__(self, name):
        self.name = f"gw-{os.getpid()}-{name}"
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    @classmethod
    def adopt(cls, full_name):
        namespace = cls.__new__(cls)
        namespace.name = full_name
        return namespace

    def pids(self):
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def popen(self, command, **options):
        return subprocess.Popen(["ip", "netns", "exec", self.name, *map(str, command)], **options)

    def run(self, command, **options):
        options = {"capture_output": True, "text": True, "timeout": 120, **options}
        return subprocess.run(["ip", "netns", "exec", self.name, *map(str, command)], **options)

    def socket(self, *arguments):
        """A socket that belongs to this namespace, for use from anywhere."""
        made = []

        def make():
            fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, CLONE_NEWNET) < 0:
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.socket(*arguments))
            finally:
                os.close(fd)
        thread = threading.Thread(target=make)  # the namespace belongs to the thread
        thread.start()
        thread.join()
        return made[0]

    def remove(self):
        for _ in range(50):
            pids = self.pids()
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)  # the dead need a moment to leave
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


class Veth:
    """A plain link of any speed, or shaped by tbf; it can be cut."""

    def __init__(self, a, b, ip_a, ip_b, mbit=None, dev="gw0"):
        self.ends = (a, b)
        self.dev = dev
        ip("link", "add", self.dev, "netns", a.name, "type", "veth",
           "peer", "name", self.dev, "netns", b.name)
        for namespace, address in (a, ip_a), (b, ip_b):
            ip("-n", namespace.name, "addr", "add", address, "dev", self.dev)
            ip("-n", namespace.name, "link", "set", self.dev, "up")
        if mbit:
            self.rate(mbit)

    def rate(self, mbit):
        for namespace in self.ends:
            subprocess.run(["tc", "-n", namespace.name, "qdisc", "replace", "dev", self.dev, "root",
                            "tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "50ms"],
                           check=True, capture_output=True)

    def _set(self, state):
        for namespace in self.ends:
            ip("-n", namespace.name, "link", "set", self.dev, state)

    def down(self):
        self._set("down")

    def up(self):
        self._set("up")

    def sent_bytes(self, end):
        """What one end's interface has sent."""
        text = self.ends[end].run(["cat", "/proc/net/dev"]).stdout
        return int(re.search(rf"^ *{self.dev}:(.*)$", text, re.M).group(1).split()[8])

    def close(self):
        pass  # goes with its namespaces


class Wanbox:
    """A link with delay, rate, loss and outages (tests/tools/wanbox.c)."""

    def __init__(self, a, b, ip_a, ip_b, delay_ms=0, mbit=0, loss_percent=0):
        self._process = subprocess.Popen(
            [BUILD / "tests/tools/wanbox", "-d", str(delay_ms), "-r", str(mbit),
             "-l", str(loss_percent), f"{a.name}={ip_a}", f"{b.name}={ip_b}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout.readline() == "ready\n", "wanbox does not start"

    def command(self, line):
        self._process.stdin.write(line + "\n")
        answer = self._process.stdout.readline().strip()
        assert answer.endswith("ok") and "unknown" not in answer, f"wanbox: {line}: {answer}"
        return answer

    def down(self, ms=None):
        self.command("down" if ms is None else f"down {ms}")

    def up(self):
        self.command("up")

    def rate(self, mbit):
        self.command(f"rate {mbit}")

    def stats(self):
        """Two dicts, a to b and b to a."""
        words = self.command("stats").split()
        names = "packets", "bytes", "queue_lost", "loss_lost", "outage_lost"
        return [dict(zip(names, map(int, words[at:at + 5]))) for at in (1, 7)]

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
