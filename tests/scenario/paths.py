# SPDX-License-Identifier: Apache-2.0
"""Where things are. GODWIT_BUILD names the meson build folder under test (default build/plain)."""
import os
import pathlib

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = (TOP / os.environ.get("GODWIT_BUILD", "build/plain")).resolve()
GUEST = TOP / "build/guest"
LOGS = TOP / "build/scenario"
