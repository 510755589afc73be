#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo: two hosts in network namespaces, a busy guest, a live move there and back, a report.

Writes build/demo/report.json and keeps logs in build/demo. Everything else it made is gone at the
end, also after Ctrl-C or a failure.
"""
import json
import pathlib
import shutil
import signal
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[1]
OUT = TOP / "build/demo"
sys.path.insert(0, str(TOP / "tests/scenario"))

import net  # noqa: E402
from godwit import Cluster, Vm, keep_logs  # noqa: E402

CAUSES = [("page", "pages with content"), ("delta", "changes in pages"),
          ("same", "unchanged pages"), ("equal", "equal pages"),
          ("reference", "pages on the disk"), ("zero", "zero pages"), ("opaque", "device state"),
          ("control", "control"), ("overhead", "framing and TLS"), ("resent", "sent again")]
# Where the link is fast and cores are many, auto would show less.
OPTIONS = ["--transport", "lane"]


def size(n_bytes):
    return f"{n_bytes / 2**20:.1f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.1f} KiB"


def move(cluster, vm, source):
    """One live move with its progress on this terminal; returns the row for the report."""
    target = cluster.other(source)
    print(f"\n{source.name}# godwit migrate {vm.name} {target.name} {' '.join(OPTIONS)}", flush=True)
    n_before = len(vm.observer.switches)
    done = source.namespace.run(source.command("migrate", vm.name, target.name, *OPTIONS),
                                capture_output=False, timeout=200)
    if done.returncode == 130:  # Ctrl-C reaches the command as well
        raise KeyboardInterrupt
    if done.returncode:
        raise RuntimeError(f"godwit migrate ended with status {done.returncode}")
    vm.observer.wait_beating(cluster.side(target))
    facts = vm.verify(target)
    record = source.moves()[0]
    switch, = vm.observer.switches[n_before:]
    print(f"The guest on {target.name} verified its {facts['pass_pages']} pages and "
          f"{facts['pass_records']} disk records: nothing is damaged.")
    return {"from": source.name, "to": target.name, "verified": True,
            "total_ms": record["total_ms"], "downtime_qemu_ms": record["downtime_qemu_ms"],
            "downtime_observed_ms": round(switch["downtime_us"] / 1000, 1),
            "wire_bytes": record["bytes"]["wire"], "bytes": record["bytes"],
            "rounds": record["rounds"], "accel": record["accel"],
            "qemu_version": record["source_qemu"]}


def show(moves):
    print(f"\n{'':24}" + "".join(f"{row['from'] + ' to ' + row['to']:>18}" for row in moves))
    rows = [("total time", lambda row: f"{row['total_ms'] / 1000:.1f} s"),
            ("downtime, QEMU's figure", lambda row: f"{row['downtime_qemu_ms']} ms"),
            ("downtime, from outside", lambda row: f"{row['downtime_observed_ms']:.0f} ms"),
            ("rounds", lambda row: str(row["rounds"])),
            ("sent", lambda row: size(row["bytes"]["wire"]))]
    rows += [(f"  {name}", lambda row, cause=cause: size(row["bytes"][cause]))
             for cause, name in CAUSES]
    for name, text in rows:
        print(f"{name:24}" + "".join(f"{text(row):>18}" for row in moves))
    print(f"\nguest verified (QEMU {moves[0]['qemu_version']}, {moves[0]['accel']})")


def run(folder):
    print("Starting two hosts, alpha and beta: each a godwitd in a network namespace of its own",
          flush=True)
    cluster = Cluster(folder, settings={"qemu": {"accel": "auto"}, "log": {"level": "info"}})
    try:
        print(f"Accelerator: {cluster.alpha.api('GET', '/host')['accel_reason']}")
        print("Booting a guest on alpha: Debian's kernel, 512 MiB, 2 vCPUs, writing 20 MB/s",
              flush=True)
        vm = Vm(cluster, "demo", memory="512 MiB", disk=True, rate=20, set=64, fill=128)
        vm.boot(cluster.alpha)
        return [move(cluster, vm, cluster.alpha), move(cluster, vm, cluster.beta)]
    finally:
        cluster.close()


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    net.sweep()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gw-", dir="/var/tmp"))
    folder.chmod(0o755)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    report = {"status": "failed", "verified": False, "moves": []}
    try:
        moves = run(folder)
        report = {"status": "passed", "verified": all(row["verified"] for row in moves),
                  "moves": moves, "accel": moves[0]["accel"],
                  "qemu_version": moves[0]["qemu_version"]}
        show(moves)
    except KeyboardInterrupt:
        report["error"] = "interrupted"
        print("\ninterrupted; everything is cleaned up", file=sys.stderr)
    except Exception as error:
        report["error"] = str(error)
        print(f"\nThe demo failed: {error}\nLogs: build/demo", file=sys.stderr)
    finally:
        keep_logs(folder, OUT)
        shutil.rmtree(folder, ignore_errors=True)
        (OUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["status"] == "passed" else 1


sys.exit(main())
