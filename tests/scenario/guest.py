# SPDX-License-Identifier: Apache-2.0
"""The test guest seen from outside: its beats (by way of the observer) and its control port."""
import json
import pathlib
import re
import socket
import struct
import subprocess
import threading
import time

from paths import BUILD, GUEST

PAGE = 4096


class GuestError(AssertionError):
    """The guest said or did what it must not."""


def append(**options):
    """The kernel's command line with witness options: append(rate=20, set=64)."""
    base = (GUEST / "append").read_text().split()
    guest_ip = options.pop("ip", None)
    base += [f"witness.{name.replace('_', '-')}={value}" for name, value in options.items()]
    return " ".join(base + ([f"guest.ip={guest_ip}"] if guest_ip else []))


class Observer:
    """Reads the beats of one VM on all hosts for as long as it lives.

    Everything it has heard is kept in `beats`, `switches`, `missed`, `errors` and `says`; wait()
    blocks until a condition on them holds.
    """

    def __init__(self, sockets, log):
        self.beats = 0          # how many lines
        self.side = None        # who spoke last
        self.counter = 0        # what it said
        self.heard_us = {}      # side -> time of its last beat
        self.stall_us = 0       # longest time between two beats of the same side
        self.switches = []      # {"from", "to", "us", "downtime_us", "counter"}
        self.missed = []        # (side, how many, counter)
        self.errors = []        # (side, what, counter)
        self.says = []          # lines that are not beats: damage
        self.connected = set()
        self._changed = threading.Condition()
        self._log = open(log, "w", buffering=1)
        self._process = subprocess.Popen(
            [BUILD / "tests/tools/observer", *map(str, sockets)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._process.stdout:
            word, side, us, *rest = line.split(maxsplit=3)
            if word != "beat":
                self._log.write(line)
            with self._changed:
                self._take(word, int(side), us, rest[0].strip() if rest else "")
                self._changed.notify_all()

    def _take(self, word, side, us, rest):
        if word == "switch":
            to, (us, away, counter) = int(us), rest.split()
            self.switches.append({"from": side, "to": to, "us": int(us),
                                  "downtime_us": int(away), "counter": int(counter)})
            return
        us = int(us)
        if word == "beat":
            if side == self.side:
                self.stall_us = max(self.stall_us, us - self.heard_us[side])
            self.beats += 1
            self.side, self.counter, self.heard_us[side] = side, int(rest), us
        elif word == "missed":
            n, counter = rest.split()
            self.missed.append((side, int(n), int(counter)))
        elif word == "error":
            what, counter = rest.split()
            self.errors.append((side, what, int(counter)))
        elif word == "guest":
            self.says.append(rest)
        elif word == "connected":
            self.connected.add(side)
        elif word == "closed":
            self.connected.discard(side)

    def wait(self, condition, timeout=30, what="the guest's beats"):
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise GuestError(f"waited {timeout} s for {what}: last beat {self.counter} from "
                                 f"side {self.side}, errors {self.errors}, says {self.says[:3]}")

    def wait_beating(self, side, beats=20, timeout=30):
        """Until the guest has beaten so many times more on this side."""
        count = [0, self.beats]

        def enough():
            if self.side == side:
                count[0] += self.beats - count[1]
            count[1] = self.beats
            return count[0] >= beats
        self.wait(enough, timeout, f"{beats} beats on side {side}")

    def silent(self, side, ms=300):
        """Whether this side keeps quiet for so long (another one may speak)."""
        before = self.heard_us.get(side)
        time.sleep(ms / 1000)  # silence is an absence: there is no event to wait for
        return self.heard_us.get(side) == before

    def check(self, allow_missed=0):
        """No damage, no beat twice, none missed."""
        missed = sum(n for _, n, _ in self.missed)
        if self.errors or self.says or missed > allow_missed:
            raise GuestError(f"errors {self.errors}, missed {self.missed}, says {self.says[:10]}")

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._thread.join(10)
        self._log.close()


class Witness:
    """The control port (third serial port)."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def ask(self, command, timeout=60):
        """Sends a command, returns the answer's JSON as a dict."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
            port.settimeout(timeout)
            port.connect(str(self.path))
            port.sendall(f"\n{command}\n".encode())
            word = command.split()[0]
            for line in port.makefile("r", errors="replace"):
                try:
                    answer = json.loads(line)
                except ValueError:
                    continue  # the rest of an answer that somebody else did not wait for
                if "error" in answer:
                    raise GuestError(f"witness: {command}: {answer['error']}")
                if answer["command"] == word:
                    return answer
        raise GuestError(f"witness: {command}: the port was closed")

    def verify(self, disk=None):
        """Has everything verified by the guest itself. @disk: whether it must have a disk writer."""
        answer = self.ask("verify", timeout=120)
        if answer["verdict"] != "good":
            raise GuestError(f"the guest found damage: {answer}")
        if answer["pass_pages"] == 0 and answer["set_mib"] + answer["fill_mib"]:
            raise GuestError(f"the guest verified nothing: {answer}")
        if disk and not answer["pass_records"]:
            raise GuestError(f"the guest has no record on its disk: {answer}")
        return answer


def wait_for(condition, what, timeout=30, every=0.02):
    """Polls for something that gives no event of its own."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(every)
    return value


def wait_ready(console_log, timeout=90):
    """Until READY is on the console; the console's text on failure."""
    path = pathlib.Path(console_log)

    def ready():
        text = path.read_text(errors="replace") if path.exists() else ""
        if re.search("Kernel panic|^witness: |^init: ", text, re.M):
            raise GuestError(f"the guest does not come up: {text[-2000:]}")
        return "READY" in text
    wait_for(ready, f"READY in {path}", timeout, 0.05)


def find_pages(memory_file):
    """Offsets and (number, generation) of the witness's hot pages in a file of guest memory."""
    with open(memory_file, "rb") as file:
        offset = 0
        while page := file.read(PAGE):
            number, generation = struct.unpack_from("<QQ", page)
            if number >> 24 in (1, 3) and number & 0xffffff < 1 << 18 and 0 < generation < 1 << 20:
                yield offset, number, generation
            offset += PAGE
