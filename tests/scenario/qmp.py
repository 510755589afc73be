# SPDX-License-Identifier: Apache-2.0
"""QMP, spoken with a QEMU that a test has started."""
import json
import socket

from guest import wait_for


class Monitor:
    """QMP on a Unix socket."""

    def __init__(self, path, process, timeout=60):
        """@process: the QEMU, or who starts it, which is to make the socket."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)

        log = path.with_name("qemu.log")

        def connect():
            assert process.poll() is None, f"QEMU ended: {log.read_text() if log.exists() else ''}"
            try:
                self._socket.connect(str(path))
            except OSError:
                return False
            return True
        wait_for(connect, "QEMU's monitor", 20)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.qmp("qmp_capabilities")

    def qmp(self, command, **arguments):
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._file.write(json.dumps(message))
        self._file.flush()
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise AssertionError(f"{command}: QEMU is gone")

    def wait_loaded(self, timeout=120):
        """Until what -incoming names is in memory."""
        wait_for(lambda: self.qmp("query-status")["status"] != "inmigrate", "the saved state",
                 timeout)

    def close(self):
        self._socket.close()
