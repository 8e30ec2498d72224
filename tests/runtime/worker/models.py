"""Models as their authors write them, and groups of workers that run them."""

import asyncio
import itertools
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.workers.pod import PodResources
from podium_crds.assignment import Artifact, Batching, EngineKind, EngineSpec, Member

DOUBLE = """
    class Model:
        def infer(self, inputs):
            return {"y": inputs["x"] * 2}
"""

CONTROLLED = """
    import os, signal, time
    from pathlib import Path

    class Model:
        '''Does what its input says: 1 works, 2 blocks until the file `go` is there, 3 dies, 4 raises, 5 dies once.'''

        def load(self, ctx):
            self.here = Path(ctx.parameters["folder"])

        def infer(self, inputs):
            x = inputs["x"]
            with (self.here / "begun").open("a") as log:
                log.write(f"{os.getpid()} {len(x)}\\n")
            if (x == 2).any():
                while not (self.here / "go").exists():
                    time.sleep(0.005)
            if (x == 3).any():
                os.kill(os.getpid(), signal.SIGKILL)
            if (x == 4).any():
                raise ValueError("four is right out")
            if (x == 5).any() and not (self.here / "died").exists():
                (self.here / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"y": x * 2}
"""
WORK, BLOCK, DIE, RAISE, DIE_ONCE = 1, 2, 3, 4, 5


class GroupMaker:
    """Starts groups from source text; `stop` ends all of them."""

    def __init__(self, pod: PodResources, folder: Path) -> None:
        self.pod = pod
        self.folder = folder
        self.groups: list[WorkerGroup] = []
        self._names = itertools.count()

    def member(self, **changes: Any) -> Member:
        """A Python member with entrypoint `model:Model`; keys `engine` and `batching` take their own changes."""
        engine = {"kind": EngineKind.PYTHON, "entrypoint": "model:Model", **changes.pop("engine", {})}
        engine["parameters"] = {"folder": str(self.folder), **engine.get("parameters", {})}
        batching = Batching(**changes.pop("batching", {}))
        fields = {"name": "m", "load_hash": "h", "version": "1", "artifact": Artifact(), **changes}
        return Member(engine=EngineSpec(**engine), batching=batching, **fields)

    def artifact(self, source: str, **files: str) -> Path:
        """A directory with `model.py`, and more files by stem."""
        path = self.folder / f"artifact-{next(self._names)}"
        path.mkdir()
        for stem, text in {"model": source, **files}.items():
            (path / f"{stem}.py").write_text(textwrap.dedent(text))
        return path

    async def start(self, source: str = DOUBLE, **changes: Any) -> WorkerGroup:
        """A loaded group. Raises WorkerLoadError."""
        group = await WorkerGroup.start(self.member(**changes), self.artifact(source), pod=self.pod)
        self.groups.append(group)
        return group

    def go(self) -> None:
        """Lets blocked models of CONTROLLED continue."""
        (self.folder / "go").touch()

    def begun(self) -> list[tuple[int, int]]:
        """(pid, rows) of every forward that CONTROLLED began."""
        log = self.folder / "begun"
        if not log.exists():
            return []
        return [(int(pid), int(rows)) for pid, rows in (line.split() for line in log.read_text().splitlines())]

    async def stop(self) -> None:
        """Ends every group."""
        self.go()
        for group in self.groups:
            await group.stop(1.0)


def column(*values: float) -> NDArray[np.float32]:
    """One row per value."""
    return np.array(values, np.float32).reshape(-1, 1)


async def ask(group: WorkerGroup, array: NDArray[Any], *, within_s: float = 20.0, name: str = "x") -> NDArray[Any]:
    """Output `y` for input `x`, copied and released."""
    deadline = asyncio.get_running_loop().time() + within_s
    inputs = {name: Tensor.from_array(array)}
    outputs = await group.infer(inputs, request_id="test", deadline=deadline)
    answer = outputs["y"].array().copy()
    for tensor in outputs.values():
        tensor.release()
    return answer
