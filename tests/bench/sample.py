# SPDX-License-Identifier: Apache-2.0
"""What a move costs the machine: processor time and memory of the processes that take part.

Processes end with the move, so a thread looks at them all the time and keeps what it saw last.
"""
import mmap
import os
import pathlib
import re
import threading
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PERIOD_S = 0.1
MEMORY_EVERY = 5  # looks; a look at a QEMU's mappings takes some ms
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)")


def _cpu_s(stat):
    """utime + stime of a stat file; the second field may hold spaces and brackets."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def own_bytes(smaps, guest_bytes):
    """Resident memory of a QEMU without the guest's own and without TCG's translated code."""
    total, counted = 0, True
    for line in smaps.splitlines():
        mapping = MAPPING.match(line)
        if mapping:
            size = int(mapping.group(2), 16) - int(mapping.group(1), 16)
            is_code = "x" in mapping.group(3) and mapping.group(4) == "0"
            counted = not is_code and size < guest_bytes
        elif counted and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


class Reserve:
    """Memory that is at hand from release() on.

    A machine that is a guest itself may have to get memory from its host whenever something is
    started, which takes processor time that a host with memory of its own does not spend.
    """

    def __init__(self, wanted_bytes):
        available = os.sysconf("SC_AVPHYS_PAGES") * PAGE_BYTES
        self.n_bytes = min(wanted_bytes, available // 2) // PAGE_BYTES * PAGE_BYTES
        self._held = mmap.mmap(-1, self.n_bytes)
        self._held.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, self.n_bytes, PAGE_BYTES):
            self._held[at] = 1

    def release(self):
        self._held.close()


def cpu_s(pid):
    """What this process has used since its start."""
    return _cpu_s(pathlib.Path(f"/proc/{pid}/stat"))


class _Process:
    """One process: its processor time without that of the guest, its resident memory."""

    def __init__(self, pid, guest_bytes):
        """@guest_bytes: of a QEMU, whose own memory is told apart from the guest's; else 0."""
        self._proc = pathlib.Path(f"/proc/{pid}")
        self._guest_bytes = guest_bytes
        self._cpu_s = self._guest_cpu_s = self._n_looks = 0
        self.first_bytes = self.peak_bytes = 0
        self.look()
        self._first = self._cpu_s, self._guest_cpu_s
        self.first_bytes = self.peak_bytes

    def _memory(self):
        if not self._guest_bytes:
            return int((self._proc / "statm").read_text().split()[1]) * PAGE_BYTES
        if self._n_looks % MEMORY_EVERY:
            return 0
        return own_bytes((self._proc / "smaps").read_text(), self._guest_bytes)

    def look(self):
        """When the process is gone the last figures stay."""
        try:
            cpu_s = _cpu_s(self._proc / "stat")
            guest_cpu_s = sum(_cpu_s(task / "stat") for task in (self._proc / "task").iterdir()
                              if (task / "comm").read_text().startswith("CPU "))
            memory = self._memory()
            alive = int((self._proc / "statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        self._n_looks += 1
        if alive:  # a process that is just ending has no memory
            self._cpu_s, self._guest_cpu_s = cpu_s, guest_cpu_s
            self.peak_bytes = max(self.peak_bytes, memory)

    def used_s(self, from_birth):
        """(host's, guest's) processor time since the first look, or since it was started."""
        before = (0, 0) if from_birth else self._first[:2]
        guest_s = self._guest_cpu_s - before[1]
        return self._cpu_s - before[0] - guest_s, guest_s


def _machine_busy_s():
    """Processor time of all processes of the machine; not of interrupts."""
    user, nice, system = pathlib.Path("/proc/stat").read_text().split(None, 4)[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS_PER_S


class Sampler:
    """Samples from `with` to its end; then results().

    @find: {"source_qemu" | "target_qemu" | "source_daemon" | "target_daemon" | any other name:
    function that returns a pid, or None as long as there is no such process}
    """

    def __init__(self, find, guest_bytes):
        self._find = dict(find)
        self._guest_bytes = guest_bytes
        self._processes = {}
        self._late = set()  # those that were started after the sampler
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _look(self):
        for name, find in list(self._find.items()):
            pid = find()
            if pid:
                guest_bytes = self._guest_bytes if name.endswith("_qemu") else 0
                self._processes[name] = _Process(pid, guest_bytes)
                del self._find[name]
        for process in self._processes.values():
            process.look()

    def _run(self):
        while not self._end.wait(PERIOD_S):
            self._look()

    def __enter__(self):
        self._look()
        self._late = set(self._find)
        self._start = time.monotonic(), _machine_busy_s(), sum(os.times()[:2])
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self._look()
        started, busy_s, own_s = self._start
        self._seconds = time.monotonic() - started
        self._busy_s = _machine_busy_s() - busy_s
        self._own_s = sum(os.times()[:2]) - own_s

    def results(self):
        """Core seconds and MB beside the guest's own, per side, and what others used."""
        used = {name: process.used_s(name in self._late)
                for name, process in self._processes.items()}

        def cpu_s(side):
            return round(sum(used[name][0] for name in used if name.startswith(side)), 2)

        def extra_mb(qemu, daemon):
            # What a QEMU needs anyway is what the source's has before the move.
            found = self._processes
            base = found["source_qemu"].first_bytes if "source_qemu" in found else 0
            grown = found[qemu].peak_bytes - base if qemu in found else 0
            if daemon in found:
                grown += found[daemon].peak_bytes - found[daemon].first_bytes
            return round(max(0, grown) / 1e6, 1)
        ours_s = self._own_s + sum(host + guest for host, guest in used.values())
        others_s = max(0.0, self._busy_s - ours_s)
        return {
            "cpu_s_source": cpu_s("source"), "cpu_s_target": cpu_s("target"),
            "extra_mem_source_mb": extra_mb("source_qemu", "source_daemon"),
            "extra_mem_target_mb": extra_mb("target_qemu", "target_daemon"),
            "guest_cpu_percent": round(
                100 * sum(guest for _, guest in used.values()) / self._seconds),
            "others_cpu_percent": round(100 * others_s / self._seconds),
        }
