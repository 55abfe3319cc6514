"""What was proven of the samples when an artifact was made, proven again on the engine that computes it.

Another engine has other kernels, and an artifact from before there was a proof has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lissom.artifact import Batching
from lissom.logs import log
from lissom.runtime.base import Runtime
from lissom.runtime.batching import MOST, prove_batching, prove_fixed
from lissom.runtime.confirmation import holds
from lissom.runtime.layout import assume_batching
from lissom.runtime.probe import load_probe


def prove_on(runtime: Runtime, most: int = MOST) -> Batching:
    """Where the samples lie as an engine computes them, and whether they may share a call.

    What was found to be computed apart stays so. What was found to share calls is confirmed in few of them,
    and proven from the start where that fails or nothing is known; neither where the engine takes one sample
    a call anyway. A difference is logged.

    Args:
        runtime: The engine, opened.
        most: Samples that will share a call at most.
    """
    told = runtime.signature.batching
    if runtime.max_batch == 1 or (told is not None and not told.joins):
        return told or assume_batching(runtime.signature)
    samples = load_probe(runtime.artifact)[0]
    if told is not None and _is_confirmed(runtime, samples, told, most):
        return told
    found = reprove(runtime, samples, most)
    if told is not None and not found.joins:
        log.warning(
            "%s on %s: requests are not computed together, though they were where it was made: %s",
            runtime.artifact.manifest.recipe,
            runtime.name,
            found.reason,
        )
    return found


def _is_confirmed(runtime: Runtime, samples: Mapping[str, np.ndarray], told: Batching, most: int) -> bool:
    whole, precision = runtime.layout.with_state_samples(samples), runtime.artifact.manifest.precision
    return holds(runtime.infer, whole, told, precision=precision, most=most)


def reprove(runtime: Runtime, samples: Mapping[str, np.ndarray], most: int = MOST) -> Batching:
    """Run the experiment on an opened runtime.

    Args:
        runtime: It.
        samples: A few arrays of shape [samples, ...] by input name; recurrent states may be left out.
        most: Samples that will share a call at most.
    """
    told, precision = runtime.layout.batching, runtime.artifact.manifest.precision
    whole = runtime.layout.with_state_samples(samples)
    if told.size not in (None, 1):
        found = prove_fixed(runtime.infer, whole, told.inputs, told.size, states=told.states)
    else:
        found = prove_batching(
            runtime.infer, whole, [told.inputs], precision=precision, states=told.states, most=most
        ) or prove_fixed(runtime.infer, whole, told.inputs, 1, states=told.states)
    return found or told.model_copy(
        update={"joins": False, "reason": "it does not run on the samples of its probe"}
    )
