"""Writes artifact/model.pt2 beside this file: a torch module, exported with a dynamic number of rows.

python examples/exported/prepare.py && podium serve -f examples/exported/exported.yaml
"""

from pathlib import Path

import torch


class Rotate(torch.nn.Module):
    """Points in the plane [rows, 2] -> the same points, a quarter turn on."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = torch.nn.Parameter(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))

    def forward(self, points: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"turned": points @ self.turn}


def main(folder: Path = Path(__file__).parent) -> Path:
    """Returns the file it wrote in `folder`/artifact."""
    rows = torch.export.Dim("rows", min=1, max=4096)
    program = torch.export.export(Rotate().eval(), (torch.zeros(2, 2),), dynamic_shapes={"points": {0: rows}})
    (folder / "artifact").mkdir(exist_ok=True)
    torch.export.save(program, folder / "artifact" / "model.pt2")
    return folder / "artifact" / "model.pt2"


if __name__ == "__main__":
    print(f"written: {main()}")
