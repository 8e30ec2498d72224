"""The status of resources as tables for a terminal. PURE."""

from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from podium_crds.meta import ConditionStatus
from podium_crds.reasons import ConditionType
from podium_crds.status import LoadProgress, RevisionStatus, ShadowStatus
from podium_operator.reconcile.reporting import read_status
from podium_operator.times import parse_time

Manifest = dict[str, Any]

SHOWN = (ConditionType.READY, ConditionType.AVAILABLE, ConditionType.PROGRESSING, ConditionType.UP_TO_DATE)
_COLOURS = {ConditionStatus.TRUE: "green", ConditionStatus.FALSE: "red", ConditionStatus.UNKNOWN: "yellow"}


def described(manifest: Manifest, now: datetime) -> Group:
    """One resource: its conditions, how its rollout stands, and each live revision."""
    status, metadata = read_status(manifest), manifest["metadata"]
    head = Text.assemble((f"{manifest['kind']} ", "dim"), (f"{metadata['namespace']}/{metadata['name']}", "bold"))
    parts: list[Text | Table] = [head]
    for kind in (*SHOWN, ConditionType.DEGRADED):
        condition = status.condition(kind)
        if condition is None:
            continue
        wrong = (kind is ConditionType.DEGRADED) == (condition.status is ConditionStatus.TRUE)
        colour = _COLOURS[condition.status] if kind is not ConditionType.DEGRADED else "red" if wrong else "green"
        if kind is ConditionType.PROGRESSING and condition.status is ConditionStatus.FALSE:
            colour = "green" if condition.reason == "RolloutComplete" else "red"
        line = Text.assemble(f"  {kind:<12}", (f"{condition.status:<8}", colour), f"{condition.reason}")
        parts.append(line.append(f"  {condition.message}", "dim") if condition.message else line)
    if status.strategy is not None and status.strategy.reason:
        parts.append(Text(f"  {'Strategy':<12}{status.strategy.resolved:<8}{status.strategy.reason}", "dim"))
    if status.canary is not None:
        told = f"step {status.canary.step}, {status.canary.weight} % since {_age(status.canary.start_time, now)}"
        parts.append(Text(f"  {'Step':<12}{told}{'; ' if status.canary.analysis else ''}{status.canary.analysis}"))
        if status.canary.shadow is not None:
            parts.append(Text(f"  {'Copies':<12}{_copies(status.canary.shadow)}"))
    parts.append(revisions(status.revisions, now))
    return Group(*parts)


def revisions(rows: tuple[RevisionStatus, ...], now: datetime) -> Table:
    """Each live or recent revision, newest first."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for title in ("  REVISION", "VERSION", "STATE", "TRAFFIC", "READY", "SINCE", "NOTE"):
        table.add_column(title, justify="right" if title in ("TRAFFIC", "READY") else "left")
    for row in rows:
        note = f"{row.last_failure.reason}: {row.last_failure.message}" if row.last_failure else _loaded(row.progress)
        table.add_row(
            f"  {row.name}",
            row.version,
            row.state,
            f"{row.traffic_percent} %",
            f"{row.ready_replicas}/{row.replicas}",
            _age(row.last_transition_time, now),
            Text(note, overflow="ellipsis"),
        )
    return table


def _copies(shadow: ShadowStatus) -> str:
    told = f"{shadow.compared} compared, {shadow.mismatched} differ, {shadow.failed} failed, {shadow.dropped} dropped"
    return f"{told}; {shadow.worst}" if shadow.worst else told


def _loaded(progress: LoadProgress | None) -> str:
    if progress is None:
        return ""
    done = f"{progress.bytes_done / (1 << 20):.0f}"
    return f"{done} of {progress.bytes_total / (1 << 20):.0f} MiB" if progress.bytes_total else f"{done} MiB"


def _age(time: str | None, now: datetime) -> str:
    since = parse_time(time)
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
