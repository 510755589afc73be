# SPDX-License-Identifier: Apache-2.0
"""The plain transport: only where both hosts' configurations allow it, and what ends such a move."""
from godwit import Vm
from guest import wait_for

TRUSTING = {"migration": {"plain-networks": "192.0.2.0/24, 10.77.0.0/24"}}
BANDWIDTH = 8_000_000  # pre-copy lasts a few seconds at this rate
FIRST_PORT = 49152     # of direct-ports


def other_ports(host):
    """What listens in a host's namespace beside godwitd for its peers."""
    told = host.namespace.run(["ss", "-Hltn"]).stdout.splitlines()
    return [line for line in told if not line.split()[3].endswith(":7790")]


def test_there_and_back(make_cluster):
    cluster = make_cluster(settings=TRUSTING)
    vm = Vm(cluster, "open", disk=True, rate=10, set=16, fill=32)
    vm.boot(cluster.alpha)
    plan = cluster.alpha.godwit("migrate", vm.name, "beta", "--plan", "--transport", "plain").stdout
    assert "warning" in plan and "unencrypted and undigested" in plan, plan
    for source in cluster.hosts:
        move = cluster.migrate(vm, source, "--transport", "plain")
        target = cluster.other(source)
        vm.verify(target)
        assert cluster.running_on(vm) == [target]
        assert move["transport"] == "plain" and "digest" not in move
        assert move["bytes"]["wire"] > 32 << 20, "QEMU's own count"
        assert [check["status"] for check in move["checks"] if check["id"] == "plain-networks"] == [
            "warning", "ok"]
        assert not any(other_ports(host) for host in cluster.hosts)


def test_one_host_does_not_allow_it(cluster):
    """Each one's configuration is needed; the remedy names the host. auto is not held up by it."""
    vm = Vm(cluster, "closed", rate=5, set=16)
    vm.boot(cluster.alpha)
    for lacks, has in (cluster.alpha, cluster.beta), (cluster.beta, cluster.alpha):
        lacks.settings.pop("migration", None)
        has.settings.update(TRUSTING)
        for host in cluster.hosts:
            host.write_config()
            host.restart()
        move = cluster.migrate(vm, cluster.alpha, "--transport", "plain", check=False)
        assert move["exit_status"] != 0 and move["outcome"] == "rolled-back", move
        assert f"plain-networks in godwitd.conf on host '{lacks.name}'" in move["stderr"], move
        assert "on that host and restart godwitd" in move["stderr"], move
        vm.verify(cluster.alpha)
    move = cluster.migrate(vm, cluster.alpha, "--transport", "auto")
    assert move["transport"] in ("lane", "direct")
    vm.verify(cluster.beta)


def test_connection_is_reset(make_cluster):
    """Nothing can be sent again: the guest goes on where it was, and can be moved anew."""
    cluster = make_cluster(settings=TRUSTING)
    vm = Vm(cluster, "cut", rate=5, set=16, fill=64)
    vm.boot(cluster.alpha)
    move_id = cluster.start_move(vm, cluster.alpha, transport="plain",
                                 max_bandwidth_bytes_s=BANDWIDTH)
    wait_for(lambda: cluster.alpha.move(move_id).get("bytes", {}).get("wire", 0) > BANDWIDTH / 2,
             "memory on its way", 30, 0.05)
    killed = cluster.beta.namespace.run(["ss", "-HK", "-t", "state", "established", "sport", "ge",
                                         f":{FIRST_PORT}"])
    assert killed.returncode == 0 and len(killed.stdout.splitlines()) == 1, killed
    cluster.wait_move(cluster.alpha, move_id)
    cluster.wait_move(cluster.beta, move_id)
    move = cluster.alpha.move(move_id)
    assert move["outcome"] == "rolled-back", move
    assert "vm 'cut'" in move["error"]["message"].lower() and "beta" in move["error"]["message"], move
    vm.verify(cluster.alpha)
    assert cluster.running_on(vm) == [cluster.alpha]
    assert not any(other_ports(host) for host in cluster.hosts)
    cluster.migrate(vm, cluster.alpha, "--transport", "plain")
    vm.verify(cluster.beta)
