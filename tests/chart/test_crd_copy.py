"""The chart carries the CRDs that are generated from the types."""

import subprocess
import sys

from e2e.clusters.paths import REPOSITORY


def test_the_charts_copy_is_what_is_generated() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "charts" / "sync_crds.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
