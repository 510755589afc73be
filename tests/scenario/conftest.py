# SPDX-License-Identifier: Apache-2.0
"""What all scenario tests share: a short-lived folder per test, its logs kept in build/scenario."""
import pathlib
import re
import shutil
import signal
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import net  # noqa: E402
from godwit import Cluster, keep_logs  # noqa: E402
from paths import LOGS  # noqa: E402


@pytest.fixture
def folder(request):
    """Empty, readable for QEMU's user, and with a short path: socket paths end at 107 bytes.

    Not below the project, which may be in a place that only root can enter; not in /tmp, which
    may be a tmpfs, where disks cannot be opened without a cache.
    """
    path = pathlib.Path(tempfile.mkdtemp(prefix="gw-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")
    keep_logs(path, LOGS / name)
    shutil.rmtree(path, ignore_errors=True)


def pytest_sessionstart(session):
    # `make test` ends a run that takes too long with SIGTERM: clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    net.sweep()


@pytest.fixture
def make_cluster(folder):
    """Cluster(...) with given link and settings; closed at the end, whatever happens."""
    made = []

    def make(*arguments, **options):
        made.append(Cluster(folder, *arguments, **options))
        return made[-1]
    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster):
    return make_cluster()
