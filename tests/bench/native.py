# SPDX-License-Identifier: Apache-2.0
"""QEMU's own migration, driven through QMP: the other side of the comparison."""
import pathlib
import subprocess
import time

from guest import Witness, wait_ready
from qmp import Monitor
from system import MoveFailed, System

import guests

MIGRATION_PORT = 4444
BOOT_LIMIT_S = 300
# Capabilities and parameters beside those that all have.
NATIVE = {
    "plain": ([], {}),
    "xbzrle": (["xbzrle"], {"xbzrle_cache_size": 256 << 20}),
    "multifd": (["multifd"], {"multifd_channels": 4}),
    "multifd-zstd": (["multifd"], {"multifd_channels": 4, "multifd_compression": "zstd"}),
    "postcopy": (["postcopy-ram"], {}),
}
# Of a QEMU's command line, what belongs to the process rather than to the machine.
PROCESS_OPTIONS = ("-name", "-chardev", "-mon", "-add-fd", "-incoming", "-msg", "-sandbox", "-qmp")


class Process:
    """A QEMU of ours, in a host's namespace."""

    def __init__(self, folder, namespace, command):
        folder.mkdir(exist_ok=True)
        for left_over in folder.glob("*.sock"):
            left_over.unlink()
        self.process = namespace.popen(
            [*command, "-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"],
            stdin=subprocess.DEVNULL, stderr=open(folder / "qemu.log", "a"))
        self.monitor = Monitor(folder / "qmp.sock", self.process)
        self.qmp = self.monitor.qmp

    def close(self):
        self.monitor.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def machine_of(pid):
    """A running QEMU's command line without what belongs to the process rather than the machine."""
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    kept = [words[0]]
    for option, value in zip(words[1:], words[2:] + [""]):
        if option in PROCESS_OPTIONS:
            continue
        if option.startswith("-") and option != "-S":
            kept.append(option)
            if not value.startswith("-"):
                kept.append(value)
    return kept


class Native(System):
    """configurations: those of NATIVE; its guest moves once"""

    name = "qemu"

    def __init__(self, cluster, files, machine, version):
        super().__init__(cluster, files)
        self.folders = [cluster.folder / f"native-{end}" for end in "ab"]
        self.machine = machine
        self.version = version
        self.qemu = self.target = None
        self.post_copy = False  # a move that has converged early never goes there

    def sockets(self, port):
        return [folder / f"serial{port}.sock" for folder in self.folders]

    def witness(self):
        return Witness(self.sockets(2)[self.side])

    def processes(self):
        return {"source_qemu": lambda: self.qemu.process.pid,
                "target_qemu": lambda: self.target and self.target.process.pid}

    def _launch(self, side, *options):
        folder = self.folders[side]
        ports = [f"socket,id=port{i},path={folder}/serial{i}.sock,server=on,wait=off"
                 for i in range(3)]
        ports[0] += f",logfile={folder}/console.log"
        command = self.machine + [word for port in ports for word in ("-chardev", port)]
        return Process(folder, self.cluster.hosts[side].namespace,
                       [*command, "-name", "guest=native,debug-threads=on", "-S", *options])

    def _start_guest(self, state):
        self.qemu = self._launch(0, "-incoming", f"file:{state.lay_out()}")
        self.qemu.monitor.wait_loaded()
        self.qemu.qmp("cont")

    def save_state(self, state, rest_s):
        """Boots the guest anew and saves it."""
        (self.folders[0] / "console.log").unlink(missing_ok=True)
        self.files.new_disk()
        self.side = 0
        self.qemu = self._launch(0)
        try:
            self.qemu.qmp("cont")
            wait_ready(self.folders[0] / "console.log", BOOT_LIMIT_S)
            guests.bring_about(self.files.guest, self.witness())
            time.sleep(rest_s)  # what a boot leaves to be done is done meanwhile
            to = self.files.folder / "saved"
            self.qemu.qmp("migrate-set-parameters", max_bandwidth=0)
            self.qemu.qmp("migrate", uri=f"file:{to}")
            self._wait("a saved state", 300, None)
        finally:
            self.stop()
        state.save(to)

    def dump(self, to):
        """The memory of the guest, which stops, as a file."""
        self.qemu.qmp("stop")
        self.qemu.qmp("pmemsave", val=0, size=self.files.mem_mb << 20, filename=str(to))

    def _set_up(self, config):
        switched_on, parameters = NATIVE[config]
        capabilities = [{"capability": name, "state": True}
                        for name in ["return-path", *switched_on]]
        for qemu in self.qemu, self.target:
            qemu.qmp("migrate-set-capabilities", capabilities=capabilities)
            qemu.qmp("migrate-set-parameters", max_bandwidth=0, downtime_limit=300, **parameters)

    def _wait(self, config, limit_s, on_progress):
        """query-migrate's last answer; MoveFailed otherwise."""
        deadline = time.monotonic() + limit_s
        self.post_copy = False
        asked = False
        while (info := self.qemu.qmp("query-migrate"))["status"] not in (
                "completed", "failed", "cancelled", "postcopy-paused"):
            memory = info.get("ram", {})
            if time.monotonic() > deadline:
                self.qemu.qmp("migrate_cancel")
                raise MoveFailed("timeout", f"not converged after {limit_s} s, "
                                 f"{memory.get('dirty-sync-count')} rounds")
            if config == "postcopy" and not asked and memory.get("dirty-sync-count", 0) >= 2:
                self.qemu.qmp("migrate-start-postcopy")  # one round of pre-copy is over
                asked = True
            self.post_copy |= info["status"] == "postcopy-active"
            if on_progress and memory.get("total"):
                on_progress({"state": "precopy", "percent":
                             100 - 100 * memory["remaining"] / memory["total"]})
            time.sleep(0.02)  # QEMU's events would have to be read beside its answers
        if info["status"] != "completed":
            if info["status"] == "postcopy-paused":
                raise AssertionError("the link was lost in post-copy: the guest stands still")
            raise MoveFailed("failed", f"{info['status']}: {info.get('error-desc')}")
        return info

    def _move(self, config, limit_s, on_progress):
        self.target = self._launch(1, "-incoming", "defer")
        self._set_up(config)
        address = f"tcp:{self.cluster.hosts[1].address}:{MIGRATION_PORT}"
        self.target.qmp("migrate-incoming", uri=address)
        self.target.qmp("cont")  # takes effect once it has loaded the guest
        began_us = time.monotonic_ns() // 1000
        self.qemu.qmp("migrate", uri=address)
        info = self._wait(config, limit_s, on_progress)
        self.observer.wait_beating(1, beats=1)
        return {"began_us": began_us, "total_told_ms": info["total-time"],
                "downtime_qemu_ms": info["downtime"],
                "rounds": info["ram"]["dirty-sync-count"], "post_copy": self.post_copy,
                "wire_told_bytes": info["ram"]["transferred"]}

    def stop(self):
        super().stop()
        for qemu in self.qemu, self.target:
            if qemu:
                qemu.close()
        self.qemu = self.target = None
