"""ONNX files whose weights lie in files beside them: those from elsewhere, and those above 2 GB.

A path in such a file is written by whoever made it. It may name a file in the model's own folder, or below
it, and nothing else: no absolute path, no `..`, and no link.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lissom.errors import ModelError, near_files
from lissom.optional import require
from lissom.runtime.onnx_runtime import MODEL_FILE

DATA_FILE = "model.onnx.data"
_ONE_FILE_BYTES = 1_900_000_000
"""Most weights of a single file; protobuf ends at 2 GiB, of which the graph needs some."""
_SMALL_BYTES = 1024
"""Tensors that stay in the graph, where shape inference reads them."""


def load_onnx(path: Path) -> Any:
    """The ModelProto of a file, with the weights from other files read into it.

    Raises:
        ModelError: there is no file, it is no ONNX, or a path in it is unsafe, missing or cut short.
    """
    model = read_graph(path)
    _checked(model, path)
    try:
        require("onnx.external_data_helper", extra="cpu").load_external_data_for_model(
            model, str(path.parent)
        )
    except Exception as exc:  # the checker and the file system have errors of their own
        raise ModelError(f"the weights of {path} cannot be read: {str(exc).splitlines()[0]}") from exc
    return model


def external_files(path: Path) -> list[Path]:
    """The files in which an ONNX file keeps weights; see `load_onnx` for what is refused."""
    return _checked(read_graph(path), path)


def onnx_files(model: Any) -> Mapping[str, bytes]:
    """A model as payload files by name: one, or the graph and its weights where one would be too large."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= _ONE_FILE_BYTES:
        return {MODEL_FILE: model.SerializeToString(deterministic=True)}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / MODEL_FILE
        require("onnx", extra="cpu").save_model(
            model, path, save_as_external_data=True, location=DATA_FILE, size_threshold=_SMALL_BYTES
        )
        return {name: (Path(place) / name).read_bytes() for name in (MODEL_FILE, DATA_FILE)}


def read_graph(path: Path) -> Any:
    """The ModelProto of a file without the weights that lie in other files.

    Raises:
        ModelError: there is no file, or it is no ONNX.
    """
    try:
        return require("onnx", extra="cpu").load(path, load_external_data=False)
    except FileNotFoundError as exc:
        raise ModelError(f"no model at {path}") from exc
    except Exception as exc:  # protobuf raises its own DecodeError, which has no public home
        raise ModelError(f"{path} is not an ONNX model: {exc}") from exc


def _checked(model: Any, path: Path) -> list[Path]:
    helper: Any = require("onnx.external_data_helper", extra="cpu")
    tensors = [tensor for tensor in helper._get_all_tensors(model) if helper.uses_external_data(tensor)]
    found: dict[Path, None] = {}
    for tensor in tensors:
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        found[_safe(location, tensor.name, path)] = None
    return list(found)


def _safe(location: str, tensor: str, path: Path) -> Path:
    """The file that a tensor names."""
    named = f"{path} keeps {tensor!r} in {location!r}"
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not parts or PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive:
        raise ModelError(f"{named}, which is no path below its folder", hint=_single_file())
    if ".." in parts:
        raise ModelError(f"{named}, which leads out of its folder", hint=_single_file())
    file = path.parent.joinpath(*parts)
    steps = [path.parent.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    if any(step.is_symlink() for step in steps):
        raise ModelError(f"{named}, which is a link", hint="copy the file that it points to in its place")
    if not file.is_file():
        raise ModelError(f"{named}, which is not there", hint=near_files(str(file)))
    return file


def _single_file() -> str:
    return "where the model was made: onnx.save(onnx.load(FILE), 'single.onnx') writes one file"
