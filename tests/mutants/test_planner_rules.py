"""A rule that can be taken away without a test failing is a rule that nothing holds. `make fuzz` runs this."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.mutants.planner_rules import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule.replace(" ", "-"))
def test_without_the_rule_its_test_fails(mutant: Mutant, tmp_path: Path) -> None:
    operator = tmp_path / "operator"
    shutil.copytree(ROOT / "operator", operator, ignore=shutil.ignore_patterns("__pycache__"))
    module = operator / "podium_operator" / "rollout" / f"{mutant.module}.py"
    source = module.read_text()
    assert source.count(mutant.text) == 1, (
        "the mutant names text that is not there, or not only once: bring it up to date"
    )
    module.write_text(source.replace(mutant.text, mutant.without))
    paths = os.pathsep.join(map(str, (operator, ROOT / "crds", ROOT / "runtime")))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, f"{mutant.test} passes without the rule:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
