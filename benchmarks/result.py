"""What a benchmark hands back, and how it is written down."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

RESULTS = Path(__file__).parent / "results"
_VERSIONS = ("podium", "torch", "numpy", "pyzmq", "uvicorn", "msgspec", "uvloop", "httptools", "orjson")


@dataclass(frozen=True, slots=True)
class Bar:
    """One limit and what was measured against it."""

    id: str
    text: str
    value: float | None
    """None: not measured in this run; the notes say why. Such a bar is not met."""
    limit: float
    sense: Literal["at most", "at least"] = "at most"
    """On which side of the limit a value meets the bar."""

    @property
    def met(self) -> bool:
        """Whether the measured value keeps the limit."""
        if self.value is None:
            return False
        return self.value <= self.limit if self.sense == "at most" else self.value >= self.limit


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: a quick run is for orientation on a machine that does other work, and is not written."""

    rounds: int
    seconds: float
    """Of load for each point."""
    quick: bool = False


FULL = Effort(rounds=5, seconds=2.0)
QUICK = Effort(rounds=2, seconds=1.0, quick=True)


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of figures and the bars drawn from them."""

    name: str
    rows: tuple[Mapping[str, object], ...]
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = field(default=())
    command: str = ""
    """What makes it; empty: `make bench` with its name."""

    def write(self) -> Path:
        """Write the result file; returns where."""
        document = {
            "name": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.command or f"make bench NAME={self.name}",
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
            "cpu": cpu(),
            "rows": list(self.rows),
            "bars": [{**asdict(bar), "met": bar.met} for bar in self.bars],
            "notes": list(self.notes),
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def show(self) -> None:
        """Print the rows and the bars."""
        for row in self.rows:
            sys.stdout.write("  " + "  ".join(f"{key}={value}" for key, value in row.items()) + "\n")
        for bar in self.bars:
            sign = "met   " if bar.met else "MISSED"
            value = "not measured" if bar.value is None else f"{bar.value:.3g}"
            sys.stdout.write(f"  {bar.id} {sign} {value} ({bar.sense} {bar.limit:g}): {bar.text}\n")
        for note in self.notes:
            sys.stdout.write(f"  note: {note}\n")


def cpu() -> str:
    """Model name and number of processors."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} × {models[0] if models else platform.machine()}"
