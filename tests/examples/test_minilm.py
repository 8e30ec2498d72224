"""The MiniLM example on the runtime's engines: right numbers, sensible similarities, versions that differ."""

from pathlib import Path

import numpy as np
import pytest
from demo.similarity import SENTENCES, matrix, verdict
from tests.examples.minilm import encode, normalise, prepare, tokenize
from tests.examples.reference import Reference, unit

from podium.artifacts.digest import digest_of
from podium_crds.model import InferenceModel
from podium_crds.parse import load_resources
from podium_crds.pipeline import InferencePipeline

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that prepare.py makes."""
    folder = tmp_path_factory.mktemp("minilm")
    prepare().make_artifacts(folder)
    return folder


def test_embeddings_equal_an_independent_forward(artifacts: Path) -> None:
    sentences = [*SENTENCES, "One that is a good deal longer than the others, so that they are padded " * 2, ""]
    tokens = tokenize(artifacts / "tokenizer", sentences)
    found = normalise(artifacts / "normalise", encode(artifacts / "encoder-2", tokens))
    reference = Reference(artifacts / "encoder-2" / "model.safetensors")
    expected = reference.sentences(tokens["input_ids"], tokens["attention_mask"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_version_1_takes_the_first_tokens_vector(artifacts: Path) -> None:
    tokens = tokenize(artifacts / "tokenizer", SENTENCES)
    found = encode(artifacts / "encoder-1", tokens)
    reference = Reference(artifacts / "encoder-1" / "model.safetensors")
    expected = reference.tokens(tokens["input_ids"], tokens["attention_mask"])[:, 0]
    np.testing.assert_allclose(unit(found.astype(np.float64)), unit(expected), atol=1e-4)


@pytest.mark.parametrize("version", ["1", "2"])
def test_sentences_that_mean_the_same_are_closer_than_others(artifacts: Path, version: str) -> None:
    tokens = tokenize(artifacts / "tokenizer", SENTENCES)
    rows = normalise(artifacts / "normalise", encode(artifacts / f"encoder-{version}", tokens))
    assert verdict(matrix(rows.tolist())).separated


def test_version_2_tells_related_from_unrelated_better(artifacts: Path) -> None:
    tokens = tokenize(artifacts / "tokenizer", SENTENCES)
    first, second = (
        verdict(matrix(normalise(artifacts / "normalise", encode(artifacts / f"encoder-{version}", tokens)).tolist()))
        for version in ("1", "2")
    )
    assert second.related - second.unrelated > first.related - first.unrelated


def test_the_same_sentence_has_the_same_embedding_whatever_it_is_padded_to(artifacts: Path) -> None:
    short = tokenize(artifacts / "tokenizer", SENTENCES[:1])
    padded = {name: np.pad(array, ((0, 0), (0, 64))) for name, array in short.items()}
    np.testing.assert_allclose(
        encode(artifacts / "encoder-2", padded), encode(artifacts / "encoder-2", short), atol=1e-4
    )


def test_token_ids_are_those_of_the_published_vocabulary(artifacts: Path) -> None:
    tokens = tokenize(artifacts / "tokenizer", ["Hello, world!"])
    assert tokens["input_ids"][0][: tokens["attention_mask"].sum()].tolist() == [101, 7592, 1010, 2088, 999, 102]


def test_normalising_leaves_a_row_of_zeros(artifacts: Path) -> None:
    rows = normalise(artifacts / "normalise", np.array([[0.0, 0.0], [3.0, 4.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.0, 0.0], [0.6, 0.8]])


def test_resources_for_a_cluster_are_pinned_to_what_the_folders_hold(artifacts: Path) -> None:
    example = prepare()
    sources = example.stored_sources("2", artifacts, "s3://models/minilm", "keys")
    model, pipeline = load_resources(example.resources("2", sources))
    assert isinstance(model, InferenceModel)
    assert isinstance(pipeline, InferencePipeline)
    assert model.spec.version == "2"
    assert model.spec.source.uri == "s3://models/minilm/encoder-2/"
    assert model.spec.source.digest == digest_of(artifacts / "encoder-2")
    assert model.spec.source.credentials_secret_ref is not None
    assert [member.name for member in pipeline.spec.models] == ["tokenizer", "encoder", "normalise"]


def test_resources_for_this_machine_name_the_folders(artifacts: Path) -> None:
    example = prepare()
    model, _ = load_resources(example.resources("1", example.local_sources("1", artifacts)))
    assert isinstance(model, InferenceModel)
    assert model.spec.source.uri == (artifacts / "encoder-1").as_uri()
    assert model.spec.source.digest is None
