"""How long a torch model takes on a runtime, before it becomes an artifact.

The model is exported as a stage would do it, opened by the runtime, and timed in turns with the model that
it came from, so that a busy machine slows both. The figure is the share of that model's time.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from lissom.artifact import Artifact, Draft, Factory, Signature, TensorSpec
from lissom.bench.statistics import ratio
from lissom.bench.timing import time_interleaved
from lissom.compress.layer_times import LayerTimes
from lissom.errors import RequestError
from lissom.export.exporting import export
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.stages import FLOAT32_TOLERANCE, NUM_PROBE, Context, save_torch
from lissom.recipe import ExportConfig
from lissom.registry import runtime_entry
from lissom.runtime.arrays import tensor_of
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.sampled import take_samples

_NUM_ROUNDS = 12
_ROUND_MS = 10.0
_NUM_WARMUP = 10
_NUM_LAYER_CALLS = 20


class Stopwatch:
    """Times models against one that stays open; every figure is a share of that one's time.

    Nothing is written or opened before the first figure is asked for: of several processes that train
    together only one measures.

    Attributes:
        runtime: Name of the runtime.
        predicts: True where times can be predicted from single layers: where ONNX is executed.
    """

    def __init__(self, model: nn.Module, factory: Factory, context: Context, runtime: str, folder: Path):
        self.runtime = runtime
        self._model = copy.deepcopy(model)  # which may be changed before it is opened
        self._factory, self._folder = factory, folder
        self._context = replace(context, data=_few(context.data), progress=NoProgress())
        self._formats = runtime_entry(runtime).formats
        self._inputs = {key: array[:1] for key, array in self._context.probe_inputs().items()}
        self._opened: Runtime | None = None
        self.predicts = "onnx" in self._formats

    def __call__(self, other: nn.Module) -> float:
        """Time of another model, which is exported, opened and measured."""
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as place,
            open_runtime(self._written(other, Path(place) / "x"), self.runtime) as one,
        ):
            rounds = time_interleaved(
                {"whole": self._whole, "other": one},
                self._inputs,
                num_rounds=_NUM_ROUNDS,
                round_ms=_ROUND_MS,
                num_warmup=_NUM_WARMUP,
                progress=NoProgress(),
            )
            return 1 / ratio(rounds["whole"], rounds["other"]).value

    def predicted(self, other: nn.Module) -> float:
        """About the same from the times of single layers, in far less time; only where `predicts`."""
        return self.layers.predicted(other)

    @cached_property
    def layers(self) -> LayerTimes:
        """What single layers take; only where `predicts`."""
        example = [tensor_of(array) for array in self._inputs.values()]
        return LayerTimes(self._model, example, self._layer)

    def close(self) -> None:
        """Close the model that others are timed against."""
        if self._opened is not None:
            self._opened.close()

    @property
    def _whole(self) -> Runtime:
        """The model that others are timed against, opened."""
        if self._opened is None:
            self._opened = open_runtime(self._written(self._model, self._folder / "whole"), self.runtime)
        return self._opened

    def _layer(self, content: bytes, shape: Sequence[int]) -> float:
        """Time of an ONNX file with one input `x` float32 of this shape."""
        axes = tuple(f"axis_{axis}" for axis in range(len(shape)))
        spec, output = (TensorSpec(name=name, dtype="float32", shape=axes) for name in "xy")
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            with Draft(Path(place) / "layer") as draft:
                draft.add(MODEL_FILE, content)
                artifact = draft.commit(
                    **self._context.fields,
                    format="onnx",
                    precision="float32",
                    signature=Signature(inputs=(spec,), outputs=(output,)),
                    factory=None,
                    num_parameters=None,
                    notes={},
                    tolerance=FLOAT32_TOLERANCE,
                )
            with open_runtime(artifact, self.runtime) as layer:
                whole = (self._whole, self._inputs)
                alone = (layer, {spec.name: np.zeros(shape, np.float32)})
                before, found, after = (_typical_seconds(*timed) for timed in (whole, alone, whole))
        return 2 * found / (before + after)

    def _written(self, model: nn.Module, path: Path) -> Artifact:
        """The model as an artifact in the first of the formats of the runtime."""
        torch_place = replace(self._context, folder=path.with_name(f"{path.name}-torch"))
        artifact = save_torch(model, self._factory, torch_place, notes={})
        if "torch" in self._formats:
            return artifact
        onnx_place = replace(self._context, folder=path.with_name(f"{path.name}-onnx"))
        return export({"input": artifact}, ExportConfig(name="export"), onnx_place)


@contextmanager
def timed_against(
    model: nn.Module, factory: Factory, context: Context, runtime: str | None
) -> Iterator[Stopwatch]:
    """What measures other models as a share of the time of `model`, which stays open meanwhile.

    Args:
        model: The model that others are compared with.
        factory: That rebuilds it and the others.
        context: Of the stage; its folder is not written.
        runtime: Name of a runtime; default: the first that works.

    Raises:
        RequestError: the runtime is unknown, or executes neither torch nor ONNX.
        MissingExtra: it is not installed.
    """
    name = runtime or usable_runtimes(None)[0]
    formats = runtime_entry(name).formats
    if not {"torch", "onnx"} & set(formats):
        raise RequestError(f"latency cannot be measured in the formats {', '.join(formats)}")
    with tempfile.TemporaryDirectory() as folder:
        stopwatch = Stopwatch(model, factory, context, name, Path(folder))
        try:
            yield stopwatch
        finally:
            stopwatch.close()


def _typical_seconds(runtime: Runtime, inputs: Mapping[str, np.ndarray]) -> float:
    calls = take_samples(runtime)
    seconds = [calls.timed_infer(inputs)[1] for _ in range(_NUM_LAYER_CALLS)]
    return float(np.median(seconds[_NUM_LAYER_CALLS // 4 :]))


def _few(data: Data) -> Data:
    """A few samples, none of which is predicted: the report split is empty."""
    split = next(name for name in ("select", "calibrate", "train") if len(data.indices[name]))
    chosen = data.indices[split][:NUM_PROBE]
    dataset = data.dataset
    labels = None if dataset.labels is None else dataset.labels[chosen]
    few = replace(
        dataset,
        inputs={name: array[chosen] for name, array in dataset.inputs.items()},
        labels=labels,
        split=np.array(["select"] * len(chosen)),
        group=None,
    )
    return Data(data.source, few, data.taken)
