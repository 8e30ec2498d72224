"""What clients may send to a model, and to a pipeline by what its members declare."""

import numpy as np
import pytest

from podium.errors import InvalidInput
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract
from podium_crds.assignment import Revision


def a_pipeline(**member_fields: object) -> Revision:
    member = {
        "name": "m",
        "loadHash": "h",
        "version": "1",
        "artifact": {},
        "engine": {"kind": "Python", "entrypoint": "m:M"},
        "inputs": [
            {"name": "a", "dtype": "FP32", "shape": [-1, 4]},
            {"name": "o", "dtype": "FP32", "shape": [-1], "optional": True},
        ],
        "outputs": [{"name": "b", "dtype": "FP32", "shape": [-1, 4]}],
        **member_fields,
    }
    graph = {
        "steps": [
            {
                "name": "one",
                "model": "m",
                "inputs": [{"name": "a", "from": "request.x"}, {"name": "o", "from": "request.o"}],
            },
            {"name": "two", "model": "m", "inputs": [{"name": "a", "from": "one.b"}]},
        ],
        "outputs": [{"name": "out", "from": "two.b"}, {"name": "back", "from": "request.x"}],
    }
    return Revision.model_validate({"name": "p", "version": "1", "members": [member], "graph": graph})


def test_a_pipelines_contract_comes_from_its_members() -> None:
    contract = Contract.of(a_pipeline())
    assert list(contract.inputs) == ["x", "o"]
    assert contract.required == {"x"}
    assert {name: spec and list(spec.shape) for name, spec in contract.outputs.items()} == {
        "out": [-1, 4],
        "back": [-1, 4],
    }
    contract.check({"x": Tensor.from_array(np.zeros((2, 4), "f4"))})
    with pytest.raises(InvalidInput, match=r"shape \[2, 3\]; expected x FP32 \[-1, 4\]"):
        contract.check({"x": Tensor.from_array(np.zeros((2, 3), "f4"))})
    with pytest.raises(InvalidInput, match="unknown input 'y'"):
        contract.check_names(["x", "y"])


def test_names_are_known_even_where_members_declare_nothing() -> None:
    contract = Contract.of(a_pipeline(inputs=[], outputs=[]))
    assert dict(contract.inputs) == {"x": None, "o": None}
    contract.check({"x": Tensor.from_array(np.zeros(3)), "o": Tensor.from_array(np.zeros(1))})
