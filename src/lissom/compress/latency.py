"""How long a torch model takes on a runtime, before it becomes an artifact.

The model is exported as a stage would do it, opened by the runtime, and timed in turns with the model that
it came from, so that a busy machine slows both. The figure is the share of that model's time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from lissom.artifact import Artifact, Factory
from lissom.bench.statistics import ratio
from lissom.bench.timing import time_interleaved
from lissom.compress.targets import Cost
from lissom.errors import RequestError
from lissom.export.onnx_from_torch import export
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.stages import NUM_PROBE, Context, save_torch
from lissom.recipe import ExportConfig
from lissom.registry import runtime_entry
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import Runtime, open_runtime

_NUM_ROUNDS = 12
_ROUND_MS = 10.0
_NUM_WARMUP = 10


@contextmanager
def timed_against(
    model: nn.Module, factory: Factory, context: Context, runtime: str | None
) -> Iterator[Cost]:
    """What measures a model as a share of the time of `model`, which stays open meanwhile.

    Args:
        model: The model that others are compared with.
        factory: That rebuilds it and the others.
        context: Of the stage; its folder is not written.
        runtime: Name of a runtime; default: the first that works.

    Raises:
        RequestError: the runtime is unknown.
        MissingExtra: it is not installed.
    """
    name = runtime or usable_runtimes(None)[0]
    formats = runtime_entry(name).formats
    with tempfile.TemporaryDirectory() as folder:
        small = replace(context, data=_few(context.data), progress=NoProgress())

        def opened(other: nn.Module, label: str) -> Runtime:
            return open_runtime(_written(other, factory, small, Path(folder) / label, formats), name)

        with opened(model, "whole") as whole:
            inputs = {key: array[:1] for key, array in small.probe_inputs().items()}

            def share(other: nn.Module) -> float:
                with (
                    tempfile.TemporaryDirectory(dir=folder) as place,
                    opened(other, f"{Path(place).name}/x") as one,
                ):
                    rounds = time_interleaved(
                        {"whole": whole, "other": one},
                        inputs,
                        num_rounds=_NUM_ROUNDS,
                        round_ms=_ROUND_MS,
                        num_warmup=_NUM_WARMUP,
                        progress=NoProgress(),
                    )
                return 1 / ratio(rounds["whole"], rounds["other"]).value

            yield share


def _few(data: Data) -> Data:
    """A few samples, none of which is predicted: the report split is empty."""
    split = next(name for name in ("select", "calibrate", "train") if len(data.indices[name]))
    chosen = data.indices[split][:NUM_PROBE]
    dataset = data.dataset
    labels = None if dataset.labels is None else dataset.labels[chosen]
    return Data(
        data.source,
        replace(
            dataset,
            inputs={name: array[chosen] for name, array in dataset.inputs.items()},
            labels=labels,
            split=np.array(["select"] * len(chosen)),
            group=None,
        ),
    )


def _written(
    model: nn.Module, factory: Factory, context: Context, path: Path, formats: tuple[str, ...]
) -> Artifact:
    """The model as an artifact in the first of the formats."""
    if not {"torch", "onnx"} & set(formats):
        raise RequestError(f"latency cannot be measured in the formats {', '.join(formats)}")
    torch_place = replace(context, folder=path.with_name(f"{path.name}-torch"))
    artifact = save_torch(model, factory, torch_place, notes={})
    if "torch" in formats:
        return artifact
    config = ExportConfig(name="export")
    return export({"input": artifact}, config, replace(context, folder=path.with_name(f"{path.name}-onnx")))
