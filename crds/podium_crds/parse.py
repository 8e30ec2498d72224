"""YAML text and live objects → typed resources, with errors that name the path and what was expected.

`load_resources` is for what people write: unknown keys are refused. `parse_resource` is for what an API server
returns: keys that a later release added are ignored.
"""

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from podium_crds.base import JsonObject
from podium_crds.errors import Problem, ResourceError
from podium_crds.keys import API_VERSION, GROUP
from podium_crds.model import InferenceModel
from podium_crds.pipeline import InferencePipeline
from podium_crds.schema import normalised, structural_schema

MAX_TEXT_BYTES = 4 << 20
"""Largest YAML text; a resource in a cluster is smaller still (1.5 MiB by etcd's default)."""
MAX_NODES = 200_000
"""Most YAML nodes after aliases are followed: bounds the work that a small text can ask for."""
MAX_DEPTH = 64
MAX_DOCUMENTS = 64

type_of_kind: dict[str, type[InferenceModel] | type[InferencePipeline]] = {
    "InferenceModel": InferenceModel,
    "InferencePipeline": InferencePipeline,
}

Resource = InferenceModel | InferencePipeline


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, leaves dates as text, as Kubernetes does, and stops at MAX_NODES."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Counts while it reads: 4 MiB of commas would take a minute to be read whole."""
        self._composed += 1
        if self._composed > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"has more than {MAX_NODES} values: simplify it")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    own: dict[str, Any] = {}
    merged: list[dict[str, Any]] = []
    for key_node, value_node in node.value:
        value = loader.construct_object(value_node, deep=True)
        if key_node.tag == "tag:yaml.org,2002:merge":
            merged.extend(value if isinstance(value, list) else [value])
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a string", key_node.start_mark)
        if key in own:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        own[key] = value
    # Earlier mappings of a merge win over later ones, own keys over all. PyYAML's flattening is exponential in aliases.
    for mapping in merged:
        own = {**mapping, **own}
    return own


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_resources(text: str, origin: str = "input") -> list[Resource]:
    """The resources of a YAML text of one or more documents, in order; documents of other groups are passed over.

    `origin` names the text in errors. Raises ResourceError with every problem of the first wrong document.
    """
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise ResourceError(origin, (Problem("", f"is larger than {MAX_TEXT_BYTES} bytes: split it"),))
    documents = list(_documents(text, origin))
    resources = [_strict(document) for document in documents if _is_ours(document, origin)]
    _refuse_twins(resources, origin)
    return resources


def parse_resource(document: Mapping[str, Any]) -> Resource:
    """The resource of a live object; what another release wrote and this one cannot read is ignored.

    That is unknown keys anywhere, and fields of status, which the next pass writes anew. Raises ResourceError with
    every problem.
    """
    remaining = deepcopy(dict(document))
    while True:
        try:
            return _validate(remaining)
        except ValidationError as error:
            foreign = {path for detail in error.errors() if (path := _of_another_release(detail)) is not None}
            if not foreign:
                raise ResourceError(_subject(document), tuple(_problems(error))) from error
            for path in foreign:
                _remove(remaining, path)


def _of_another_release(detail: ErrorDetails) -> tuple[int | str, ...] | None:
    """What to drop so that a live object of another release parses: a key of spec, or a whole field of status."""
    location = detail["loc"]
    if location[0] == "status":
        return location[:2]
    return location if detail["type"] == "extra_forbidden" else None


def _documents(text: str, origin: str) -> Iterable[dict[str, Any]]:
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ResourceError(origin, (Problem(where, error.problem or "is not YAML"),)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ResourceError(origin, (Problem("", f"is not YAML: {error}"),)) from error
    if len(documents) > MAX_DOCUMENTS:
        raise ResourceError(origin, (Problem("", f"holds more than {MAX_DOCUMENTS} documents: split it"),))
    if not _is_bounded(documents):
        raise ResourceError(origin, (Problem("", "is nested too deeply, or has too many values: simplify it"),))
    for document in documents:
        if not isinstance(document, dict):
            found = type(document).__name__
            raise ResourceError(origin, (Problem("", f"expected a mapping with apiVersion and kind, got a {found}"),))
        yield document


def _is_bounded(value: object) -> bool:
    nodes = 0
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        current, depth = pending.pop()
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            return False
        if isinstance(current, dict):
            pending.extend((child, depth + 1) for child in current.values())
        elif isinstance(current, list):
            pending.extend((child, depth + 1) for child in current)
    return True


def _is_ours(document: Mapping[str, Any], origin: str) -> bool:
    api_version = document.get("apiVersion")
    if not isinstance(api_version, str) or not isinstance(document.get("kind"), str):
        raise ResourceError(
            origin, (Problem("", f"a document lacks apiVersion or kind: write apiVersion: {API_VERSION}"),)
        )
    return api_version.split("/")[0] == GROUP


def _strict(document: Mapping[str, Any]) -> Resource:
    try:
        return _validate(document)
    except ValidationError as error:
        raise ResourceError(_subject(document), tuple(_problems(error))) from error


def _validate(document: Mapping[str, Any]) -> Resource:
    kind = document.get("kind")
    chosen = type_of_kind.get(str(kind))
    if chosen is None or document.get("apiVersion") != API_VERSION:
        expected = " or ".join(type_of_kind)
        found = f"{document.get('apiVersion')} {kind}"
        raise ResourceError(_subject(document), (Problem("kind", f"expected {API_VERSION} {expected}, got {found}"),))
    document = {**document, "spec": normalised(document.get("spec"), _schema(chosen))}
    # By way of JSON, so that types are taken as the API server takes them: no string for a number, lists for tuples.
    return chosen.model_validate_json(json.dumps(document), strict=True)


@cache
def _schema(kind: type[InferenceModel] | type[InferencePipeline]) -> JsonObject:
    spec = kind.model_fields["spec"].annotation
    assert isinstance(spec, type), "one type"
    return structural_schema(spec)


def _subject(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return f"{document.get('kind', 'document')} {name or '(without a name)'}"


def _problems(error: ValidationError) -> Iterable[Problem]:
    details = error.errors(include_url=False)
    parents = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    for detail in details:
        # pydantic counts only the items that are right, so that a list of wrong ones is also too short.
        if detail["type"] == "too_short" and detail["loc"] in parents:
            continue
        yield Problem(_path(detail["loc"]), _message(detail))


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _message(detail: ErrorDetails) -> str:
    found = json.dumps(detail.get("input"), default=str)
    shown = found if len(found) <= 80 else f"{found[:77]}…"
    match detail["type"]:
        case "missing":
            return "is missing: it has no default"
        case "extra_forbidden":
            return "there is no such field: correct its spelling or its indentation, or remove it"
        case "rule":
            return detail["msg"]
        case "string_type":
            return f'expected a string, got {shown}: put it in quotes, as "{shown}"'
        case "too_short" | "too_long":
            context = detail.get("ctx", {})
            bound = (
                f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
            )
            return f"expected {bound} items, got {context['actual_length']}"
        case _:
            message = detail["msg"].removeprefix("Input should be ")
            return f"expected {message}, got {shown}" if message != detail["msg"] else f"{message}: got {shown}"


def _remove(document: Any, path: tuple[int | str, ...]) -> None:
    *parents, last = path
    for part in parents:
        document = document[part]
    del document[last]


def _refuse_twins(resources: Iterable[Resource], origin: str) -> None:
    seen: set[tuple[str, str, str]] = set()
    for resource in resources:
        key = (resource.kind, resource.metadata.namespace, resource.metadata.name)
        if key in seen:
            raise ResourceError(origin, (Problem("", f"{resource.kind} {resource.metadata.name} is given twice"),))
        seen.add(key)
