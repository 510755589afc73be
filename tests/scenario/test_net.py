# SPDX-License-Identifier: Apache-2.0
"""The links that other tests rely on: they do what they say."""
import socket
import threading
import time

import pytest

from net import Namespace, Veth, Wanbox

A, B = "10.99.0.1", "10.99.0.2"


@pytest.fixture
def pair():
    namespaces = []
    try:
        for name in "a", "b":
            namespaces.append(Namespace(name))
        yield namespaces
    finally:
        for namespace in namespaces:
            namespace.remove()


class Echo:
    """A UDP echo in one namespace and an asker in the other."""

    def __init__(self, pair):
        self.server = pair[1].socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind((B, 7))
        threading.Thread(target=self._serve, daemon=True).start()
        self.asker = pair[0].socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.asker.settimeout(0.3)

    def _serve(self):
        while True:
            try:
                data, peer = self.server.recvfrom(100)
                self.server.sendto(data, peer)
            except OSError:
                return

    def ask(self):
        """Round-trip time in ms, None if lost."""
        start = time.monotonic()
        try:
            self.asker.sendto(str(start).encode(), (B, 7))
            while self.asker.recv(100) != str(start).encode():
                pass  # a late answer to an older question
        except OSError:
            return None
        return 1000 * (time.monotonic() - start)


def transfer_mbit(pair, n_bytes):
    """One TCP stream from a to b."""
    listener = pair[1].socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((B, 0))
    listener.listen()
    sender = pair[0].socket(socket.AF_INET, socket.SOCK_STREAM)
    sender.connect((B, listener.getsockname()[1]))
    receiver, _ = listener.accept()

    def send():
        sender.sendall(bytes(n_bytes))
        sender.close()
    start = time.monotonic()
    threading.Thread(target=send, daemon=True).start()
    while receiver.recv(1 << 20):
        pass
    return n_bytes * 8e-6 / (time.monotonic() - start)


def test_wanbox_delay_and_outage(pair):
    link = Wanbox(*pair, f"{A}/24", f"{B}/24", delay_ms=20)
    echo = Echo(pair)
    echo.ask()
    times = [echo.ask() for _ in range(5)]
    assert all(times) and 40 <= min(times) < 50, times
    link.down()
    assert echo.ask() is None
    link.up()
    assert echo.ask()
    link.down(400)
    assert echo.ask() is None
    until = time.monotonic() + 5
    while not echo.ask():
        assert time.monotonic() < until, "the outage does not end"
    assert link.stats()[0]["outage_lost"] >= 2
    link.command("loss 100")
    assert echo.ask() is None
    assert link.stats()[0]["loss_lost"] >= 1  # the neighbour may be asked for, too
    link.close()
    assert "wan0" not in pair[0].run(["ip", "link"]).stdout


def test_wanbox_rate(pair):
    link = Wanbox(*pair, f"{A}/24", f"{B}/24", delay_ms=5, mbit=100)
    assert 70 < transfer_mbit(pair, 10_000_000) < 101
    link.rate(400)
    assert transfer_mbit(pair, 20_000_000) > 110
    link.close()


def test_veth_rate_and_cut(pair):
    link = Veth(*pair, f"{A}/24", f"{B}/24", mbit=100)
    before = link.sent_bytes(0)
    assert 70 < transfer_mbit(pair, 10_000_000) < 105
    assert 10_000_000 <= link.sent_bytes(0) - before < 11_000_000
    echo = Echo(pair)
    assert echo.ask()
    link.down()
    assert echo.ask() is None
    link.up()
    until = time.monotonic() + 5
    while not echo.ask():
        assert time.monotonic() < until, "the link does not come back"
