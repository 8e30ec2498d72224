"""Intra-op threads of numeric libraries that can change them after their import."""

import sys


def set_intra_op_threads(count: int) -> None:
    """From the next operation on. Only torch can; for others the number of their start stays."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
