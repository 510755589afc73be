#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails on a C file over 1,000 lines, a function over 100 lines or with more than 6 parameters."""
import json
import pathlib
import subprocess
import sys

MAX_FILE_LINES = 1000
MAX_FUNCTION_LINES = 100
MAX_PARAMETERS = 6
# Their parameters are a library's choice.
CALLBACKS = {"request_received"}  # libmicrohttpd's access handler
FOLDERS = sys.argv[1:] or ["src", "tests"]


def problems(files):
    for path in files:
        n_lines = len(path.read_text().splitlines())
        if n_lines > MAX_FILE_LINES:
            yield f"{path}: {n_lines} lines, {MAX_FILE_LINES} allowed"
    tags = subprocess.run(
        ["ctags", "--languages=C", "--kinds-C=f", "--fields=+neS", "--output-format=json", "-f-",
         "-L-"], input="\n".join(map(str, files)), capture_output=True, text=True, check=True)
    for tag in map(json.loads, tags.stdout.splitlines()):
        where = f"{tag['path']}:{tag['line']}: {tag['name']}"
        n_lines = tag.get("end", tag["line"]) - tag["line"] + 1
        if n_lines > MAX_FUNCTION_LINES:
            yield f"{where}: {n_lines} lines, {MAX_FUNCTION_LINES} allowed"
        # A parameter that is a function pointer has its own commas in brackets.
        depth, n_parameters = 0, 1
        for char in tag.get("signature", "()")[1:-1]:
            depth += (char == "(") - (char == ")")
            n_parameters += char == "," and depth == 0
        if n_parameters > MAX_PARAMETERS and tag["name"] not in CALLBACKS:
            yield f"{where}: {n_parameters} parameters, {MAX_PARAMETERS} allowed"


found = list(problems(sorted(path for folder in FOLDERS
                             for path in pathlib.Path(folder).rglob("*.[ch]"))))
print("\n".join(found))
sys.exit(1 if found else 0)
