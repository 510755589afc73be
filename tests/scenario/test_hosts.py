# SPDX-License-Identifier: Apache-2.0
"""What hosts are to each other: trust, refusals, checks before a move, restarts under guests."""
import json
import subprocess

import pytest

from godwit import Host, Vm, join
from guest import wait_for
from net import ip


def told(host):
    """`godwit host list`: name -> row."""
    rows = json.loads(host.godwit("host", "list", "--json").stdout)
    return {row["name"]: row for row in rows}


def test_hosts_see_each_other(cluster):
    for host, other in (cluster.alpha, "beta"), (cluster.beta, "alpha"):
        row = told(host)[other]
        assert row["reachable"] and row["accel"] == "tcg" and row["qemu_version"]
        assert row["memory_available_bytes"] > 0


def test_unknown_authority_is_refused(cluster):
    """beta's certificate is of another CA: refused, and both logs say why."""
    cluster.beta.stop()
    subprocess.run(["rm", "-r", cluster.beta.state / "pki"], check=True)
    cluster.beta.start()
    cluster.beta.godwit("init")
    vm = Vm(cluster, "guest", memory="128 MiB", rate=0, set=4)
    vm.boot(cluster.alpha)
    row = told(cluster.alpha)["beta"]
    assert not row["reachable"] and row["error"]["code"] == "refused", row
    done = cluster.alpha.godwit("migrate", "guest", "beta", check=False)
    assert done.returncode != 0 and "certificate" in done.stderr.lower(), done.stderr
    assert "certificate" in cluster.beta.tail(50).lower()
    assert cluster.running_on(vm) == [cluster.alpha]


def test_expired_certificate_is_refused(cluster):
    pki = cluster.beta.state / "pki"
    template = cluster.folder / "template.conf"
    template.write_text('cn = "beta"\ndns_name = "beta"\nactivation_date = "2020-01-01 00:00:00"\n'
                        'expiration_date = "2020-02-01 00:00:00"\ntls_www_server\ntls_www_client\n'
                        "signing_key\n")
    subprocess.run(["certtool", "--generate-certificate", "--template", template,
                    "--load-privkey", pki / "host.key",
                    "--load-ca-certificate", cluster.alpha.state / "pki/ca.crt",
                    "--load-ca-privkey", cluster.alpha.state / "pki/ca.key",
                    "--outfile", pki / "host.crt"], check=True, capture_output=True)
    cluster.beta.kill()
    cluster.beta.process = None
    try:
        cluster.beta.start()
    except AssertionError:
        pass  # refusing to start would be a clear message as well
    row = told(cluster.alpha)["beta"]
    assert not row["reachable"]
    assert "expired" in (row["error"]["message"] + cluster.beta.tail(50)).lower(), row


def test_host_that_was_not_added_is_refused(cluster):
    """A certificate of the fleet alone does not open the door."""
    cluster.beta.godwit("host", "remove", "alpha")
    row = told(cluster.alpha)["beta"]
    assert not row["reachable"] and row["error"]["code"] == "refused", row
    assert "alpha" in cluster.beta.tail(50)


def checks(cluster, name):
    """`godwit migrate --plan`: check id -> row."""
    done = cluster.alpha.godwit("migrate", name, "beta", "--plan", "--json", check=False)
    plan = json.loads(done.stdout)
    assert plan["ok"] == (done.returncode == 0)
    return {check["id"]: check for check in plan["checks"]}


def test_plan_tells_all_and_touches_nothing(cluster):
    vm = Vm(cluster, "guest", memory="128 MiB", rate=0, set=4, definition=(
        "[nic lan]\nmode = bridge\nbridge = br0\n"))
    ip("-n", cluster.alpha.namespace.name, "link", "add", "br0", "type", "bridge")
    vm.boot(cluster.alpha)
    rows = checks(cluster, "guest")
    errors = [row for row in rows.values() if row["status"] == "error"]
    assert len(errors) == 1 and "br0" in errors[0]["message"] and errors[0]["remedy"], errors
    assert len(rows) >= 10
    assert cluster.alpha.moves() == [] and cluster.beta.moves() == [] and not cluster.beta.vms()
    done = cluster.alpha.godwit("migrate", "guest", "beta", check=False)
    assert done.returncode != 0 and "br0" in done.stderr
    ip("-n", cluster.beta.namespace.name, "link", "add", "br0", "type", "bridge")
    assert not [row for row in checks(cluster, "guest").values() if row["status"] == "error"]
    cluster.migrate(vm, cluster.alpha)
    vm.verify(cluster.beta)


def test_plan_with_the_target_gone(cluster):
    vm = Vm(cluster, "guest", memory="128 MiB", rate=0, set=4)
    vm.boot(cluster.alpha)
    cluster.beta.stop()
    errors = [row for row in checks(cluster, "guest").values() if row["status"] == "error"]
    assert errors and errors[0]["remedy"]


def test_daemon_restarts_under_a_running_guest(cluster):
    vm = Vm(cluster, "guest", rate=5, set=16)
    vm.boot(cluster.alpha)
    pid = cluster.alpha.qemu_pid("guest")
    cluster.alpha.restart()
    assert cluster.alpha.vm("guest")["state"] == "running"
    cluster.alpha.kill()
    vm.observer.wait_beating(0)
    cluster.alpha.start()
    assert cluster.alpha.vm("guest")["state"] == "running"
    assert cluster.alpha.qemu_pid("guest") == pid
    vm.verify(cluster.alpha)
    cluster.migrate(vm, cluster.alpha)
    vm.verify(cluster.beta)


def test_guest_that_stops_while_the_daemon_is_away(cluster):
    vm = Vm(cluster, "guest", rate=5, set=16)
    vm.boot(cluster.alpha)
    cluster.alpha.kill()
    vm.witness(cluster.alpha).ask("poweroff")
    wait_for(lambda: cluster.alpha.qemu_pid("guest") is None, "QEMU's end")
    cluster.alpha.start()
    assert cluster.alpha.vm("guest")["state"] == "stopped"
    cluster.alpha.godwit("vm", "start", "guest")
    vm.observer.wait(lambda: any(what == "restarted" for _, what, _ in vm.observer.errors),
                     what="a new boot")


def test_orderly_stop_presses_the_power_button(cluster):
    vm = Vm(cluster, "guest", rate=5, set=16)
    vm.boot(cluster.alpha)
    cluster.alpha.godwit("vm", "stop", "guest")
    assert cluster.alpha.vm("guest")["state"] == "stopped"
    assert cluster.alpha.qemu_pid("guest") is None
    assert "power off" in cluster.alpha.console_log("guest").read_text()
