# SPDX-License-Identifier: Apache-2.0
"""What a move costs the machine: processor time and memory of the processes that take part.

Processes end with the move, so a thread looks at them all the time and keeps what it saw last.
"""
import os
import pathlib
import threading
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PERIOD_S = 0.1


def _cpu_s(stat):
    """utime + stime of a stat file; the second field may hold spaces and brackets."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class _Process:
    """One process: its processor time without that of the guest, its resident memory."""

    def __init__(self, pid):
        self._proc = pathlib.Path(f"/proc/{pid}")
        self._cpu_s = self._guest_cpu_s = self._peak_rss = 0
        self.look()
        self._first = self._cpu_s, self._guest_cpu_s, self._peak_rss

    def look(self):
        """When the process is gone the last figures stay."""
        try:
            cpu_s = _cpu_s(self._proc / "stat")
            guest_cpu_s = sum(_cpu_s(task / "stat") for task in (self._proc / "task").iterdir()
                              if (task / "comm").read_text().startswith("CPU "))
            rss = int((self._proc / "statm").read_text().split()[1]) * PAGE_BYTES
        except (OSError, IndexError):
            return
        if rss:  # a process that is just ending has none
            self._cpu_s, self._guest_cpu_s = cpu_s, guest_cpu_s
            self._peak_rss = max(self._peak_rss, rss)

    def grown_bytes(self):
        """Resident memory at its most, beside what was there at the first look."""
        return self._peak_rss - self._first[2]

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

    def __init__(self, find):
        self._find = dict(find)
        self._processes = {}
        self._late = set()  # those that were started after the sampler
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _look(self):
        for name, find in list(self._find.items()):
            pid = find()
            if pid:
                self._processes[name] = _Process(pid)
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

        def extra_mb(*names):
            return round(sum(self._processes[name].grown_bytes() for name in names
                             if name in self._processes) / 1e6, 1)
        ours_s = self._own_s + sum(host + guest for host, guest in used.values())
        others_s = max(0.0, self._busy_s - ours_s)
        return {
            "cpu_s_source": cpu_s("source"), "cpu_s_target": cpu_s("target"),
            "extra_mem_source_mb": extra_mb("source_qemu", "source_daemon"),
            # The target's QEMU is filled with the guest meanwhile: only the daemon's can be told.
            "extra_mem_target_mb": extra_mb("target_daemon"),
            "others_cpu_percent": round(100 * others_s / self._seconds),
        }
