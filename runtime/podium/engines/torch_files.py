"""Modules that were exported to a file: by torch.export.save, or by torch.jit.save. Nothing is unpickled.

An exported program's archive may hold pickled objects, which torch.export.load would unpickle: such archives are
refused, and every torch.load is held to weights alone. Neither format is safe from a hostile author, since both hold
code; they are as trusted as an entrypoint.
"""

import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from podium.engines.base import ContractLoadError, LoadError
from podium.engines.torch_weights import mapped_bytes
from podium_crds.tensors import TensorSpec

_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_NATIVE_CODE = "data/aotinductor/"
_CONSTANTS = "data/constants/"
_WEIGHTS = "data/weights/"
_MODEL = "model"
"""Name that torch.export.save gives to the one program of its archive."""
_LOCAL_HEADER = struct.Struct("<26x2H")
"""Of a zip entry: lengths of its name and its extra field, before the data."""


def load_exported(
    artifact_dir: Path, name: str, device: torch.device, declared: Sequence[TensorSpec]
) -> Callable[..., Any]:
    """A program that torch.export.save wrote, called with tensors by name. On a CPU its weights are mapped.

    Raises LoadError, and ContractLoadError where it does not take what is declared.
    """
    file = artifact_file(artifact_dir, name)
    _refuse_pickles(file)
    with _weights_only():
        try:
            program = torch.export.load(str(file))
        except Exception as error:
            raise LoadError(f"torch.export.load cannot read {name}: {_line(error)}") from error
    _check_inputs(program, declared)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module = program.module().requires_grad_(requires_grad=False)
    if device.type == "cpu":
        module.load_state_dict(_mapped_weights(file, program.state_dict), strict=False, assign=True)
        module.requires_grad_(requires_grad=False)
    return _ByName(module, *_positional(program))


def load_torch_script(artifact_dir: Path, name: str, device: torch.device) -> torch.nn.Module:
    """A module that torch.jit.save wrote. Raises LoadError."""
    file = artifact_file(artifact_dir, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # said once in the documentation, not at every start
        try:
            module: torch.nn.Module = torch.jit.load(str(file), map_location=device)
        except Exception as error:
            raise LoadError(f"torch.jit.load cannot read {name}: {_line(error)}") from error
    return module


def artifact_file(artifact_dir: Path, name: str) -> Path:
    """The file of that name, which is inside the artifact. Raises LoadError."""
    root = artifact_dir.resolve()
    file = (root / name).resolve()
    if root in file.parents and file.is_file():
        return file
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*.pt*"))[:8]
    raise LoadError(f"the artifact has no file {name!r}" + (f"; it has {', '.join(found)}" if found else ""))


class _ByName:
    """Calls a program with positional inputs by the names of its forward's arguments."""

    def __init__(self, module: torch.nn.Module, positional: tuple[str, ...], named: tuple[str, ...]) -> None:
        self._module = module
        self._positional = positional
        self._named = named

    def __call__(self, **tensors: torch.Tensor) -> Any:
        if tensors.keys() != {*self._positional, *self._named}:
            raise TypeError(f"it takes {', '.join((*self._positional, *self._named))}, not {', '.join(tensors)}")
        return self._module(
            *(tensors[name] for name in self._positional), **{name: tensors[name] for name in self._named}
        )


def _positional(program: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs that are given by position, and of those by keyword."""
    arguments, keywords = program.call_spec.in_spec.children()
    names = tuple(program.graph_signature.user_inputs)
    if arguments.num_leaves != arguments.num_children or keywords.num_leaves != keywords.num_children:
        raise LoadError("the exported program takes nested inputs; export a forward that takes each tensor by itself")
    return names[: arguments.num_leaves], tuple(keywords.context or ())


def _check_inputs(program: Any, declared: Sequence[TensorSpec]) -> None:
    taken = {
        node.name: tuple(dim if isinstance(dim, int) else -1 for dim in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    }
    if not declared:
        return
    problems = [f"the program has no input {spec.name!r}" for spec in declared if spec.name not in taken]
    problems += [f"its input {name!r} is not declared" for name in taken if name not in {s.name for s in declared}]
    for spec in declared:
        shape = taken.get(spec.name, spec.shape)
        if len(shape) != len(spec.shape):
            problems.append(f"{spec.name!r} has {len(shape)} dimensions")
        elif spec.shape[0] == -1 and shape[0] != -1:
            problems.append(
                f"{spec.name!r} was exported for exactly {shape[0]} rows: export it with dynamic_shapes for dimension 0"
            )
        elif any(fixed not in (-1, said) for said, fixed in zip(spec.shape, shape, strict=True)):
            problems.append(f"{spec.name!r} has shape {list(shape)}")
    if problems:
        ours = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in declared)
        theirs = ", ".join(f"{name} {list(shape)}" for name, shape in taken.items())
        raise ContractLoadError(
            f"the exported program's inputs are not what is declared: {'; '.join(problems)}. "
            f"Declared: {ours}. Program: {theirs}"
        )


def _refuse_pickles(file: Path) -> None:
    """Raises LoadError for an archive with anything that torch would unpickle or run as native code."""
    from torch.export.pt2_archive._package import PT2ArchiveReader

    try:
        with PT2ArchiveReader(str(file)) as archive:  # the reader that torch.export.load uses: no second opinion
            names = archive.get_file_names()
    except Exception as error:
        raise LoadError(f"{file.name} was not written by torch.export.save: {_line(error)}") from error
    objects = [name for name in names if name.startswith(_CONSTANTS) and not _is_plain(name)]
    if objects:
        raise LoadError(f"{file.name} holds pickled objects ({objects[0]}), which are never loaded")
    if any(name.startswith(_NATIVE_CODE) for name in names):
        raise LoadError(f"{file.name} holds native code of AOTInductor; save the program with torch.export.save alone")


def _is_plain(name: str) -> bool:
    return name.removeprefix(_CONSTANTS).startswith("tensor_") or name.endswith(".json")


@contextmanager
def _weights_only() -> Iterator[None]:
    """While it lasts, torch.load unpickles nothing but tensors, whatever its caller asks for."""
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before


def _mapped_weights(file: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those weights of the program that lie in the archive uncompressed and aligned, as views of one mapping."""
    flat = mapped_bytes(file)
    mapped: dict[str, torch.Tensor] = {}
    with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        config = entries.get(f"{_WEIGHTS}{_MODEL}_weights_config.json")
        if config is None:
            return {}
        for name, meta in json.loads(archive.read(config))["config"].items():
            info, like = entries.get(_WEIGHTS + meta["path_name"]), state.get(name)
            if info is None or like is None or meta["use_pickle"] or info.compress_type != zipfile.ZIP_STORED:
                continue
            raw.seek(info.header_offset)
            start = info.header_offset + 30 + sum(_LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size)))
            data = flat[start : start + info.file_size]
            if data.data_ptr() % like.dtype.itemsize == 0 and data.numel() == like.untyped_storage().nbytes():
                typed = data.view(like.dtype)
                offset = typed.storage_offset() + like.storage_offset()  # as_strided counts from the start of the file
                mapped[name] = typed.as_strided(like.size(), like.stride(), offset)
    return mapped


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:600]
