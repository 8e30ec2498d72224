"""Asks from a pod in the cluster, through the Service, as an application would: once, or many times without a pause."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from e2e import probers
from e2e.probers.load import NUMBER, Load
from e2e.probers.probe import Probe

from demo.errors import DemoError
from demo.target import NAMESPACE, Target
from podium_crds.keys import HEADER_REVISION

PIPELINE = "embed"
RATE_PER_S = 20.0
CLIENTS = 4
_DEPLOYMENT = "deployment/podium-demo-client"
PATH = f"/v2/models/{PIPELINE}/infer"
# Arguments: URL, name of the header that is told on the first line.
_ASK = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], sys.stdin.buffer.read(), {"content-type": "application/json"})
try:
    with urllib.request.urlopen(request, timeout=30) as answer:
        sys.stdout.write((answer.headers.get(sys.argv[2]) or "") + "\\n" + answer.read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"{error}: {error.read(2000).decode('utf-8', 'replace')}")
"""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One answer of the pipeline."""

    revision: str
    rows: tuple[tuple[float, ...], ...]
    """A row for each sentence, of length 1."""


def start(target: Target, image: str) -> None:
    """Returns once the pod runs."""
    folder = Path(probers.__path__[0])
    files = {path.name: path.read_text() for path in sorted(folder.glob("*.py"))}
    metadata = {"name": "podium-demo-client", "namespace": NAMESPACE}
    target.apply(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}))
    target.apply_template("client.yaml", IMAGE=image)
    target.rolled_out(_DEPLOYMENT)


def embeddings(target: Target, url: str, sentences: Sequence[str]) -> Embeddings:
    """Asks the pipeline at `url` once. Raises DemoError where the answer is not what the contract says."""
    asked = url + PATH
    command = ["python3", "-c", _ASK, asked, HEADER_REVISION]
    said = target.kubectl("exec", "-i", _DEPLOYMENT, "--", *command, stdin=body(sentences))
    revision, _, text = said.partition("\n")
    try:
        (output,) = json.loads(text)["outputs"]
        rows, width = output["shape"]
        data = [float(number) for number in output["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DemoError(f"the pipeline's answer has no embedding: {text[:500]}") from error
    if rows != len(sentences) or len(data) != rows * width:
        raise DemoError(
            f"{len(sentences)} sentences went in, shape {output['shape']} with {len(data)} numbers came out"
        )
    return Embeddings(revision, tuple(tuple(data[row * width : (row + 1) * width]) for row in range(rows)))


def load(target: Target, url: str) -> Probe:
    """A client that asks at a steady rate over connections it keeps, and sends nothing twice. Not started."""
    at = urlsplit(url)
    where = Load(
        host=at.hostname or "",
        port=at.port or 80,
        path=PATH,
        body=body([f"sentence number {NUMBER}"]),
        rate_per_s=RATE_PER_S,
        clients=CLIENTS,
        long_clients=0,
    )
    return Probe(where, target.argv("exec", "-i", _DEPLOYMENT, "--", "python3", "-m", "e2e.probers"))


def body(sentences: Sequence[str]) -> str:
    """A request of the Open Inference Protocol with these sentences."""
    text = {"name": "text", "shape": [len(sentences)], "datatype": "BYTES", "data": list(sentences)}
    return json.dumps({"inputs": [text]})
