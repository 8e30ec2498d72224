"""The committed CRDs are what the types say, and read well."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from tests.crds.builders import JsonObject

from podium_crds.generate import KINDS, MAX_CRD_BYTES, Kind, crd, main, render
from podium_crds.schema import walk

CRDS = Path(__file__).parents[2] / "crds"

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def version(kind: Kind) -> JsonObject:
    found: JsonObject = crd(kind)["spec"]["versions"][0]
    return found


@every_kind
def test_the_committed_file_is_what_the_types_say(kind: Kind) -> None:
    assert (CRDS / kind.file_name).read_text(encoding="utf-8") == render(kind)


@every_kind
def test_the_file_is_small_enough_for_every_way_to_apply_it(kind: Kind) -> None:
    assert len(render(kind).encode()) <= MAX_CRD_BYTES


@every_kind
def test_the_file_is_yaml_without_aliases(kind: Kind) -> None:
    assert yaml.safe_load(render(kind)) == crd(kind)
    assert "&id" not in render(kind)


def test_check_fails_on_a_stale_file_and_passes_after_writing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", str(tmp_path)]) == 1
    assert "run python -m podium_crds.generate" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    path = tmp_path / KINDS[0].file_name
    path.write_text(path.read_text(encoding="utf-8") + "#", encoding="utf-8")
    assert main(["--check", str(tmp_path)]) == 1


@every_kind
def test_every_field_has_a_description(kind: Kind) -> None:
    schema = version(kind)["schema"]["openAPIV3Schema"]
    silent = [
        path
        for path, node in walk(schema)
        if path and path != "metadata" and not path.endswith("[]") and "description" not in node
    ]
    assert silent == []


@every_kind
def test_the_schema_has_exactly_the_fields_of_the_types(kind: Kind) -> None:
    schema = version(kind)["schema"]["openAPIV3Schema"]
    in_schema = {path for path, _ in walk(schema) if path.startswith(("spec", "status"))}
    in_types = set(_paths(kind.resource, ""))
    assert {path.replace("[]", "") for path in in_schema} == {p for p in in_types if p.startswith(("spec", "status"))}


def _paths(model: type[BaseModel], prefix: str) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        path = f"{prefix}.{field.alias or name}".lstrip(".")
        found.append(path)
        found += [inner for nested in _models(field.annotation) for inner in _paths(nested, path)]
    return found


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models(argument)]


@every_kind
def test_columns_answer_what_people_ask_first(kind: Kind) -> None:
    columns = version(kind)["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert shown == ["Ready", "Available", "Version", "Replicas", "Desired", "Updated", "Rollout", "Age"]
    assert wide == ["URL", "Strategy", "Revision", "Message"]


@every_kind
def test_an_autoscaler_finds_its_paths_in_the_schema(kind: Kind) -> None:
    paths = {path for path, _ in walk(version(kind)["schema"]["openAPIV3Schema"])}
    scale = version(kind)["subresources"]["scale"]
    assert {path.lstrip(".") for path in scale.values()} <= paths


@every_kind
def test_status_is_filled_in_by_the_operator_alone(kind: Kind) -> None:
    status = version(kind)["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert not [path for path, node in walk(status) if "default" in node or node.get("required") == ["status"]]


def test_both_kinds_answer_to_their_short_names_and_one_category() -> None:
    names = [crd(kind)["spec"]["names"] for kind in KINDS]
    assert [name["shortNames"] for name in names] == [["imdl"], ["ipl"]]
    assert [name["categories"] for name in names] == [["inference"]] * 2
