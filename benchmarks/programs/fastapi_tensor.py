"""A step as a service of its own: FastAPI, the model in process. `/raw` takes and gives FP32 bytes, `/json` JSON."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI()


class Tensor(BaseModel):
    """Numbers of one tensor."""

    x: list[float]


@app.get("/")
async def health() -> str:
    """Up."""
    return "ok"


@app.post("/raw")
async def raw(request: Request) -> Response:
    """The tensor as it came."""
    x = np.frombuffer(await request.body(), np.float32)
    return Response(x.tobytes(), media_type="application/octet-stream")


@app.post("/json")
async def plain(tensor: Tensor) -> Tensor:
    """The tensor as it came."""
    return Tensor(x=np.array(tensor.x, dtype=np.float32).tolist())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error", timeout_keep_alive=600)
