"""How many samples a forward takes: any number, or only the one that it was written for.

A forward such as `self.head(x.view(1, -1))` takes one sample, another with `view(8, 32)` takes eight. Such a
model is called as often as there are samples (see `lissom.adaptation.adapt`), which is slower and right.
Whether it is one is found by trying two numbers, then those that people write down. A forward may also take
any number and answer once, `x.view(1, -1, 16)` takes a batch for a sequence; with labels for each sample it
is meant for one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lissom.adaptation import is_uninitialized, named_tensors
from lissom.errors import ModelError
from lissom.logs import log
from lissom.models.data import Data
from lissom.models.repeatability import buffers_kept
from lissom.models.stages import call

if TYPE_CHECKING:
    from torch import nn

_USUAL = (1, 2, 4, 8, 16, 32, 64, 128)

Samples = Mapping[str, np.ndarray]


def samples_per_call(model: nn.Module, data: Data, samples: Samples) -> int:
    """The number of samples that a forward takes where it takes no other; 0 where it takes any.

    0 also where it takes none of those that were tried: a call then shows what is wrong.

    Args:
        model: In evaluation mode; left as it was.
        data: Of its inputs.
        samples: A few of them.
    """
    rows = len(next(iter(samples.values())))
    if rows < 2:
        return 0
    trial = _trial(model)
    if trial is None:
        return 0
    found = [_outputs(trial, data, rows_of(samples, count)) for count in (rows, rows - 1)]
    if None not in found:
        size = 1 if _answers_once(trial, data, samples, found) else 0
    else:
        size = next((count for count in _USUAL if _answers_each(model, data, samples, count)), 0)
    if size:
        log.warning(
            "the forward answers %d sample%s a call, and no other number: it is called for each%s",
            size,
            "" if size == 1 else "s",
            "" if size == 1 else f" {size}",
        )
    return size


def rows_of(samples: Samples, count: int) -> dict[str, np.ndarray]:
    """So many samples: those that there are, again and again."""
    return {name: array[np.arange(count) % len(array)] for name, array in samples.items()}


def _outputs(model: nn.Module, data: Data, samples: Samples) -> list[Tensor] | None:
    """What the forward gives; None where it does not take so many samples."""
    with suppress(ModelError), torch.random.fork_rng(devices=[]), buffers_kept(model):
        return list(named_tensors(call(model, data, samples)).values())
    return None


def _trial(model: nn.Module) -> nn.Module | None:
    """A model that may be called: lazy layers take their shapes of the first call, so that a copy is.

    None where they cannot be copied, as torch copies no lazy norm.
    """
    if not is_uninitialized(model):
        return model
    with suppress(ValueError):
        return copy.deepcopy(model)
    return None


def _answers_each(model: nn.Module, data: Data, samples: Samples, count: int) -> bool:
    """True where the forward takes so many samples, and several have an answer each."""
    trial = _trial(model) or model
    found = _outputs(trial, data, rows_of(samples, count))
    return bool(found) and (count == 1 or all(tensor.shape[:1] == (count,) for tensor in found or ()))


def _answers_once(
    model: nn.Module, data: Data, samples: Samples, found: Sequence[list[Tensor] | None]
) -> bool:
    """True where samples that have labels get one answer all together, and each gets one alone."""
    more, fewer = (found[0] or []), (found[1] or [])
    if data.dataset.labels is None or len(more) != len(fewer):
        return False
    for one, other in zip(more, fewer, strict=True):
        if one.shape != other.shape or one.shape[:1] != (1,):
            return False
    alone = _outputs(model, data, rows_of(samples, 1))
    return bool(more) and alone is not None and [one.shape for one in alone] == [one.shape for one in more]
