"""What the first output of a classifier holds: logits, probabilities, their logarithms, or sigmoids.

A loss that takes probabilities for logits hardly learns, and a second softmax tells every class 10 %. The
kind is found by trial. Every row of some samples must fit, and the same rows scaled up and turned round,
since logits may lie in [0, 1] for a while, but not for all inputs. What remains is asked once more with other
weights of the model: a softmax sums to one and a sigmoid stays in [0, 1] whatever the weights are, where
logits take any value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lissom.artifact import Signature
from lissom.runtime.layout import Layout
from lissom.runtime.scores import ScoreKind

if TYPE_CHECKING:
    from torch import nn

    from lissom.models.data import Data

Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
CLASSIFYING = ("classification", "language-modelling")
"""Tasks whose first output has a score for each class along its last axis."""
SAID: Mapping[ScoreKind, str] = {
    "logits": "the model gives logits",
    "probabilities": "the model gives probabilities: they are the scores, and the loss is that of log p",
    "log_probabilities": "the model gives logarithms of probabilities: scores are their exponentials",
    "sigmoids": "the model gives a sigmoid a class: they are the scores; the loss is binary cross-entropy",
}
"""What is told of a model whose first output holds these scores."""
NUM_SAMPLES = 32
_SCALES = (8.0, -8.0)
"""Of the inputs, by which a model is asked for more than the data show; not of tokens."""
_FACTORS = (4.0, -3.0, 300.0, -1000.0)
"""Of the weights, likewise."""
_TOLERANCES = {"float16": 5e-3, "bfloat16": 3e-2}
_TOLERANCE = 1e-4
"""Of a sum of float32 shares; that of a thousand rounded ones is off by about 1e-6."""


def kind_of(rows: np.ndarray, tolerance: float = _TOLERANCE) -> ScoreKind:
    """What outputs of shape [..., classes] may hold, judged by every row.

    >>> kind_of(np.array([[0.2, 0.8], [0.5, 0.5]])), kind_of(np.array([[2.0, -1.0]]))
    ('probabilities', 'logits')
    """
    rows = rows.reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1).astype(np.float64)
    if not rows.size or not np.isfinite(rows[~np.isneginf(rows)]).all():
        return "logits"
    several = rows.shape[1] > 1
    if rows.max() <= tolerance and several and _is_one(np.exp(rows).sum(axis=1), tolerance):
        return "log_probabilities"
    # One number that is never above 0 would, as a logit, never say the second class.
    if rows.max() <= tolerance and not several and rows.min() < 0:
        return "log_probabilities"
    if rows.min() < 0 or rows.max() > 1 + tolerance:
        return "logits"
    return "probabilities" if several and _is_one(rows.sum(axis=1), tolerance) else "sigmoids"


def kind_of_calls(call: Call, tensors: Mapping[str, np.ndarray]) -> ScoreKind:
    """What the first output of a model holds on these tensors and on scaled ones."""
    found = kind_of_call(call, tensors) or "logits"
    for batch in _scaled(tensors):
        if found == "logits":
            break
        found = _common(found, kind_of_call(call, batch, slack=100.0))
    return found


def kind_of_torch(model: nn.Module, signature: Signature, data: Data, task: str) -> ScoreKind:
    """What a torch model gives, asked with its own weights and, where that is no logits, with others."""
    import torch

    if task not in CLASSIFYING:
        return "logits"
    tensors = samples_of(data)
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            kind = kind_of_calls(_caller(model, signature), tensors)
            for seed, factor in enumerate(_FACTORS):
                if kind == "logits":
                    break
                changed = _with_other_weights(model, factor, seed)
                kind = _common(kind, kind_of_call(_caller(changed, signature), tensors, slack=100.0))
    finally:
        model.train(training)
    return kind


def samples_of(data: Data) -> dict[str, np.ndarray]:
    """A few samples after preprocessing, of the calibrate split where it has some."""
    split = next(name for name in ("calibrate", "train", "select", "report") if len(data.indices[name]))
    return {name: array[:NUM_SAMPLES] for name, array in data.tensors(split).items()}


def kind_of_call(call: Call, tensors: Mapping[str, np.ndarray], *, slack: float = 1.0) -> ScoreKind | None:
    """What a call gives; None where it fails or gives nothing finite, which says nothing.

    Args:
        call: Gives the outputs by name, the scores first.
        tensors: Of a few samples.
        slack: How many times as far from 1 a sum may be, such as of inputs that no one would send.
    """
    try:
        with np.errstate(all="ignore"):
            rows = np.asarray(next(iter(call(tensors).values())))
    except Exception:  # a forward may refuse inputs in any way; of its own that is told when they are stored
        return None
    if rows.dtype.kind != "f":
        return "logits"
    flat = rows.reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1)
    known = flat[~(np.isnan(flat) | np.isposinf(flat)).any(axis=1)]
    if slack > 1 and known.shape[1] == 1 and np.abs(known).max(initial=0.0) <= _TOLERANCE * slack:
        return None  # the end of a sigmoid, and of the logarithm of one
    return kind_of(known, _TOLERANCES.get(rows.dtype.name, _TOLERANCE * slack)) if len(known) else None


def _common(one: ScoreKind, other: ScoreKind | None) -> ScoreKind:
    """What fits both; sigmoids may sum to 1 by chance, and the sum of a constant model says little."""
    if other is None or one == other:
        return one
    return "sigmoids" if {one, other} == {"probabilities", "sigmoids"} else "logits"


def _caller(model: Any, signature: Signature) -> Call:
    from lissom.runtime.pytorch import call_model

    layout = Layout(signature)
    return lambda batch: layout.infer_samples(lambda given: call_model(model, signature, given), batch)


def _with_other_weights(model: nn.Module, factor: float, seed: int) -> Callable[..., Any]:
    """The model with every parameter scaled, and moved at random, since a head may start at zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            spread = max(parameter[:1].numel(), 1) ** -0.5 if parameter.ndim > 1 else 1.0
            weights[name] = factor * parameter.detach() + spread * noise
    return lambda *inputs: torch.func.functional_call(model, weights, inputs)


def _scaled(tensors: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The tensors times each of the scales, where there is anything but tokens."""
    if not any(array.dtype.kind == "f" for array in tensors.values()):
        return
    for scale in _SCALES:
        with np.errstate(over="ignore"):  # the lowest float in a mask
            scaled = {
                name: array * np.asarray(scale, array.dtype) if array.dtype.kind == "f" else array
                for name, array in tensors.items()
            }
        yield scaled


def _is_one(sums: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(sums - 1).max() <= tolerance)
