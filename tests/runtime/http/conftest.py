"""One `podium serve -f` for all tests of the routes: a few small models and a pipeline."""

from collections.abc import Iterator

import httpx
import pytest
from tests.runtime.serving.processes import Server, served

YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import os
    import time
    import numpy as np
    from podium import Model

    class Scale(Model):
        def infer(self, inputs):
            return {"y": np.asarray(inputs["x"] * np.float32(2))}

    class Echo(Model):
        def infer(self, inputs):
            return dict(inputs)

    class Upper(Model):
        def infer(self, inputs):
            text = inputs["text"]
            return {"upper": np.array([t.upper() for t in text.reshape(-1)], dtype=object).reshape(text.shape)}

    class Hard(Model):
        def infer(self, inputs):
            hard = np.array([b"hard" if t.startswith(b"h") else b"easy" for t in inputs["text"]], dtype=object)
            return {"label": hard}

    class Talk(Model):
        def infer(self, inputs):
            return {"word": inputs["text"]}

        def infer_stream(self, inputs):
            for word in inputs["text"].reshape(-1)[0].split():
                yield {"word": np.array([word], dtype=object)}

    class Moody(Model):
        def infer(self, inputs):
            order = int(inputs["order"][0])
            if order == 1:
                raise ValueError("the model does not like this")
            if order == 2:
                os._exit(7)
            if order == 3:
                time.sleep(1.5)
            return {"order": inputs["order"]}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: scale}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Scale"}
  inputs: [{name: x, dtype: FP32, shape: [-1, 3]}, {name: bias, dtype: FP32, shape: [-1, 3], optional: true}]
  outputs: [{name: "y", dtype: FP32, shape: [-1, 3]}]
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: echo}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Echo"}
  batching: {maxBatchSize: 4096}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: upper}
spec:
  version: "2.5"
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Upper"}
  inputs: [{name: text, dtype: BYTES, shape: [-1]}]
  outputs: [{name: upper, dtype: BYTES, shape: [-1]}]
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: talk}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Talk"}
  inputs: [{name: text, dtype: BYTES, shape: [-1]}]
  outputs: [{name: word, dtype: BYTES, shape: [-1]}]
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: moody}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Moody"}
  inputs: [{name: order, dtype: INT64, shape: [-1]}]
  outputs: [{name: order, dtype: INT64, shape: [-1]}]
  batching: {maxQueueSize: 1, maxBatchSize: 1}
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: route}
spec:
  models:
    - {name: upper, modelRef: {name: upper}}
    - name: classify
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Hard"}
        inputs: [{name: text, dtype: BYTES, shape: [-1]}]
        outputs: [{name: label, dtype: BYTES, shape: [-1]}]
  steps:
    - {name: classify, model: classify, inputs: [{name: text, from: request.text}]}
    - name: shout
      model: upper
      when: {from: classify.label, equals: hard}
      inputs: [{name: text, from: request.text}]
  outputs: [{name: label, from: classify.label}, {name: loud, from: shout.upper}]
"""


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serving until the last test of the package."""
    with served(tmp_path_factory.mktemp("served"), YAML) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A keep-alive client of the server."""
    with httpx.Client(base_url=server.url, timeout=30) as made:
        yield made
