# SPDX-License-Identifier: Apache-2.0
"""tools/setup.sh: how it derives the source of backports, and its quick way out."""
import pathlib
import subprocess
import time

import pytest

SETUP = pathlib.Path(__file__).resolve().parents[2] / "tools/setup.sh"

DEB822 = """\
# a comment only, which is no stanza

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

# another one
Enabled: yes
Types: deb deb-src
uris:
 http://mirror.example/debian
 http://other.example/debian
Suites: bookworm
# inside
 bookworm-updates
Components: main non-free-firmware
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----
"""

BACKPORTS = """\
uris:
 http://mirror.example/debian
 http://other.example/debian
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----
Types: deb
Suites: bookworm-backports
Components: main
"""


def call(script):
    return subprocess.run(["bash", "-c", f'source {SETUP}\n{script}'], capture_output=True,
                          text=True, check=True).stdout


@pytest.mark.parametrize("line, wanted", [
    ("deb http://mirror.example/debian bookworm main",
     "deb http://mirror.example/debian bookworm-backports main"),
    ("deb  [arch=amd64 signed-by=/usr/share/keyrings/k.gpg]  http://m/debian  bookworm  main contrib # x",
     "deb  [arch=amd64 signed-by=/usr/share/keyrings/k.gpg]  http://m/debian bookworm-backports main"),
    ("deb\t[ trusted=yes ]\thttp://m/debian\toldstable\tmain",
     "deb\t[ trusted=yes ]\thttp://m/debian bookworm-backports main"),
])
def test_one_line_source(tmp_path, line, wanted):
    path = tmp_path / "sources.list"
    path.write_text(f"# first\n{line}\ndeb http://m/debian-security bookworm-security main\n")
    assert call(f"derive_line {path} 2").strip() == wanted


def test_deb822_source(tmp_path):
    path = tmp_path / "debian.sources"
    path.write_text(DEB822)
    assert call(f"derive_stanza {path} 2") == BACKPORTS


def test_missing_packages():
    assert call("missing_packages dpkg no-such-package-1 bash no-such-package-2").split() == [
        "no-such-package-1", "no-such-package-2"]
    assert call("oldest_qemu=99:1; missing_packages qemu-utils").split() == ["qemu-utils"]


def test_nothing_to_do_is_quick_and_quiet():
    start = time.monotonic()
    done = subprocess.run([SETUP, "all"], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    assert time.monotonic() - start < 1
