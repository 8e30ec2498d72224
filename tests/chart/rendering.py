"""Renders the chart with the real helm. `python -m tests.chart.rendering` writes the golden files anew."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from e2e.clusters.paths import REPOSITORY
from e2e.clusters.toolchain import binary

CHART = REPOSITORY / "charts" / "podium"
GOLDEN = Path(__file__).parent / "golden"
VALUES = Path(__file__).parent / "values"
KUBE_VERSION = "1.31.0"
"""The oldest Kubernetes that the chart installs on."""
CASES = ("default", "everything", "namespaced")
"""Each is values/<case>.yaml, rendered to golden/<case>.yaml."""

Manifest = dict[str, Any]


class RefusedError(Exception):
    """helm said no; the message is what it said."""


def helm(*arguments: str) -> str:
    """Standard output. Raises RefusedError."""
    done = subprocess.run(
        [binary("helm"), *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RefusedError(done.stdout + done.stderr)
    return done.stdout


def template(*arguments: str) -> str:
    """The chart as it would be applied to namespace podium-system."""
    release = ("podium", str(CHART), "--namespace=podium-system", f"--kube-version={KUBE_VERSION}")
    return helm("template", *release, *arguments)


def case(name: str) -> str:
    """The chart with values/<name>.yaml. CRDs are left out: they are compared with crds/ byte for byte instead."""
    return template(f"--values={VALUES / name}.yaml", "--set=crds.enabled=false")


def manifests(*pairs: str) -> list[Manifest]:
    """Objects of the chart with `key=value` pairs set."""
    text = template(*(f"--set={pair}" for pair in pairs))
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(found: list[Manifest], kind: str) -> list[Manifest]:
    """Those of a kind."""
    return [each for each in found if each["kind"] == kind]


def container(deployment: Mapping[str, Any]) -> Manifest:
    """The operator's container."""
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Manifest = only
    return found


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in CASES:
        (GOLDEN / f"{each}.yaml").write_text(case(each))
