# SPDX-License-Identifier: Apache-2.0
"""What a run of the bench is to do, from the words of its command line. Pure."""
import dataclasses

import guests
import native
import rig

REAL_GUESTS = guests.REAL
NATIVE = list(native.NATIVE)
GODWIT = ["auto", "lane", "direct", "unaware", "return", "lane-postcopy"]
GODWIT_ON = {"unshaped": ["trusted"]}  # on other links it is the same as auto
ABLATION = ["lane", *(f"no-{name}" for name in rig.ENCODINGS), "no-encodings", "return"]
ALL_CONFIGS = [*NATIVE, *rig.GODWIT]
LINKS = ["100mbit", "1gbit", "1gbit-lossy", "unshaped"]
FAULTS = ["reset", "outage60"]
PARTS = ["compare", "ablation", "faults", "endurance", "outage"]
WORDS = ["full", "quick", "new", "publish", *PARTS]
OVERHEAD_S = 25  # of a run: start, settling, verification
# For the estimate only: Mbit/s that come through, by link.
RATES = {"100mbit": 95, "1gbit": 900, "1gbit-box": 800, "1gbit-lossy": 40, "unshaped": 2500}


class BadWord(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Group:
    """Cells that share a cluster: their configurations are run in turn."""
    part: str
    link: str
    guest: str
    mem_mb: int
    configs: tuple
    runs: int
    fault: str = None

    @property
    def hosts(self):
        """What its hosts are told, the same for all of its configurations: see apart()."""
        return rig.hosts_of(self.configs[0])


@dataclasses.dataclass
class Options:
    parts: list
    quick: bool
    new: bool
    publish: bool
    given: dict          # key -> list of values, as given
    runs: int
    limit_s: int
    floor: int           # 0: no F0; 2: also of a target that knows nothing
    dwell_s: int         # what a guest stays away before it returns
    moves: int           # endurance
    outages: int         # moves with an outage
    logs: bool           # kept of good moves, too


NUMBERS = {"runs", "limit", "moves", "outages", "dwell", "f0", "logs"}
CHOICES = {"guest": guests.NAMES, "link": list(rig.LINKS), "config": ALL_CONFIGS,
           "fault": FAULTS, "mem": None}


def parse_value(key, text):
    if key in NUMBERS:
        if not text.isdecimal():
            raise BadWord(f"{key}={text}: wanted a number")
        return int(text)
    if key not in CHOICES:
        raise BadWord(f"{key}={text}: keys are {', '.join(sorted(NUMBERS | set(CHOICES)))}")
    values = text.split(",")
    if key == "mem":
        if not all(value.isdecimal() for value in values):
            raise BadWord(f"mem={text}: wanted MiB")
        return [int(value) for value in values]
    for value in values:
        if value not in CHOICES[key]:
            raise BadWord(f"{key}={value}: there are {', '.join(CHOICES[key])}")
    return values


def parse(words):
    """Options from words like: quick | compare guest=idle link=100mbit,1gbit config=plain runs=3"""
    plain, given = set(), {}
    for word in words:
        key, equals, text = word.partition("=")
        if equals:
            given[key] = parse_value(key, text)
        elif word in WORDS:
            plain.add(word)
        else:
            raise BadWord(f"no such word: {word} (words: {', '.join(WORDS)}; or KEY=VALUE)")
    quick = "quick" in plain
    parts = [part for part in PARTS if part in plain]
    if not parts:
        parts = ["faults"] if "fault" in given else ["compare"] if given or quick else PARTS
    return Options(parts=parts, quick=quick, new="new" in plain,
                   publish="publish" in plain, given=given,
                   runs=given.get("runs", 1 if quick else 3), limit_s=given.get("limit", 300),
                   floor=given.get("f0", 0 if quick else 1),
                   dwell_s=given.get("dwell", 20 if quick else 120),
                   moves=given.get("moves", 10 if quick else 50),
                   outages=given.get("outages", 2 if quick else 10),
                   logs=bool(given.get("logs", 0)))


def quick_groups(runs, best):
    """@best: what is put beside QEMU's."""
    return [
        Group("compare", "1gbit", "idle", 1024, ("plain", "multifd-zstd", best), runs),
        Group("compare", "100mbit", "idle", 1024, ("multifd-zstd", best, "return"), runs),
        Group("compare", "unshaped", "writer-20-64", 1024, ("plain", "multifd-zstd", best, "direct"),
              runs),
    ]


def groups(options, possible):
    """@possible: says of a configuration of Godwit whether this build has it."""
    given = options.given

    def usable(configs):
        return tuple(config for config in configs if config in NATIVE or possible(config))

    def product(part, links, named, sizes, configs, fault=None):
        more = GODWIT_ON if part == "compare" else {}
        return [Group(part, link, guest, mem,
                      usable(given.get("config", configs + more.get(link, []))), options.runs, fault)
                for link in given.get("link", links) for guest in given.get("guest", named)
                for mem in given.get("mem", sizes)]
    found = []
    if "compare" in options.parts:
        if options.quick and not given.keys() & CHOICES.keys():
            found += [dataclasses.replace(group, configs=usable(group.configs))
                      for group in quick_groups(options.runs,
                                                   "auto" if possible("auto") else "lane")]
        else:
            narrowed = given.keys() & CHOICES.keys()
            found += product("compare", LINKS, REAL_GUESTS if narrowed else guests.NAMES,
                             [1024] if narrowed else [1024, 2048], NATIVE + GODWIT)
    if "ablation" in options.parts:
        found += product("ablation", ["100mbit"], REAL_GUESTS, [1024], ABLATION)
    if "faults" in options.parts:
        for fault in given.get("fault", FAULTS):
            found += product("faults", ["100mbit"], ["idle"], [1024], ["plain", "lane"], fault)
    return [part for group in found for part in apart(group)]


def apart(group):
    """Those that need other hosts than the rest have a cluster of their own."""
    for hosts in {}, rig.KEEPING, rig.TRUSTING:
        configs = tuple(config for config in group.configs if rig.hosts_of(config) == hosts)
        if configs:
            yield dataclasses.replace(group, configs=configs)


def order(configs, i_round):
    """Each round begins with another configuration."""
    at = i_round % len(configs) if configs else 0
    return list(configs[at:] + configs[:at])


def estimated_s(found, options):
    """Roughly how long these groups take if nothing was measured yet."""
    total = 0
    for group in found:
        full_s = min(options.limit_s, 8 * group.mem_mb * 0.95 / RATES[group.link])
        for config in group.configs:
            share = 1.0 if config in ("plain", "xbzrle", "multifd", "postcopy", "direct") else 0.4
            twice = options.dwell_s + OVERHEAD_S if config in rig.RETURNS else 0
            outage = 70 if group.fault == "outage60" else 0
            total += group.runs * (OVERHEAD_S + full_s * share + twice + outage)
    return total
