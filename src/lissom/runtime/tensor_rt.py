"""TensorRT: an engine that was built on this kind of GPU, run through Polygraphy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.errors import ArtifactError
from lissom.optional import require, version
from lissom.runtime.base import Runtime
from lissom.runtime.machine import machine

ENGINE_FILE = "model.engine"
BATCHES = (1, 8, 256)
"""Smallest, typical and largest batch that an engine is built for."""


def built_here() -> dict[str, str]:
    """What an engine that is built here is bound to: TensorRT, GPU and driver; empty where there is none."""
    gpu, _, driver = next(iter(machine()["gpus"]), "").partition(",")
    return {"tensorrt": version("tensorrt"), "gpu": gpu.strip(), "driver": driver.strip()}


class TensorRt(Runtime):
    """An execution context of an engine, with buffers on the GPU."""

    name = "tensorrt"
    thread_safe = False
    devices = ("cuda",)
    max_batch = BATCHES[-1]

    def _open_impl(self) -> None:
        self._check_built_here()
        backend: Any = require("polygraphy.backend.trt", extra="gpu")
        faults = require("polygraphy.exception", extra="gpu").PolygraphyException
        path = self.artifact.file(ENGINE_FILE)
        try:
            self.runner: Any = backend.TrtRunner(backend.EngineFromBytes(path.read_bytes()))
            self.runner.activate()
        except faults as exc:
            raise ArtifactError(f"TensorRT cannot open {path}: {str(exc).splitlines()[0]}") from exc

    def _check_built_here(self) -> None:
        built, here = self.artifact.manifest.notes.get("built_on", {}), built_here()
        for what in ("gpu", "tensorrt", "driver"):
            if built.get(what) and built[what] != here[what]:
                raise ArtifactError(
                    f"the engine was built for {what} {built[what]}, found {here[what] or 'none'}",
                    hint="lissom export MODEL --data DATA --format tensorrt builds it for this machine",
                )

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self.runner.infer(dict(inputs), check_inputs=False, copy_outputs_to_host=True)
        return {spec.name: np.array(outputs[spec.name]) for spec in self.signature.outputs}

    def close(self) -> None:
        """Free the execution context and its buffers."""
        self.runner.deactivate()
