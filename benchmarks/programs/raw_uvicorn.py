"""Plain ASGI on uvicorn with orjson: the same bodies, the same doubling, no worker process and nothing else."""

import sys
from typing import Any

import numpy as np
import orjson
import uvicorn

HEADERS = [(b"content-type", b"application/json")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """One request, one answer."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    answer = b"{}"
    if scope["method"] == "POST":
        document = orjson.loads(body)
        tensor = document["inputs"][0]
        x = np.array(tensor["data"], dtype=np.float32)
        output = {"name": "y", "datatype": "FP32", "shape": tensor["shape"], "data": x * 2}
        answer = orjson.dumps(
            {"model_name": "echo", "model_version": "1", "id": document.get("id"), "outputs": [output]},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
    headers = [*HEADERS, (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), http="httptools", loop="uvloop", lifespan="off", access_log=False, log_level="error"
    )
