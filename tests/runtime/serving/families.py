"""Who lives, and under whom."""

from podium.telemetry.processes import process_table


def parents() -> dict[int, int]:
    """Pid → parent's pid, of every process that has not ended."""
    return {seen.pid: seen.parent for seen in process_table().values() if seen.state != "Z"}


def family(pid: int) -> set[int]:
    """A process and everything under it."""
    tree, known = parents(), {pid}
    while more := {child for child, parent in tree.items() if parent in known} - known:
        known |= more
    return known
