"""Forge on one event loop (its own command starts two and then answers nothing). `python FILE PORT WINDOW_MS MAX`."""

import asyncio
import sys
from typing import Any

import torch
import uvicorn
from forge.config import ModelConfig  # type: ignore[import-not-found]
from forge.registry import ModelRegistry  # type: ignore[import-not-found]
from forge.server import create_app  # type: ignore[import-not-found]


class Double(torch.nn.Module):  # type: ignore[misc]
    """y = 2x."""

    def forward(self, x: Any) -> Any:
        """A batch."""
        return x * 2


async def main() -> None:
    """Serves until the process is ended."""
    registry = ModelRegistry()
    config = ModelConfig(batch_window_ms=float(sys.argv[2]), max_batch_size=int(sys.argv[3]), num_threads=1)
    await registry.register("echo", Double(), config)
    app = create_app(registry)
    await uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1]), access_log=False, log_level="error")).serve()


asyncio.run(main())
