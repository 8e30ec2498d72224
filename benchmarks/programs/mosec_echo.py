"""mosec: one worker; JSON by its own default, or by orjson with CODEC=orjson. `python FILE PORT`.

MAX_BATCH and WAIT_MS come in the environment, since its spawned worker imports this file without the arguments.
"""

import os
import sys
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker  # type: ignore[import-not-found]


class Echo(Worker):  # type: ignore[misc]
    """y = 2x over the whole batch, with mosec's own JSON."""

    def forward(self, data: Any) -> Any:
        """A batch."""
        y = np.array([one["x"] for one in data], dtype=np.float32) * 2
        return [{"y": row} for row in y.tolist()]


class FastEcho(Worker):  # type: ignore[misc]
    """The same, with orjson."""

    def deserialize(self, data: bytes) -> Any:
        """JSON in."""
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        """JSON out."""
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:
        """A batch."""
        y = np.array([one["x"] for one in data], dtype=np.float32) * 2
        return [{"y": row} for row in y]


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", sys.argv[1], "--log-level", "error"]
    max_batch, wait_ms = int(os.environ["MAX_BATCH"]), int(os.environ["WAIT_MS"])
    server = Server()
    server.append_worker(
        FastEcho if os.environ["CODEC"] == "orjson" else Echo, num=1, max_batch_size=max_batch, max_wait_time=wait_ms
    )
    server.run()
