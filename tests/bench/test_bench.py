# SPDX-License-Identifier: Apache-2.0
"""The bench's arithmetic: statistics, plans, targets, the floor, memory maps."""
import io
import pathlib
import sys
import xml.etree.ElementTree as xml

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "scenario")]

import chart  # noqa: E402
import floor  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402
import sample  # noqa: E402
import stats  # noqa: E402
import targets  # noqa: E402


def run(system="godwit", config="lane", **figures):
    return {"part": "compare", "link": "100mbit", "guest": "idle", "mem_mb": 1024, "system": system,
            "config": config, "status": "completed", "verified": True, "build": "b",
            "total_ms": 1000, "wire_bytes": 1000000, "downtime_observed_ms": 100, "rounds": 3,
            **figures}


def test_median_and_p90():
    assert stats.median([]) is None
    assert stats.median([3, 1, 2]) == 2
    assert stats.p90(list(range(1, 11))) == 9
    assert stats.p90([7]) == 7
    assert stats.values([{"a": 0}, {"a": None}, {}], "a") == [0]


def test_cells_keep_only_the_newest_build_of_godwit():
    runs = [run(build="old"), run(build="new"), run("qemu", "plain", build="old"),
            run("qemu", "plain", build="new")]
    sizes = {key[5]: len(cell) for key, cell in stats.cells(runs).items()}
    assert sizes == {"lane": 1, "plain": 2}


def test_words_become_groups():
    options = plan.parse(["guest=idle,redis", "link=100mbit", "config=plain,lane,auto", "runs=2"])
    assert options.parts == ["compare"] and options.runs == 2
    found = plan.groups(options, lambda config: config != "auto")
    assert [(group.guest, group.configs) for group in found] == [
        ("idle", ("plain", "lane")), ("redis", ("plain", "lane"))]
    assert len(plan.groups(plan.parse([]), lambda config: True)) == 10 * 2 * (3 * 2 + 3) + 3 * 2 + 2


def test_configurations_that_need_other_hosts_are_apart():
    options = plan.parse(["guest=idle", "link=unshaped", "config=plain,return,trusted,auto"])
    found = plan.groups(options, lambda config: True)
    assert [(group.configs, group.hosts) for group in found] == [
        (("plain", "auto"), {}), (("return",), rig.KEEPING), (("trusted",), rig.TRUSTING)]
    assert set(rig.HOSTS) <= set(rig.GODWIT) and all(
        hosts in ({}, rig.KEEPING, rig.TRUSTING) for hosts in rig.HOSTS.values())
    links = {group.link for group in plan.groups(plan.parse(["compare"]), lambda config: True)
             if "trusted" in group.configs}
    assert links == {"unshaped"}


@pytest.mark.parametrize("word", ["nonsense", "guest=nobody", "runs=many", "size=3", "mem=1G",
                                  "config=lane,", "link="])
def test_bad_words_are_refused(word):
    with pytest.raises(plan.BadWord):
        plan.parse([word])


def test_each_round_begins_with_another_configuration():
    configs = ("a", "b", "c")
    assert [plan.order(configs, i)[0] for i in range(4)] == ["a", "b", "c", "a"]
    assert sorted(plan.order(configs, 1)) == list(configs)


def test_quick_is_small_enough():
    options = plan.parse(["quick"])
    assert options.runs == 1 and not options.floor
    found = plan.groups(options, lambda config: True)
    assert found and plan.estimated_s(found, options) < 450


def test_options_are_looked_up_in_the_help():
    text = ("  --transport=lane|direct     lane (default)\n  --encodings=LIST   x\n"
            "  --no-wait    y\n")
    assert rig.has_option(["--transport=lane", "--encodings=same,zstd"], text)
    assert not rig.has_option(["--transport=auto"], text)
    assert not rig.has_option(["--connections=4"], text)


def test_causes_are_flattened():
    assert rig.flat_causes({"wire": 9, "stream": 20, "zero": 1, "page": {"zstd": 5, "delta": 2}}) == {
        "zero": 1, "page.zstd": 5, "page.delta": 2}


def verdict(runs, words):
    found = [one for one in targets.verdicts(runs) if words in one.what]
    assert len(found) == 1, [one.what for one in targets.verdicts(runs)]
    return found[0]


def test_targets_compare_medians():
    runs = [run(wire_bytes=n) for n in (10, 11, 900)] + [
        run("qemu", "multifd-zstd", wire_bytes=100), run("qemu", "plain", wire_bytes=900)]
    wire = verdict(runs, "wire bytes, MB, beside multifd-zstd")
    assert wire.value == pytest.approx(0.11) and wire.met
    assert verdict(runs, "total time, s, beside multifd-zstd").met is False


def test_a_target_without_its_rival_is_not_judged():
    runs = [run(), run("qemu", "multifd-zstd", status="timeout", total_ms=None, wire_bytes=None)]
    found = verdict(runs, "total time, s, beside multifd-zstd")
    assert found.met is None and "did not finish" in found.note


def test_auto_is_the_contender_if_it_was_run():
    runs = [run(), run(config="auto", total_ms=100), run("qemu", "multifd-zstd")]
    assert verdict(runs, "auto: total time, s, beside multifd-zstd").met


def test_the_best_native_is_the_fastest_that_finished():
    runs = [run(guest="redis", total_ms=200), run("qemu", "plain", guest="redis", total_ms=900),
            run("qemu", "xbzrle", guest="redis", total_ms=1000),
            run("qemu", "multifd", guest="redis", status="timeout", total_ms=None)]
    best = verdict(runs, "total time, s, beside the best native (plain)")
    assert best.value == pytest.approx(200 / 900) and best.met


def test_trusted_is_judged_where_it_was_run():
    runs = [run(config="auto", link="unshaped", total_ms=900),
            run("qemu", "plain", link="unshaped", total_ms=400, downtime_observed_ms=70)]
    assert not any("trusted" in one.what for one in targets.verdicts(runs))
    runs.append(run(config="trusted", link="unshaped", total_ms=410, downtime_observed_ms=60))
    total = verdict(runs, "trusted: total time, s, beside the best native (plain)")
    assert total.value == pytest.approx(1.025) and total.must == 1.05 and total.met and not total.note
    assert verdict(runs, "auto: total time, s, beside").note == "TLS, native without"
    assert verdict(runs, "trusted: observed downtime, ms, beside the best native").met
    assert verdict(runs, "trusted: observed downtime, ms, beside plain").met


def test_use_of_the_link():
    runs = [run(total_ms=1000, wire_bytes=12000000)]
    assert verdict(runs, "E_link").value == pytest.approx(0.96)


def test_bytes_sent_twice():
    runs = [run(part="faults", fault="reset", resent_bytes=20000)]
    assert verdict(runs, "sent twice").met is False
    assert verdict(runs, "completed").met


def test_the_generated_part_is_replaced():
    document = f"a\n{report.BEGIN}\nold\n{report.END}\nb\n"
    assert report.put_between_marks(document, "new") == f"a\n{report.BEGIN}\nnew\n{report.END}\nb\n"
    with pytest.raises(ValueError):
        report.put_between_marks("no marks", "new")


def test_whole_report_of_every_part():
    runs = [run(bytes_by_cause={"page": 5, "zero": 1}), run("qemu", "plain"),
            run(part="ablation", config="no-same"), run(part="endurance", link="unshaped"),
            run(part="outage", link="1gbit", recovery_ms=10),
            run(part="faults", fault="reset", resent_bytes=0)]
    machine = dict.fromkeys(["cores", "cpu", "memory_mib", "kernel", "tcp_congestion_control"], "x")
    text = report.whole({"machine": machine, "runs": runs})
    assert "no-same" in text and "Endurance" in text and "0.00" in text


def test_chart_is_well_formed_and_stacks_up_to_the_wire():
    runs = [run(bytes_by_cause={"page": 600000, "zero": 100000}, f0_bytes=500000),
            run("qemu", "plain", wire_bytes=4000000)]
    found = chart.panels(runs)
    assert sum(n for _, n in chart.stacked(found[0]["rows"][0])) == 1000000
    xml.fromstring(chart.draw(found))
    xml.fromstring(chart.draw([]))


def test_pages_are_split_by_what_the_target_knows(tmp_path):
    pages = [bytes([n]) * floor.PAGE for n in (0, 1, 2, 1, 3, 0)]
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.write_bytes(b"".join(pages))
    disk.write_bytes(pages[2] + pages[0])
    new, known = io.BytesIO(), io.BytesIO()
    counts = floor.split(memory, floor.blocks_of(disk), new, known)
    assert counts == {"pages": 6, "zero": 2, "repeated": 1, "on_disk": 1, "new": 2}
    assert new.getvalue() == pages[1] + pages[4] and known.getvalue() == pages[2]


def test_a_qemus_own_memory_leaves_out_the_guest_and_translated_code():
    smaps = ("7f0000000000-7f0040000000 rw-p 00000000 00:00 0\nRss:  900 kB\n"
             "7f1000000000-7f1000100000 rwxp 00000000 00:00 0\nRss:  70 kB\n"
             "7f2000000000-7f2000001000 r-xp 00000000 fe:00 1234 /usr/bin/qemu\nRss:  4 kB\n"
             "7f3000000000-7f3000100000 rw-p 00000000 00:00 0 [heap]\nRss:  10 kB\n")
    assert sample.own_bytes(smaps, 1 << 30) == 14 * 1024
