"""Types → CustomResourceDefinition YAML. `python -m podium_crds.generate` writes it, `--check` compares.

The output in crds/ is committed; a test fails when it differs from what the types say.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from podium_crds.base import MAX_RESOURCE_NAME, JsonObject
from podium_crds.keys import GROUP, VERSION
from podium_crds.model import InferenceModel
from podium_crds.pipeline import InferencePipeline
from podium_crds.schema import structural_schema, without_defaults

MAX_CRD_BYTES = 200 * 1024
"""Beyond this, client-side apply would come near the 256 KiB that an annotation may hold."""

CATEGORY = "inference"

_HEADER = "# Generated from crds/podium_crds by `python -m podium_crds.generate`. Change the types, not this file.\n"


@dataclass(frozen=True, slots=True)
class Kind:
    """What names a kind at the API server."""

    resource: type[InferenceModel] | type[InferencePipeline]
    plural: str
    short_name: str

    @property
    def name(self) -> str:
        """The kind: InferenceModel or InferencePipeline."""
        return self.resource.__name__

    @property
    def file_name(self) -> str:
        """Name of its CRD file."""
        return f"{GROUP}_{self.plural}.yaml"


KINDS = (
    Kind(InferenceModel, "inferencemodels", "imdl"),
    Kind(InferencePipeline, "inferencepipelines", "ipl"),
)


def _column(name: str, json_path: str, description: str, *, kind: str = "string", wide: bool = False) -> JsonObject:
    column: JsonObject = {"name": name, "type": kind, "description": description, "jsonPath": json_path}
    return {**column, "priority": 1} if wide else column


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_COLUMNS = [
    _column("Ready", _condition("Ready", "status"), "Whether it serves what the spec asks for."),
    _column("Available", _condition("Available", "status"), "Whether it serves at all."),
    _column("Version", ".spec.version", "The version that the spec asks for."),
    _column("Replicas", ".status.readyReplicas", "Pods that are ready.", kind="integer"),
    _column("Desired", ".spec.replicas", "Pods that the spec asks for.", kind="integer"),
    _column("Updated", ".status.updatedReplicas", "Pods that serve what the spec asks for.", kind="integer"),
    _column("Rollout", _condition("Progressing", "reason"), "What the rollout is doing, or why it stopped."),
    _column("Age", ".metadata.creationTimestamp", "Time since it was created.", kind="date"),
    _column("URL", ".status.url", "Where clients in the cluster reach it.", wide=True),
    _column("Strategy", ".status.strategy.resolved", "The strategy of the current rollout.", wide=True),
    _column("Revision", ".status.currentRevision", "The revision that serves.", wide=True),
    _column("Message", _condition("Ready", "message"), "Why it is not ready.", wide=True),
]

_NAME_RULE = {
    "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
    f" && size(self.metadata.name) <= {MAX_RESOURCE_NAME}",
    "message": "metadata.name becomes the name of a Service: use lower-case letters, digits and '-', begin with a "
    f"letter, and use at most {MAX_RESOURCE_NAME} characters",
}


def crd(kind: Kind) -> JsonObject:
    """The CustomResourceDefinition of the kind. Raises SchemaError."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "versions": [_version(kind)],
        },
    }


def _version(kind: Kind) -> JsonObject:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": _COLUMNS,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root_schema(kind)},
    }


def _root_schema(kind: Kind) -> JsonObject:
    fields = kind.resource.model_fields
    spec = structural_schema(_type_of(fields["spec"].annotation), "spec")
    status = without_defaults(structural_schema(_type_of(fields["status"].annotation), "status"))
    parts = {"spec": spec, "status": status}
    for name, part in parts.items():
        part["description"] = " ".join(str(fields[name].description).split())
    return {
        "description": " ".join(str(kind.resource.__doc__).split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{kind.name}."},
            "metadata": {"type": "object"},
            **parts,
        },
        "x-kubernetes-validations": [_NAME_RULE],
    }


def _type_of(annotation: Any) -> Any:
    assert isinstance(annotation, type), f"{annotation} is not one type"
    return annotation


class _Dumper(yaml.SafeDumper):
    """Writes repeated values out instead of as aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (signature of the base)
        return True


def render(kind: Kind) -> str:
    """The YAML file of the kind, the same for the same types. Raises ValueError above 200 KiB."""
    text = _HEADER + yaml.dump(crd(kind), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    if len(text.encode()) > MAX_CRD_BYTES:
        raise ValueError(f"{kind.file_name} has {len(text.encode())} bytes, the limit is {MAX_CRD_BYTES}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with --check say which differ; 1 if any does."""
    parser = argparse.ArgumentParser(prog="python -m podium_crds.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent, help="default: crds/")
    options = parser.parse_args(arguments)
    stale = [kind for kind in KINDS if not _is_current(options.folder / kind.file_name, render(kind))]
    for kind in stale:
        path = options.folder / kind.file_name
        if options.check:
            sys.stderr.write(f"{path} differs from the types: run python -m podium_crds.generate\n")
        else:
            path.write_text(render(kind), encoding="utf-8")
            sys.stdout.write(f"{path} written\n")
    return 1 if options.check and stale else 0


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
