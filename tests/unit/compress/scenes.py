"""Samples around a model, for tests of pruning."""

from __future__ import annotations

import torch
from tests.unit.small import KWARGS, data_for
from torch import nn

from lissom.artifact import Signature, TensorSpec
from lissom.compress.samples import Samples
from lissom.models.data import Data
from lissom.models.tasks import task_of
from lissom.registry import MODELS, resolve


def built(name: str, **kwargs: object) -> nn.Module:
    """A built-in model in its small size."""
    torch.manual_seed(0)
    images = {"in_channels": 1} if name == "vit" or name.startswith(("res", "vgg")) else {}
    model = resolve(name, known=MODELS)(**{**KWARGS[name], **images, **kwargs})
    assert isinstance(model, nn.Module)
    return model.eval()


def samples_for(data: Data) -> Samples:
    """Samples of a classifier or language model of these data."""
    output = TensorSpec(name="logits", dtype="float32", shape=("batch", 4))
    signature = Signature(inputs=data.input_specs, outputs=(output,))
    example = [torch.from_numpy(array[:2]) for array in data.tensors("select").values()]
    kind = {"classes": "classification", "tokens": "language-modelling"}[data.kind]
    return Samples(data, task_of(kind, data), signature, example)


def samples(name: str) -> Samples:
    """Samples that a built-in model takes."""
    return samples_for(data_for(name))


def outputs(model: nn.Module, found: Samples) -> torch.Tensor:
    """What a model gives for the example."""
    with torch.inference_mode():
        given: torch.Tensor = model(*found.example)
    return given
