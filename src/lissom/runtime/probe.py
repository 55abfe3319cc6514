"""The probe: a few inputs and the outputs that a model gave when it was made, to be reproduced later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from lissom.artifact import Artifact, Tolerance
from lissom.errors import ArtifactError, LissomError, RequestError
from lissom.logs import log
from lissom.registry import COMPILING, runtimes_for
from lissom.runtime.arrays import safetensors_bytes
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.differences import difference, worst

PROBE_FILE = "probe.safetensors"
Tensors = Mapping[str, np.ndarray]


class ProbeError(NamedTuple):
    """How far a freshly opened model is from its probe.

    Attributes:
        max_abs_error: Where both have numbers.
        passed: It is within the tolerance everywhere, and no value is NaN or infinite on one side alone.
        absolute: Of the tolerance.
        relative: Of the tolerance.
        nonfinite: Values that are NaN or infinite on one side alone.
        told: What differs, in words.
    """

    max_abs_error: float
    passed: bool
    absolute: float
    relative: float
    nonfinite: int = 0
    told: str = ""


def probe_bytes(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> bytes:
    """Inputs and outputs of one call as the bytes of a safetensors file."""
    tensors = {f"input.{name}": array for name, array in inputs.items()}
    tensors |= {f"output.{name}": array for name, array in outputs.items()}
    return safetensors_bytes(tensors)


def load_probe(artifact: Artifact) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs of the stored probe."""
    tensors = safetensors.numpy.load(artifact.file(PROBE_FILE).read_bytes())
    inputs, outputs = (
        {name.removeprefix(kind): array for name, array in tensors.items() if name.startswith(kind)}
        for kind in ("input.", "output.")
    )
    return inputs, outputs


def probe_error(runtime: Runtime) -> ProbeError:
    """Call a runtime with the stored probe; it passes within the tolerance of the manifest."""
    inputs, wanted = load_probe(runtime.artifact)
    tolerance = runtime.artifact.manifest.tolerance
    found = runtime.infer_batch(inputs)
    apart = worst([difference(array, found[name]) for name, array in wanted.items()])
    passed = _is_within(found, wanted, tolerance)
    error = 0.0 if apart.shapes else apart.max_abs_error
    return ProbeError(error, passed, tolerance.absolute, tolerance.relative, apart.nonfinite, str(apart))


def _is_within(found: Tensors, wanted: Tensors, tolerance: Tolerance) -> bool:
    return all(
        found[name].shape == array.shape
        and np.allclose(found[name], array, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
        for name, array in wanted.items()
    )


def check_probe(runtime: Runtime) -> None:
    """Refuse an engine that gives other answers than those that were stored when the artifact was made.

    A model with random operators, which answers the same samples in two ways, cannot be held against them,
    nor one whose source has changed and was accepted.

    Raises:
        ArtifactError: saying how far the answers are apart.
    """
    error = probe_error(runtime)
    if error.passed or _is_accepted(runtime):
        return
    inputs, _ = load_probe(runtime.artifact)
    one, other = runtime.infer_batch(inputs), runtime.infer_batch(inputs)
    if not _is_within(other, one, runtime.artifact.manifest.tolerance):
        return
    raise ArtifactError(
        f"{runtime.artifact.manifest.recipe} on {runtime.name} does not reproduce its stored probe: "
        f"{error.told}",
        hint="name another runtime with --runtime, or run the recipe again on this machine",
    )


def _is_accepted(runtime: Runtime) -> bool:
    if runtime.artifact.manifest.format != "torch":
        return False
    from lissom.structure import is_accepted  # imports torch

    return is_accepted(runtime.artifact)


def open_checked(artifact: Artifact, name: str | None = None, *, only_warn: bool = False) -> Runtime:
    """Open an artifact where it gives the answers that were stored when it was made.

    An engine may compute something else from a valid model and say nothing of it.

    Args:
        artifact: An artifact.
        name: Of the runtime; default: the first that works and gives those answers.
        only_warn: Take a runtime that was named as it is, with a warning: what is measured is how good it is.

    Raises:
        ArtifactError: the named runtime, or every one, gives others.
        LissomError: as `open_runtime`.
    """
    names = runtimes_for(artifact.manifest.format) if name is None else [name]
    names = [each for each in names if name is not None or each not in COMPILING]
    problem: LissomError | None = None
    for each in names:
        try:
            return _opened(artifact, each, only_warn=only_warn and name is not None)
        except LissomError as exc:
            problem = problem or exc
            if len(names) > 1 and isinstance(exc, ArtifactError):
                log.warning("%s", exc)
    raise problem or RequestError(f"no runtime executes {artifact.manifest.format} artifacts here")


def _opened(artifact: Artifact, name: str, *, only_warn: bool) -> Runtime:
    runtime = open_runtime(artifact, name)
    if not any(entry.path.endswith(PROBE_FILE) for entry in artifact.manifest.files):
        return runtime  # of an artifact that was written by hand
    try:
        check_probe(runtime)
    except BaseException as exc:
        if only_warn and isinstance(exc, ArtifactError):
            log.warning("%s", exc)
            return runtime
        runtime.close()
        raise
    return runtime
