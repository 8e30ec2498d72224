"""Parts of GPUs: packed the same way everywhere, never more than there is, refused with the members' names."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crds.builders import JsonObject, a_definition, a_model, a_pipeline, parsed

from podium_crds.assignment import Revision
from podium_crds.compile import compile_revision
from podium_crds.errors import ResourceError
from podium_crds.gpus import GpuDemand, packed
from podium_crds.model import InferenceModel
from podium_crds.parse import parse_resource
from podium_crds.revision import RevisionRecord, revision_of

demands = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(GpuDemand, st.integers(1, 20).map(lambda part: Fraction(part, 20)), st.integers(1, 3)),
)


@given(demands, st.integers(0, 8))
def test_no_gpu_is_given_away_more_than_once(wanted: dict[str, GpuDemand], gpus: int) -> None:
    places = packed(wanted, gpus)
    if places is None:
        assert sum((demand.total for demand in wanted.values()), Fraction(0)) > Fraction(gpus, 2)
        return
    given_away = [Fraction(0)] * gpus
    for name, demand in wanted.items():
        assert len(places[name]) == demand.instances
        for gpu in places[name]:
            given_away[gpu] += demand.part
    assert all(part <= 1 for part in given_away)


@given(demands, st.integers(0, 8), st.randoms())
def test_the_order_in_which_members_are_written_decides_nothing(
    wanted: dict[str, GpuDemand], gpus: int, chance: Any
) -> None:
    names = list(wanted)
    chance.shuffle(names)
    assert packed({name: wanted[name] for name in names}, gpus) == packed(wanted, gpus)


def test_the_largest_parts_go_first_so_that_small_ones_fill_what_is_left() -> None:
    halves = {"a": GpuDemand(Fraction("0.4"), 2), "b": GpuDemand(Fraction("0.6"), 2)}
    assert packed(halves, 2) == {"a": (0, 1), "b": (0, 1)}


def record(document: JsonObject, **models: InferenceModel) -> RevisionRecord:
    return revision_of(parse_resource(document), models, configmaps={}, image="runtime:1")


def a_shared_pod(gpus: int, **parts: str | None) -> JsonObject:
    """A pipeline whose members have these parts of GPUs; `_` is a dash."""
    names = [name.replace("_", "-") for name in parts]
    fractions = [{"gpuFraction": part} if part else {} for part in parts.values()]
    return a_pipeline(
        models=[{"name": name, "inline": a_definition(**part)} for name, part in zip(names, fractions, strict=True)],
        steps=[{"name": name, "model": name, "inputs": [{"name": "text", "from": "request.text"}]} for name in names],
        outputs=[{"name": name, "from": f"{name}.text"} for name in names],
        resources={"limits": {"nvidia.com/gpu": gpus, "memory": "2Gi"}},
    )


def compiled(document: JsonObject) -> Revision:
    return compile_revision(record(document))


def test_each_instance_gets_its_place_and_who_has_no_part_stays_on_the_cpu() -> None:
    revision = compiled(a_shared_pod(2, encoder="0.6", ranker="0.6", small="0.4", tokenizer=None))
    placed = {member.name: (member.gpu_fraction, member.gpu_places) for member in revision.members}
    assert placed == {"encoder": (0.6, (0,)), "ranker": (0.6, (1,)), "small": (0.4, (0,)), "tokenizer": (None, ())}
    assert {m.name: m.engine.device for m in revision.members}["tokenizer"] == "Cpu"


def test_where_nobody_names_a_part_nothing_is_placed() -> None:
    revision = compiled(a_shared_pod(2, encoder=None, ranker=None))
    assert {(member.gpu_fraction, member.gpu_places, member.engine.device) for member in revision.members} == {
        (None, (), "Auto")
    }


def test_a_member_without_a_part_is_loaded_anew_when_another_begins_to_share() -> None:
    before, after = record(a_shared_pod(1, a=None, b=None)), record(a_shared_pod(1, a=None, b="0.5"))
    hashes = [[member.load_hash for member in each.members] for each in (before, after)]
    assert hashes[0][0] != hashes[1][0]


def test_parts_that_fit_together_but_on_no_gpu_are_refused_by_name() -> None:
    with pytest.raises(ResourceError, match=r"a 0.6, b 0.6, c 0.6; 1.8 together\) do not fit on the pod's 2"):
        record(a_shared_pod(2, a="0.6", b="0.6", c="0.6"))


def test_a_referenced_model_counts_with_its_part() -> None:
    document = a_shared_pod(1, a="0.6", b=None)
    document["spec"]["models"][1] = {"name": "b", "modelRef": {"name": "echo"}}
    pure = parsed(a_model(gpuFraction="0.5", replicas=0))
    assert isinstance(pure, InferenceModel)
    with pytest.raises(ResourceError, match=r"a 0.6, b 0.5; 1.1 together\) do not fit on the pod's 1"):
        record(document, echo=pure)
    assert record(pure.wire()).name, "by itself it has no pod to fit"


def test_a_member_that_must_have_a_gpu_names_its_part_beside_others() -> None:
    document = a_shared_pod(1, a="0.5", b=None)
    inline = a_definition(engine="Torch", torch={"entrypoint": "m:build", "device": "Cuda"}, python=None)
    document["spec"]["models"][1]["inline"] = {key: value for key, value in inline.items() if value is not None}
    with pytest.raises(ResourceError, match=r"b has device: Cuda and no gpuFraction, beside members .*a 0.5"):
        record(document)


@pytest.mark.parametrize(("limit", "fits"), [("3Gi", True), ("2Gi", False)])
def test_memory_that_referenced_models_reserve_is_added_up_by_name(limit: str, fits: bool) -> None:
    document = a_shared_pod(0, a=None, b=None)
    document["spec"]["resources"] = {"limits": {"memory": limit}}
    document["spec"]["models"] = [{"name": name, "modelRef": {"name": name}} for name in "ab"]
    models = {
        name: parsed(a_model(name, resources={"requests": {"memory": amount}}))
        for name, amount in {"a": "1Gi", "b": "2Gi"}.items()
    }
    if fits:
        assert record(document, **models)
        return
    with pytest.raises(ResourceError, match=r"reserve for their own pods \(a 1Gi, b 2Gi\).*the 2Gi of this pod"):
        record(document, **models)
