"""Values to be predicted are learned with mean 0 and deviation 1, and answered in the unit of the user.

A step of the optimiser is made for outputs of about 1: prices of 200,000 diverge, and shares of 0.001 are not
learned at all. The targets are therefore standardised by the mean m and the deviation s of the train split,
column by column, while weights are trained. Then the scale is folded into the last layer,

    W <- s W,   b <- s b + m

so that the artifact, and every file made of it, gives the unit of the user by itself: there is no step
behind the model that a runtime, an exporter or whoever loads the ONNX file could forget. It takes a linear
layer with a bias whose outputs are those of the model. Where a model ends otherwise, such as in a softplus,
its outputs have a meaning in their unit, and its targets are left in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lissom.logs import log
from lissom.models.data import Data
from lissom.models.preparation import moments
from lissom.models.tasks import Regression, Task
from lissom.runtime.arrays import tensor_of

_CLOSE = 1e-4
"""Share of the deviation by which an output may be off after the scale was folded."""
_NUM_SAMPLES = 256


@dataclass(frozen=True)
class TargetScale:
    """Mean and deviation of the targets, and the layer that takes them in.

    Attributes:
        mean: Of each column of the train labels.
        std: Likewise, above 0.
        layer: The last layer; None where another model gives standardised outputs already.
    """

    mean: Tensor
    std: Tensor
    layer: nn.Linear | None = None

    def standardize(self, values: Tensor) -> Tensor:
        """Values in the unit of the user, with mean 0 and deviation 1; shape and dtype stay."""
        return self._over(values, lambda own: (own - self.mean.to(own)) / self.std.to(own))

    def restore(self, values: Tensor) -> Tensor:
        """`standardize`, inverted."""
        return self._over(values, lambda own: own * self.std.to(own) + self.mean.to(own))

    def take_out(self) -> None:
        """Let the last layer give standardised outputs."""
        self._change(1 / self.std, -self.mean / self.std)

    def put_back(self) -> None:
        """Let the last layer give the unit of the user."""
        self._change(self.std, self.mean)

    def notes(self) -> dict[str, list[float]]:
        """As the manifest has them."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def _over(self, values: Tensor, change: Any) -> Tensor:
        found: Tensor = change(values.double().reshape(len(values), -1)).to(values.dtype)
        return found.reshape(values.shape)

    @torch.no_grad()
    def _change(self, factor: Tensor, shift: Tensor) -> None:
        assert self.layer is not None
        weight, bias = self.layer.weight, self.layer.bias
        weight.copy_(weight.double() * factor.to(weight.device)[:, None])
        bias.copy_(bias.double() * factor.to(bias.device) + shift.to(bias.device))


def find_target_scale(model: nn.Module, data: Data, task: Task) -> TargetScale | None:
    """The scale by which a model is to be trained; None where its targets stay as they are."""
    if data.kind != "values" or type(task) is not Regression:
        return None
    mean, std = (tensor_of(array) for array in moments(data.labels("train")))
    layer = _last_layer(model, _sample(data), len(mean))
    if layer is None:
        log.info("targets stay in their unit: the model does not end in a linear layer with a bias")
        return None
    found = TargetScale(mean, std, layer)
    return found if _folds(model, found, _sample(data)) else None


@contextmanager
def standardized(model: nn.Module, scale: TargetScale | None, data: Data) -> Iterator[None]:
    """Train a model inside: it gives standardised outputs there, and the unit of the user afterwards.

    What a new model gives has no unit; it is taken for standardised where that is nearer to the targets.
    """
    if scale is None:
        yield
        return
    sample = _sample(data)
    targets = scale.standardize(tensor_of(data.labels("train")[:_NUM_SAMPLES])).reshape(-1)
    errors = []
    for values in (given := _first(model, sample), scale.standardize(given)):
        errors.append(float((values.reshape(-1).double() - targets).square().mean()))
    if not errors[0] <= errors[1]:
        scale.take_out()
    try:
        yield
    finally:
        scale.put_back()


def _sample(data: Data) -> list[Tensor]:
    return [tensor_of(array[:_NUM_SAMPLES]) for array in data.tensors("train").values()]


@torch.no_grad()
def _first(model: nn.Module, sample: Sequence[Tensor]) -> Tensor:
    training = model.training
    outputs = model.eval()(*sample)
    model.train(training)
    found: Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return found


def _last_layer(model: nn.Module, sample: Sequence[Tensor], num_columns: int) -> nn.Linear | None:
    """The linear layer whose outputs are the model's, if its weights are its own and used once."""
    given: list[tuple[nn.Linear, Tensor]] = []
    handles: list[RemovableHandle] = []
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is not None and module.out_features == num_columns:
            handles.append(
                module.register_forward_hook(lambda own, _, output: given.append((own, output.detach())))
            )
    try:
        final = _first(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    if not given or not isinstance(final, Tensor):
        return None
    layer, output = given[-1]
    uses = [own for own, _ in given].count(layer)
    named = dict(model.named_parameters(remove_duplicate=False))
    own = sum(one is layer.weight or one is layer.bias for one in named.values()) == 2
    same = output.numel() == final.numel() and torch.equal(output.reshape(-1), final.reshape(-1))
    return layer if same and own and uses == 1 else None


def _folds(model: nn.Module, scale: TargetScale, sample: Sequence[Tensor]) -> bool:
    """Try it: the model must give the restored outputs, and its own again when the weights are put back."""
    layer = scale.layer
    assert layer is not None
    kept = layer.weight.detach().clone(), layer.bias.detach().clone()
    before = _first(model, sample)
    scale.put_back()
    error = (_first(model, sample).double() - scale.restore(before.double())).reshape(-1, len(scale.std))
    with torch.no_grad():
        layer.weight.copy_(kept[0])
        layer.bias.copy_(kept[1])
    limit = _CLOSE * (scale.std + scale.mean.abs() + scale.std * float(before.abs().max()))
    return bool((error.abs() <= limit).all())
