"""The requests and answers that the examples write down, and whether an answer is one of those."""

import json
from typing import Any

import numpy as np
from e2e.clusters.paths import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "pipelines"
NAMES = ("classify", "cascade", "ensemble", "multimodal")


def exchanges(name: str) -> list[dict[str, Any]]:
    """Every request of a pipeline, under `what` it shows, `inputs` and `outputs`."""
    written: list[dict[str, Any]] = json.loads((EXAMPLE / "expected" / f"{name}.json").read_text())
    return written


def assert_as_written(answer: dict[str, Any], exchange: dict[str, Any]) -> None:
    """Fractions are compared as far as they are written down, all else exactly."""
    outputs = {key: tensor["data"] for key, tensor in answer["outputs"].items()}
    assert outputs.keys() == exchange["outputs"].keys()
    for key, expected in exchange["outputs"].items():
        if isinstance(expected[0], float):
            np.testing.assert_allclose(outputs[key], expected, atol=1e-3)
        else:
            assert outputs[key] == expected
