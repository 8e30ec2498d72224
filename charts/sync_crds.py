"""Copies the generated CRDs into the chart, which can read only what lies in its own folder.

`python charts/sync_crds.py` writes them; `--check` changes nothing and exits 1 where they differ.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "crds"
CHART = ROOT / "charts" / "podium" / "files" / "crds"


def differences() -> list[str]:
    """Names of files that are missing in the chart, differ there, or are there only."""
    generated = {path.name: path.read_bytes() for path in GENERATED.glob("*.yaml")}
    copied = {path.name: path.read_bytes() for path in CHART.glob("*.yaml")}
    return sorted(name for name in generated.keys() | copied.keys() if generated.get(name) != copied.get(name))


def copy() -> None:
    """Makes the chart's folder equal to the generated one."""
    CHART.mkdir(parents=True, exist_ok=True)
    for name in differences():
        source, target = GENERATED / name, CHART / name
        if source.exists():
            target.write_bytes(source.read_bytes())
        else:
            target.unlink()


def main(arguments: list[str]) -> int:
    """Exit code of the command."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python charts/sync_crds.py [--check]\n")
        return 2
    if not list(GENERATED.glob("*.yaml")):
        sys.stderr.write(f"no generated CRDs in {GENERATED}: run python -m podium_crds.generate first\n")
        return 1
    if not arguments:
        copy()
        return 0
    found = differences()
    if found:
        sys.stderr.write(f"the chart's copy is not what is generated ({', '.join(found)}): run make crds\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
