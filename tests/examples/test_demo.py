"""What the demo decides without a cluster, and what it says where there is none."""

import subprocess
import sys

import pytest
from demo.similarity import SENTENCES, matrix, table, verdict
from e2e.clusters.paths import REPOSITORY


def test_pairs_that_mean_the_same_must_be_closer_than_every_other_pair() -> None:
    axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    found = verdict(matrix([axis for axis in axes for _ in range(2)]))
    assert (found.related, found.unrelated, found.separated) == (1.0, 0.0, True)


def test_one_unrelated_pair_that_is_closer_is_enough_to_refuse() -> None:
    rows = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [-0.8, -0.6]]
    assert not verdict(matrix(rows)).separated


def test_the_table_has_a_row_and_a_column_for_each_sentence() -> None:
    lines = table(SENTENCES, matrix([[1.0]] * len(SENTENCES))).splitlines()
    assert len(lines) == 1 + len(SENTENCES)
    assert all(line.count("1.00") == len(SENTENCES) for line in lines[1:])


@pytest.mark.parametrize("command", ["up", "down"])
def test_where_no_cluster_can_be_had_it_says_why_and_names_the_way_without_one(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", command],
        cwd=REPOSITORY,
        env={"PODIUM_CLUSTER": "existing", "PODIUM_KUBECONFIG": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no file /nowhere" in done.stderr
    assert "podium serve -f" in done.stderr


def test_an_unknown_command_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "sideways"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
