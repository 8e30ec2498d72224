"""A model that stops for ever at a point of the protocol that a file names, so that it can be killed right there."""

from pathlib import Path

STOPS = """
    import os
    import time
    from pathlib import Path

    from podium.ipc.channel import WorkerChannel

    send = WorkerChannel.send

    class Model:
        def load(self, ctx):
            self.ctx = ctx
            self.here = Path(ctx.parameters["folder"])
            def watched(channel, message, payloads=()):
                self.stop(f"before {type(message).__name__}")
                send(channel, message, payloads)
                self.stop(f"after {type(message).__name__}")
            WorkerChannel.send = watched
            self.stop("load")

        def infer(self, inputs):
            x = inputs["x"]
            with (self.here / "begun").open("a") as log:
                log.write(f"{int(x[0, 0])}\\n")
            self.stop("infer")
            y = self.ctx.output("y", x.shape, "float32")
            half = x.shape[1] // 2
            y[:, :half] = x[:, :half] * 2
            self.stop("half written")
            y[:, half:] = x[:, half:] * 2
            return {"y": y}

        def unload(self):
            self.stop("unload")

        def stop(self, point):
            '''For ever, if the file `stop at` names this point; only the first process that comes by.'''
            wanted = self.here / "stop at"
            try:
                if wanted.read_text() != point:
                    return
                wanted.rename(self.here / f"taken {os.getpid()}")
            except FileNotFoundError:
                return
            (self.here / "new").write_text(str(os.getpid()))
            (self.here / "new").rename(self.here / "stopped")
            while True:
                time.sleep(60)
"""


def stop_at(folder: Path, point: str) -> None:
    """From now on the model of STOPS stops there, once."""
    (folder / "new").write_text(point)
    (folder / "new").rename(folder / "stop at")


def stopped(folder: Path) -> int | None:
    """Pid of the process that has stopped."""
    path = folder / "stopped"
    return int(path.read_text()) if path.exists() else None


def begun(folder: Path) -> list[int]:
    """First value of every batch that was begun, in order."""
    path = folder / "begun"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []
