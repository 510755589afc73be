# SPDX-License-Identifier: Apache-2.0
"""A QEMU without Godwit, for tests of the test guest itself and for comparison."""
import subprocess

from guest import wait_for
from paths import GUEST
from qmp import Monitor


class Qemu:
    def __init__(self, folder, append, *arguments, memory="256M"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.console = folder / "console.log"
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
                   "-m", memory, "-display", "none", "-nodefaults", "-no-reboot",
                   "-kernel", GUEST / "vmlinuz", "-initrd", GUEST / "initrd", "-append", append,
                   "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"]
        for name in "serial1", "serial2":
            command += ["-chardev", f"socket,id={name},path={folder}/{name}.sock,server=on,wait=off",
                        "-serial", f"chardev:{name}"]
        command += ["-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"]
        if "-machine" not in arguments:
            command += ["-machine", "q35"]
        self.process = subprocess.Popen([*map(str, command), *map(str, arguments)],
                                        stdin=subprocess.DEVNULL, stderr=open(folder / "qemu.log", "w"))
        self._monitor = Monitor(folder / "qmp.sock", self.process)
        self.qmp = self._monitor.qmp

    def migrate_to(self, other):
        """Waits for the end; returns query-migrate's answer."""
        path = other.folder / "migrate.sock"
        for qemu in self, other:
            qemu.qmp("migrate-set-capabilities",
                     capabilities=[{"capability": "return-path", "state": True}])
        other.qmp("migrate-incoming", uri=f"unix:{path}")
        self.qmp("migrate-set-parameters", max_bandwidth=0)
        self.qmp("migrate", uri=f"unix:{path}")

        def ended():
            info = self.qmp("query-migrate")
            return info if info["status"] in ("completed", "failed", "cancelled") else None
        info = wait_for(ended, "the migration's end", 120)
        assert info["status"] == "completed", info
        return info

    def close(self):
        self._monitor.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
