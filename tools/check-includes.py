#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails on an upward or sideways include between the folders of src/ (docs/architecture.md)."""
import pathlib
import re
import sys

MAY = {
    "base": set(),
    "core": {"base"},
    "ramstream": {"base"},
    "lane": {"base", "ramstream"},
    "store": {"base"},
    "qemu": {"base"},
    "vm": {"base", "qemu", "store"},
    "migrate": {"base", "core", "ramstream", "lane", "store", "qemu", "vm"},
    "fleet": {"base", "core", "ramstream", "lane", "store", "qemu", "vm", "migrate"},
    "api": {"base", "core", "ramstream", "lane", "store", "qemu", "vm", "migrate", "fleet"},
    "cli": {"base", "api"},
    "daemon": {"base", "core", "ramstream", "lane", "store", "qemu", "vm", "migrate", "fleet",
               "api"},
    "warden": set(),
}
# The command may use the API's client, not its server.
CLI_MAY_FROM_API = {"api/client.h"}


def problems(src):
    for path in sorted(src.rglob("*.[ch]")):
        folder = path.relative_to(src).parts[0]
        if folder not in MAY:
            yield f"{path}: folder src/{folder} is not in the plan"
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match:
                continue
            target = match.group(1)
            to = target.split("/")[0]
            if "/" not in target or not (src / target).exists():
                yield f'{path}:{number}: include "{target}" by its path from src/'
            elif to != folder and to not in MAY[folder]:
                yield f"{path}:{number}: src/{folder} must not know src/{to}"
            elif folder == "cli" and to == "api" and target not in CLI_MAY_FROM_API:
                yield f"{path}:{number}: src/cli knows only the API's client"


found = list(problems(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "src")))
print("\n".join(found))
sys.exit(1 if found else 0)
