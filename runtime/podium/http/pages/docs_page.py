"""`/openapi.json` and `/docs`: what is served, for programs and for people. Nothing is loaded from anywhere else."""

from html import escape
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse

from podium.http.pages.openapi import document
from podium.serving.revisions.contract import Specs, described
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium_crds.assignment import ResourceKind
from podium_crds.tensors import DType, TensorSpec

POLICY = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "code,pre{font:14px/1.4 ui-monospace,monospace;background:#f3f3f3;border-radius:4px}"
    "pre{padding:.7rem;overflow-x:auto}td,th{text-align:left;padding:.2rem 1.5rem .2rem 0;vertical-align:top}"
    "section{border-top:1px solid #ddd;margin-top:2rem}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}code,pre{background:#262626}"
    "a{color:#8ab4ff}section{border-color:#444}}"
)


def add_docs(app: FastAPI, residents: Residents, *, with_keys: bool) -> None:
    """Both routes, after all others: these are described once, and inference at each request, as it is loaded then."""
    base = get_openapi(title=app.title, version=app.version, routes=app.routes)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(document(base, _primaries(residents), with_keys=with_keys))

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        revisions = _primaries(residents)
        return HTMLResponse(_page(document(base, revisions, with_keys=with_keys), revisions), headers=POLICY)


def _primaries(residents: Residents) -> list[LiveRevision]:
    """The revision that answers most, of each resource."""
    routes = residents.router.table.routes.values()
    return [primary for route in routes if (primary := route.primary) is not None]


def _page(described_routes: dict[str, Any], revisions: list[LiveRevision]) -> str:
    sections = "".join(_section(revision) for revision in revisions) or "<p>Nothing is loaded yet.</p>"
    rows = "".join(
        f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(operation.get('summary', ''))}</td></tr>"
        for path, operations in sorted(described_routes["paths"].items())
        for method, operation in operations.items()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Podium</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>Podium</h1>"
        f"<p>For programs: <a href=/openapi.json>openapi.json</a></p>{sections}"
        f"<section><h2>Routes</h2><table>{rows}</table></section></html>"
    )


def _section(revision: LiveRevision) -> str:
    name = revision.resource.name
    verb = "pipelines/{}:run" if revision.resource.kind is ResourceKind.PIPELINE else "models/{}:predict"
    body = orjson.dumps({"inputs": {key: _example(spec) for key, spec in revision.contract.inputs.items()}}).decode()
    example = f"curl -H 'content-type: application/json' \\\n  -d '{body}' \\\n  $URL/v1/{verb.format(name)}"
    return (
        f"<section><h2>{escape(name)}</h2><p>version <code>{escape(revision.spec.version)}</code>, revision "
        f"<code>{escape(revision.name)}</code></p><table><tr><th>Inputs<td>{_listed(revision.contract.inputs)}"
        f"<tr><th>Outputs<td>{_listed(revision.contract.outputs)}</table><pre>{escape(example)}</pre></section>"
    )


def _listed(specs: Specs) -> str:
    if not specs:
        return "whatever the model takes or gives: nothing is declared"
    return "<br>".join(f"<code>{escape(described(spec) if spec else name)}</code>" for name, spec in specs.items())


def _example(spec: TensorSpec | None) -> Any:
    if spec is None:
        return {"dtype": "FP32", "shape": [1], "data": [0]}
    value: Any = {DType.BYTES: "text", DType.BOOL: True}.get(spec.dtype, 0)
    for dim in reversed(spec.shape):
        value = [value] * (dim if 0 <= dim <= 4 else 1)
    return value
