"""The document of the live page: drawn once for each structure, its figures filled in by its script. Everything that
anybody named is escaped; the policy lets nothing run or load but the two texts beside this module."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path

from podium.drawing.svg import Line, as_svg
from podium.http.live.view import FIGURES, Shown

OWN_FILES = ("page.css", "page.js")


@cache
def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


def _hash(name: str) -> str:
    return base64.b64encode(hashlib.sha256(_text(name).encode()).digest()).decode()


@cache
def policy() -> str:
    """The Content-Security-Policy that the document names itself: its own style and script by their hashes, and figures
    from where it came from."""
    style, script = (_hash(name) for name in OWN_FILES)
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


def headers() -> dict[str, str]:
    """Of the document: nothing is kept, framed, guessed at, or told to another site."""
    return {
        "content-security-policy": f"{policy()}; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }


def document(revisions: Sequence[Shown], structure: str) -> str:
    """The whole page, figures left open."""
    sections = [
        _resource(tuple(group)) for _, group in groupby(revisions, key=lambda each: each.resident.resource)
    ] or ["<p>Nothing is assigned yet.</p>"]
    style, script = (_text(name) for name in OWN_FILES)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=content-security-policy content="{escape(policy())}">'
        '<meta name=viewport content="width=device-width,initial-scale=1"><title>Podium, live</title>'
        f"<style>{style}</style></head>"
        f'<body data-structure="{escape(structure)}"><header><h1>Podium</h1>'
        '<span class=badge data-figure="ready"></span><span id=link class=badge role=status>connecting</span></header>'
        "<noscript><p>Figures need JavaScript; /metrics of the data port has them too.</p></noscript>"
        f"<main>{''.join(sections)}</main><footer>Rates and latencies of the last few seconds in this process; "
        "quantiles by proportion within their bucket. Steps that share a member show the load of all of it.</footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _resource(revisions: tuple[Shown, ...]) -> str:
    resource = revisions[0].resident.resource
    return (
        f"<section><h2>{escape(resource.name)} <small>{escape(resource.kind.value)} in {escape(resource.namespace)}"
        f"</small></h2><div class=scroll><table><thead><tr>{_head()}</tr></thead><tbody>"
        f"{''.join(_row(each) for each in revisions)}</tbody></table></div>"
        f"{''.join(_drawing(each) for each in revisions)}</section>"
    )


def _head() -> str:
    names = ("Revision", "Version", "State", "Share", "Requests", "p50", "p99", "In flight", "")
    return "".join(f"<th scope=col>{name}</th>" for name in names)


def _row(each: Shown) -> str:
    spec = each.hosted.spec
    cells = (*(f'data-figure="{each.key}/{name}"' for name in ("state", "weight", "rate", "p50", "p99", "in_flight")),)
    return (
        f"<tr><td><code>{escape(spec.name)}</code></td><td>{escape(spec.version)}</td>"
        + "".join(f"<td {cell}></td>" for cell in cells)
        + f'<td class=failing><span data-figure="{each.key}/failures"></span> '
        f'<span data-figure="{each.key}/failure"></span></td></tr>'
    )


def _drawing(each: Shown) -> str:
    """Open for what takes requests; the others can be opened."""
    if each.hosted.live is None:
        return ""
    graph, name = each.graph, each.hosted.spec.name
    lines = {
        step.name: [Line(f"{each.box(number)}/{figure}", figure) for figure in FIGURES]
        for number, step in enumerate(graph.steps)
    }
    is_open = " open" if each.resident.weight(each.hosted) else ""
    picture = as_svg(f"{each.resident.resource.name}, revision {name}", graph, lines)
    return (
        f"<details{is_open}><summary>Graph of {escape(name)}</summary><label>"
        f"<input type=checkbox class=fit> all of it at once</label><div class=scroll>{picture}</div></details>"
    )
