"""Three deployments of Ray Serve, one behind the other: the tensor goes from one to the next as a NumPy array."""

import logging
import signal
import sys
from typing import Any

import numpy as np
import ray  # type: ignore[import-not-found]
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

Floats = NDArray[np.float32]


class Pass:
    """Gives what it gets."""

    def __call__(self, x: Floats) -> Floats:
        return x


class Ingress:
    """FP32 bytes in and out; `GET` says that it is up."""

    def __init__(self, *steps: Any) -> None:
        self._steps = steps

    async def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            return Response(b"ok")
        value: Any = np.frombuffer(await request.body(), np.float32)
        for step in self._steps:
            value = step.remote(value)  # takes what is not there yet
        return Response((await value).tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, logging_level=logging.ERROR, configure_logging=True)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    quiet = serve.deployment(logging_config={"enable_access_log": False})
    steps = [quiet(Pass).options(name=f"pass{number}").bind() for number in range(3)]
    serve.run(quiet(Ingress).bind(*steps))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()
