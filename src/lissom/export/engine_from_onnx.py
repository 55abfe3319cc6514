"""ONNX to a TensorRT engine, through Polygraphy.

The network is strongly typed: types and Q/DQ stand in the ONNX file, because TensorRT 11 removed builder
flags and calibrators, and 10.16 accepts the same. What the builder timed on this GPU is kept in a cache, so
that building the same layers again takes seconds. An engine holds for the TensorRT, GPU and driver that
built it, which the manifest names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import Signature, TensorSpec
from lissom.errors import MachineError, ModelError
from lissom.export.onnx_file import name_axes, strip
from lissom.optional import require
from lissom.runtime.layout import Layout
from lissom.runtime.tensor_rt import BATCHES, ENGINE_FILE, built_here


def engine_from_onnx(
    model: Any, signature: Signature, samples: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, bytes], dict[str, str]]:
    """The engine as a file, and what it is bound to.

    Args:
        model: ONNX ModelProto; it is stripped.
        signature: Its inputs and outputs.
        samples: Inputs by name, whose sizes beside the batch are the largest of the profile.

    Raises:
        MachineError: there is no GPU.
        ModelError: TensorRT cannot build the model.
    """
    built_on = built_here()
    if not built_on["gpu"]:
        raise MachineError(
            "TensorRT builds on the GPU that will run the engine, and this machine has none",
            hint="--format onnx makes a file that can be built there",
        )
    backend: Any = require("polygraphy.backend.trt", extra="gpu")
    onnx = require("onnx", extra="gpu")
    strip(model)
    name_axes(model, signature)
    profile = backend.Profile()
    for name, shapes in profile_shapes(signature, samples).items():
        profile.add(name, *shapes)
    cache = str(_timing_cache())
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        onnx.save(model, path)
        try:
            engine = backend.EngineBytesFromNetwork(
                backend.NetworkFromOnnxPath(str(path), strongly_typed=True),
                config=backend.CreateConfig(profiles=[profile], load_timing_cache=cache),
                save_timing_cache=cache,
            )()
        except require("polygraphy.exception", extra="gpu").PolygraphyException as exc:
            raise ModelError(
                f"TensorRT cannot build the model: {(str(exc) or 'see its log').splitlines()[0][:400]}",
                hint="--format onnx runs on ONNX Runtime's CUDA provider",
            ) from exc
    return {ENGINE_FILE: bytes(engine)}, built_on


def profile_shapes(
    signature: Signature, samples: Mapping[str, np.ndarray]
) -> dict[str, list[tuple[int, ...]]]:
    """Smallest, typical and largest shape of every input; axes beside the batch are 1 to what the data have.

    >>> from lissom.artifact import TensorSpec
    >>> _shapes(TensorSpec(name="x", dtype="float32", shape=("batch", 3, "length")), (3, 64), 0)
    [(1, 3, 1), (8, 3, 64), (256, 3, 64)]
    >>> _shapes(TensorSpec(name="h", dtype="float32", shape=(2, "batch", 5)), (2, 5), 1)
    [(2, 1, 5), (2, 8, 5), (2, 256, 5)]
    """
    layout = Layout(signature)
    whole, axes = layout.with_state_samples(samples), layout.batching.inputs
    return {
        spec.name: _shapes(spec, whole[spec.name].shape[1:], axes[spec.name]) for spec in signature.inputs
    }


def _shapes(spec: TensorSpec, sample: tuple[int, ...], axis: int | None) -> list[tuple[int, ...]]:
    found = []
    for batch in BATCHES:
        is_small, sizes, shape = batch == BATCHES[0], iter(sample), []
        for place, size in enumerate(spec.shape):
            own = batch if place == axis else next(sizes)
            shape.append(size if isinstance(size, int) else 1 if is_small else own)
        found.append(tuple(shape))
    return found


def _timing_cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lissom"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "tensorrt-timing.cache"
