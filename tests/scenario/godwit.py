# SPDX-License-Identifier: Apache-2.0
"""Hosts made of network namespaces, each with a godwitd of its own, and what tests do with them.

A Cluster has two hosts, alpha and beta, that trust each other, joined by a link. Operators'
actions go through the godwit command; what is looked at (states, events) comes from the API.
"""
import contextlib
import http.client
import json
import os
import pathlib
import pwd
import queue
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from guest import Observer, Witness, append, wait_for, wait_ready
from net import Namespace, Veth
from paths import BUILD, GUEST

PAGE_FAULTS = "/dev/userfaultfd"
KEPT_LOGS = {".log", ".json", ".conf", ".vm"}
KEPT_MAX_BYTES = 20 << 20
READY_TIMEOUT_S = 60
LAST_STATES = {"settled", "rolled-back", "cancelled", "running", "refused", "guest-lost",
               "abandoned"}


def qemu_user():
    """The one that an installation makes, or another one without rights."""
    try:
        return pwd.getpwnam("godwit-qemu").pw_name
    except KeyError:
        return "nobody"


@contextlib.contextmanager
def page_faults_allowed():
    """As the remedy of the check for post-copy says; afterwards it is as before."""
    before = os.stat(PAGE_FAULTS)
    os.chown(PAGE_FAULTS, -1, pwd.getpwnam(qemu_user()).pw_gid)
    os.chmod(PAGE_FAULTS, 0o660)
    try:
        yield
    finally:
        os.chown(PAGE_FAULTS, before.st_uid, before.st_gid)
        os.chmod(PAGE_FAULTS, before.st_mode & 0o777)


def keep_logs(folder, to):
    """Copies what explains a failure out of a test's short-lived folder."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for path in folder.rglob("*"):
        if (path.suffix in KEPT_LOGS and path.is_file()
                and path.stat().st_size <= KEPT_MAX_BYTES):
            copy = to / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


class ApiError(AssertionError):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Events:
    """What a daemon's event stream tells, as it comes."""

    def __init__(self, host):
        self._queue = queue.Queue()
        self._on_state = []
        self._connection = _UnixConnection(host.socket, None)
        self._connection.request("GET", "/v1/events")
        self._response = self._connection.getresponse()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for line in self._response:
                event = json.loads(line)
                if event["event"] in ("state", "end"):
                    for state, action in self._on_state:
                        if event["move"]["state"] == state:
                            action(event["move"])
                self._queue.put(event)
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass  # the daemon was killed or the test ended
        self._queue.put(None)

    def on_state(self, state, action):
        """Calls @action(move) in the reader's thread the moment a move enters @state."""
        self._on_state.append((state, action))

    def next(self, timeout=60):
        """The next event; None when the daemon is gone."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no event for {timeout} s") from None

    def close(self):
        try:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def reconnects(host):
    """How many of its connections were made anew."""
    return len(re.findall(r"link \d+ of the session is connected again", host.log.read_text()))


class Host:
    def __init__(self, folder, name, address, settings):
        self.name = name
        self.address = address
        self.folder = folder / name
        self.folder.mkdir(mode=0o755)
        self.state = self.folder / "state"
        self.run_dir = self.folder / "run"
        self.socket = self.run_dir / "godwitd.sock"
        self.log = self.folder / "godwitd.log"
        self.namespace = Namespace(name)
        self.process = None
        self.settings = {
            "host": {"name": name, "state-dir": self.state, "run-dir": self.run_dir},
            "peer": {"bind": address, "connect-timeout": "2 s", "session-timeout": "10 s"},
            "qemu": {"user": qemu_user(), "accel": "tcg"},
            "log": {"level": "debug"},
        }
        for group, keys in settings.items():
            self.settings.setdefault(group, {}).update(keys)
        self.write_config()

    # --- the daemon

    def write_config(self):
        self.config = self.folder / "godwitd.conf"
        self.config.write_text("".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for group, keys in self.settings.items()))

    def start(self, **environment):
        """Starts the daemon and waits until it says that it is ready.

        With GODWIT_STOP_AT=STATE it stops itself when a move enters that state (fault points).
        """
        notify = self.folder / "notify.sock"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(str(notify))
            ear.settimeout(0.2)
            self.process = self.namespace.popen(
                [BUILD / "src/daemon/godwitd", "--config", self.config],
                env={**os.environ, "NOTIFY_SOCKET": str(notify), **environment},
                stdin=subprocess.DEVNULL, stdout=open(self.log, "a"), stderr=subprocess.STDOUT)
            until = time.monotonic() + READY_TIMEOUT_S
            while time.monotonic() < until:
                assert self.process.poll() is None, f"{self.name}: godwitd ended:\n{self.tail()}"
                try:
                    if b"READY=1" in ear.recv(4096):
                        return
                except TimeoutError:
                    pass
        raise AssertionError(f"{self.name}: godwitd is not ready:\n{self.tail()}")

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def wait_stopped(self, timeout=60):
        """Until the daemon has come to its fault point."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat")
        wait_for(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T",
                 f"{self.name} to stop at its fault point", timeout)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.terminate()
        status = self.process.wait(30)
        assert status == 0, f"{self.name}: godwitd ended with {status}:\n{self.tail()}"

    def restart(self):
        self.stop()
        self.start()

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def tail(self, lines=20):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # --- its interfaces

    def api(self, method, path, body=None, timeout=120):
        connection = _UnixConnection(self.socket, timeout)
        try:
            connection.request(method, "/v1" + path, json.dumps(body) if body is not None else None,
                               {"Content-Type": "application/json"} if body is not None else {})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        answer = json.loads(text) if text else {}
        if response.status >= 400:
            error = answer.get("error", answer)
            raise ApiError(error.get("code"), error.get("message"))
        return answer

    def events(self):
        return Events(self)

    def command(self, *arguments):
        return [BUILD / "src/cli/godwit", "--socket", self.socket, *arguments]

    def godwit(self, *arguments, check=True, **options):
        """Runs the godwit command on this host."""
        done = self.namespace.run(self.command(*arguments), **options)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: godwit {' '.join(map(str, arguments))}: status "
                                 f"{done.returncode}: {done.stdout}{done.stderr}")
        return done

    # --- its guests

    def vms(self):
        return {vm["name"]: vm for vm in self.api("GET", "/vms")["vms"]}

    def vm(self, name):
        return self.vms().get(name)

    def qemu_pid(self, name):
        """From the kernel, not from the daemon: QEMU processes of this VM in this host."""
        found = []
        for pid in self.namespace.pids():
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"qemu-system" in words[0] and any(name.encode() in word for word in words):
                found.append(pid)
        assert len(found) <= 1, f"{self.name} has several QEMUs of {name}: {found}"
        return found[0] if found else None

    def vm_socket(self, name, file):
        return self.run_dir / "vm" / name / file

    def console_log(self, name):
        return self.state / "vm" / name / "console.log"

    def moves(self):
        return self.api("GET", "/migrations")["migrations"]

    def move(self, move_id):
        return self.api("GET", f"/migrations/{move_id}")

    def close(self):
        self.namespace.remove()  # with every process in it
        if self.process:
            self.process.wait(10)


class Vm:
    """A guest with its definition, observer and witness; knows on which host it should be."""

    def __init__(self, cluster, name, memory="256 MiB", vcpus=2, disk=False, keys="", definition="",
                 **witness):
        self.cluster = cluster
        self.name = name
        if disk:
            self._make_disk(cluster.folder / f"{name}.qcow2")
            witness["disk"] = "/dev/vda"
            definition += (f"[disk data]\npath = {cluster.folder / name}.qcow2\n"
                           "format = qcow2\nbus = virtio\ncache = none\n")
        self.disk = disk
        self.file = cluster.folder / f"{name}.vm"
        self.file.write_text(
            f"[vm]\nname = {name}\nmemory = {memory}\nvcpus = {vcpus}\nserial-ports = 3\n{keys}"
            f"[boot]\nkernel = {cluster.folder}/vmlinuz\ninitrd = {cluster.folder}/initrd\n"
            f"append = {append(**witness)}\n{definition}")
        self.observer = Observer([host.vm_socket(name, "serial1.sock") for host in cluster.hosts],
                                 cluster.folder / f"{name}-observer.log")
        cluster.observers.append(self.observer)

    @staticmethod
    def _make_disk(path):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
        os.chown(path, pwd.getpwnam(qemu_user()).pw_uid, -1)

    def boot(self, host):
        host.godwit("vm", "define", self.file)
        host.godwit("vm", "start", self.name)
        wait_ready(host.console_log(self.name))
        self.observer.wait_beating(self.cluster.side(host))

    def verify(self, host):
        """It beats on this host and nowhere else, and says itself that nothing is damaged."""
        side = self.cluster.side(host)
        self.observer.wait_beating(side)
        answer = Witness(host.vm_socket(self.name, "serial2.sock")).verify(disk=self.disk)
        self.observer.check()
        return answer

    def witness(self, host):
        return Witness(host.vm_socket(self.name, "serial2.sock"))


class Cluster:
    def __init__(self, folder, link=Veth, settings=None, stop_at=None, **link_options):
        self.folder = folder
        self.hosts = []
        self.observers = []
        self.link = None
        try:
            for file in "vmlinuz", "initrd":  # where QEMU's user can read them
                shutil.copy(GUEST / file, folder)
            for name, address in ("alpha", "10.77.0.1"), ("beta", "10.77.0.2"):
                self.hosts.append(Host(folder, name, address, settings or {}))
            self.alpha, self.beta = self.hosts
            self.link = link(self.alpha.namespace, self.beta.namespace,
                             "10.77.0.1/24", "10.77.0.2/24", **link_options)
            for host in self.hosts:
                state = (stop_at or {}).get(host.name)
                host.start(**({"GODWIT_STOP_AT": state} if state else {}))
            self.introduce()
        except BaseException:
            self.close()
            raise

    def introduce(self):
        """alpha makes the CA, beta joins, each adds the other."""
        alpha, beta = self.alpha, self.beta
        alpha.godwit("init")
        join(beta, alpha)
        self.add_each_other()

    def add_each_other(self, *more):
        """@more: pairs of addresses of further paths."""
        alpha, beta = self.alpha, self.beta
        alpha.godwit("host", "add", "beta", beta.address, *(pair[1] for pair in more))
        beta.godwit("host", "add", "alpha", alpha.address, *(pair[0] for pair in more))

    def side(self, host):
        return self.hosts.index(host)

    def other(self, host):
        return self.hosts[1 - self.side(host)]

    def migrate(self, vm, source, *options, check=True):
        """Moves by the command and waits for its end. Returns the move's object.

        Over the lane, unless @options say otherwise: auto would choose by this machine's cores.
        """
        target = self.other(source)
        done = source.godwit("migrate", vm.name, target.name, "--json", "--transport", "lane", *options,
                             check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        move = lines[-1].get("move", lines[-1]) if lines else {}
        if check:
            assert done.returncode == 0 and move["outcome"] == "completed", (
                f"status {done.returncode}, {move.get('outcome')}: {done.stderr}\n"
                f"{source.name}:\n{source.tail()}\n{target.name}:\n{target.tail()}")
            vm.observer.wait_beating(self.side(target))
        return {**move, "exit_status": done.returncode, "stderr": done.stderr}

    def start_move(self, vm, source, **options):
        """Begins a move, over the lane unless @options say otherwise; returns its id at once."""
        body = {"vm": vm.name, "host": self.other(source).name, "transport": "lane", **options}
        return source.api("POST", "/migrations", body)["id"]

    def wait_move(self, host, move_id, timeout=60):
        """Until this host's side of the move is in a last state."""
        wait_for(lambda: host.move(move_id)["state"] in LAST_STATES, f"the end of {move_id}",
                 timeout, 0.1)

    def wait_moves_over(self, timeout=60):
        """Until no host has a move that is not in a last state."""
        def over():
            return all(move["state"] in LAST_STATES for host in self.hosts for move in host.moves())
        wait_for(over, "the end of all moves", timeout, 0.1)

    def running_on(self, vm):
        """The hosts where the guest runs: what daemons say must come to be what the kernel shows."""
        def agreed():
            told = [host for host in self.hosts
                    if (host.vm(vm.name) or {}).get("state") == "running"]
            here = [host for host in self.hosts if host.qemu_pid(vm.name)]
            return (told,) if told == here else None
        return wait_for(agreed, f"daemons that know where {vm.name} runs", 10, 0.1)[0]

    def close(self):
        for observer in self.observers:
            observer.close()
        for host in self.hosts:
            host.close()
        if self.link:
            self.link.close()


def join(host, ca):
    """Takes @host into @ca's fleet: request, signature, installation; no key travels."""
    folder = host.folder
    request = folder / "request.pem"
    request.write_text(host.godwit("init", "--join").stdout)
    answer = folder / "certificates.pem"
    answer.write_text(ca.godwit("sign", request).stdout)
    host.godwit("init", "--install", answer)
