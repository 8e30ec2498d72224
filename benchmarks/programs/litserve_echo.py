"""LitServe: one worker process, batches. `python FILE PORT MAX_BATCH WAIT_S`."""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from fastapi import Request


class Echo(litserve.LitAPI):  # type: ignore[misc]
    """y = 2x over the whole batch."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: Request) -> Any:
        """JSON in."""
        return np.array(request["x"], dtype=np.float32)

    def predict(self, x: Any) -> Any:
        """A batch."""
        return x * 2

    def batch(self, inputs: Any) -> Any:
        """Stacks requests."""
        return np.stack(inputs)

    def unbatch(self, output: Any) -> Any:
        """Takes them apart."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """JSON out."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Echo(max_batch_size=int(sys.argv[2]), batch_timeout=float(sys.argv[3]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
