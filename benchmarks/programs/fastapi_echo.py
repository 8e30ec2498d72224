"""FastAPI with pydantic, in process: how most people serve a model."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Request(BaseModel):
    """The input."""

    x: list[float]


class Answer(BaseModel):
    """The output."""

    y: list[float]


@app.get("/")
async def health() -> str:
    """Up."""
    return "ok"


@app.post("/predict")
async def predict(request: Request) -> Answer:
    """y = 2x."""
    return Answer(y=(np.array(request.x, dtype=np.float32) * 2).tolist())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error")
