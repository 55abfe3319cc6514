"""Hints: a layer of the student is led to what a layer of the teacher gives.

    hint = mean of (r(student's features) - teacher's features)^2

Romero et al., FitNets, arXiv 1412.6550. The student is thinner than its teacher, so a regressor r, one linear
map of the channels at every place (a 1x1 convolution of an image), is learned together with it by the same
optimiser. The regressor is part of what is trained and of its checkpoints, never of the student's artifact.

Features of shape [batch, channels, height, width] keep their channels on the second axis, all others on the
last. Where the maps differ in height or width the larger is averaged down. Of tokens only the positions that
count lead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.errors import ModelError, near

_IMAGE_AXES = 4


class Listener:
    """Keeps what a module gives whenever the model around it is called.

    Args:
        model: The model.
        layer: Name of the module.
        owner: Whose model it is, for messages.

    Raises:
        ModelError: the model has no module of that name.
    """

    def __init__(self, model: nn.Module, layer: str, owner: str) -> None:
        modules = dict(model.named_modules())
        if not layer or layer not in modules:
            raise ModelError(
                f"{owner}_layer {layer!r} is no module of the {owner}",
                hint=near(layer, filter(None, modules)),
            )
        self.layer, self.owner = layer, owner
        self._heard: Tensor | None = None
        self._handle = modules[layer].register_forward_hook(self._hear)

    def take(self) -> Tensor:
        """What the module gave in the last call.

        Raises:
            ModelError: it was not called.
        """
        if self._heard is None:
            raise ModelError(
                f"{self.owner}_layer {self.layer!r} is not called by the model",
                hint="name a module that is called, such as the block around it",
            )
        heard, self._heard = self._heard, None
        return heard

    def stop(self) -> None:
        """Leave the model as it was."""
        self._handle.remove()
        self._heard = None

    def _hear(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        if not isinstance(first, Tensor):
            raise ModelError(
                f"{self.owner}_layer {self.layer!r} gives a {type(first).__name__}, not a tensor"
            )
        self._heard = first


class Led(nn.Module):
    """A student and the map of its features, trained as one model that answers as the student.

    Args:
        student: The student.
        layer: Name of the module of the student that is led.
        example: Positional inputs of a few samples.
        wanted: The teacher's features of these samples.
        seed: Decides the map at the beginning.

    Raises:
        ModelError: there is no such module, or its features do not fit the teacher's.
    """

    def __init__(
        self, student: nn.Module, layer: str, example: list[Tensor], wanted: Tensor, *, seed: int
    ) -> None:
        super().__init__()
        self.student = student
        self._listener = Listener(student, layer, "student")
        with torch.no_grad():
            student.eval()(*example)
        features = self._listener.take()
        _check_fit(features, wanted)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.regressor = nn.Linear(_channels_last(features).shape[-1], _channels_last(wanted).shape[-1])

    def forward(self, *inputs: Tensor) -> Any:
        """The student's outputs."""
        outputs = self.student(*inputs)
        if not self.training:  # what validation saw must not be taken for a batch, nor be copied with weights
            self._listener.take()
        return outputs

    def distance(self, wanted: Tensor, counted: Tensor | None = None) -> Tensor:
        """Mean squared distance of the mapped features of the last call to the teacher's.

        Args:
            wanted: The teacher's features of the same samples.
            counted: True at the tokens that count, shape [batch, length]; default: everything does.
        """
        found, wanted = (_channels_last(part) for part in _same_size(self._listener.take(), wanted))
        if counted is not None and found.shape[:-1] == counted.shape:
            found, wanted = found[counted], wanted[counted]
        return functional.mse_loss(self.regressor(found).float(), wanted.float())

    def release(self) -> nn.Module:
        """The student, as it was before but for its weights."""
        self._listener.stop()
        return self.student


def _same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the lesser height and width."""
    if one.ndim != _IMAGE_AXES or one.shape[2:] == other.shape[2:]:
        return one, other
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return functional.adaptive_avg_pool2d(one, size), functional.adaptive_avg_pool2d(other, size)


def _channels_last(features: Tensor) -> Tensor:
    return features.movedim(1, -1) if features.ndim == _IMAGE_AXES else features


def _check_fit(found: Tensor, wanted: Tensor) -> None:
    places = [
        part.shape[1:-1] if part.ndim != _IMAGE_AXES else torch.Size([0, 0]) for part in (found, wanted)
    ]
    if found.ndim < 2 or found.ndim != wanted.ndim or places[0] != places[1]:
        raise ModelError(
            f"student_layer gives features of shape {list(found.shape[1:])} for a sample, "
            f"teacher_layer {list(wanted.shape[1:])}; they cannot be compared place by place",
            hint="name layers whose features differ in their channels alone, or in the size of an image",
        )
