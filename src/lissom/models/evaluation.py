"""Predictions of any runtime on a split, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lissom.models.data import Data

Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def predict(call: Call, inputs: Mapping[str, np.ndarray], *, batch_size: int = 64) -> np.ndarray:
    """First output of every sample, shape [samples, ...].

    Args:
        call: `infer` of a runtime, or anything like it.
        inputs: Preprocessed tensors of shape [samples, ...].
        batch_size: Samples in a call.
    """
    num_samples = len(next(iter(inputs.values())))
    outputs = []
    for start in range(0, num_samples, batch_size):
        batch = {name: array[start : start + batch_size] for name, array in inputs.items()}
        outputs.append(next(iter(call(batch).values())))
    return np.concatenate(outputs)


def predicted_labels(call: Call, data: Data, split: str) -> np.ndarray:
    """Index of the highest output of every sample of a split, shape [samples]."""
    labels: np.ndarray = predict(call, data.tensors(split)).argmax(axis=-1)
    return labels
