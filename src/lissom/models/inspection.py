"""What goes on inside a model while it computes samples: its layers, what they hold, and units that are dead.

Every layer with weights is watched while samples pass through it once: the histogram of its weights and of
what it gives, its parameters and operations. A unit of a rectifier is dead for these samples when it is zero
for all of them: it could be removed without a trace. Rectifiers are seen where torch computes them, so that
one which a forward calls as a function counts too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lissom.adaptation import call_size
from lissom.errors import ModelError, near
from lissom.runtime.arrays import tensor_of

REST = "(rest)"
"""What stands in the model itself, and in none of its modules."""
NUM_BINS = 48
MOST_MAPS = 32
"""Channels of a layer that are shown, those that vary most first."""
MOST_VALUES = 1 << 26
"""Of one tensor of all samples that are watched: 256 MiB, and four times as much while they are counted."""
_RECTIFIERS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu6)
_CLAMPS = (nn.functional.hardtanh, torch.clamp, Tensor.clamp, torch.clip, Tensor.clip)
"""Rectifiers where they begin at zero."""


class Histogram(NamedTuple):
    """Values counted in bins of equal width.

    Attributes:
        low: Smallest value.
        high: Largest value.
        counts: By bin.
        mean: Of all values.
        deviation: Standard deviation of all values.
        num_outside: Values that are not finite, which are not counted.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    mean: float
    deviation: float
    num_outside: int = 0


class Grid(NamedTuple):
    """Steps in which quantized values lie.

    Attributes:
        low: Smallest value that can be written down; in steps where each channel has its own step.
        high: Largest value.
        step: Between two values; None where each channel has its own, and the histogram counts steps.
        num_levels: Steps that there are.
        used: Steps that any value takes.
        clipped: Share of the values that lie outside, and are moved to the ends; None for weights, which were
            quantized before they were seen.
    """

    low: float
    high: float
    step: float | None
    num_levels: int
    used: int
    clipped: float | None


class Held(NamedTuple):
    """What a tensor holds, and the grid that it is quantized on; without grid it is not quantized."""

    histogram: Histogram
    grid: Grid | None = None


class Layer(NamedTuple):
    """One layer with weights.

    Attributes:
        name: Path of its module, or its tensor where there is none.
        operator: What it is.
        num_parameters: Of its own.
        flops: Of one sample, two a multiply-add; None where unknown.
        weights: None where they are not known.
        outputs: What it gives for the samples; None where that is not known.
    """

    name: str
    operator: str
    num_parameters: int
    flops: int | None
    weights: Held | None
    outputs: Held | None


class Rectifier(NamedTuple):
    """Units behind a rectifier; dead ones were zero for every sample."""

    name: str
    num_units: int
    num_dead: int


class FeatureMaps(NamedTuple):
    """What one layer gives for one sample.

    Attributes:
        layer: Its name.
        channels: Places of the channels that are shown.
        maps: Shape [channels, rows, columns].
        num_channels: That the layer has.
    """

    layer: str
    channels: tuple[int, ...]
    maps: np.ndarray
    num_channels: int


class Inside(NamedTuple):
    """What was seen of one model.

    Attributes:
        layers: In the order of execution.
        rectifiers: In the order of execution.
        feature_maps: Of the layer that was asked for; None where nothing in the model lies on a grid.
        num_samples: That passed through it.
    """

    layers: tuple[Layer, ...]
    rectifiers: tuple[Rectifier, ...]
    feature_maps: FeatureMaps | None
    num_samples: int


def look_inside_torch(
    model: nn.Module, inputs: Mapping[str, np.ndarray], *, layer: str | None = None
) -> Inside:
    """Watch a torch model.

    Args:
        model: In evaluation mode.
        inputs: Tensors after preprocessing, shape [samples, ...], in the order of the signature; the first
            sample is the one of the feature maps. Of models with large activations fewer pass through.
        layer: Module whose feature maps are kept; default: the first that gives some.

    Raises:
        ModelError: there is no such module, or it gives no feature maps.
    """
    from lissom.models.catalogue import flops_by_module

    tensors = [tensor_of(array) for array in inputs.values()]
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise ModelError(
            f"the model has no module {layer!r}", hint=near(layer, [name for name in modules if name])
        )
    if not call_size(model):
        number = affordable(_largest(model, tensors), len(tensors[0]))
        tensors = [tensor[:number] for tensor in tensors]
    step = call_size(model) or len(tensors[0])
    seen: dict[str, Tensor | Held] = {}
    maps: dict[str, Tensor] = {}
    watched = {name: module for name, module in modules.items() if list(module.parameters(recurse=False))}
    rectified = _Rectified()
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(partial(rectified.enter, name)).remove)
            stack.callback(module.register_forward_hook(rectified.leave, always_call=True).remove)
            if name in watched or name == layer:
                keep = maps if layer in (None, name) else None
                stack.callback(module.register_forward_hook(partial(_see, name, seen, keep)).remove)
        with torch.no_grad(), rectified:
            for start in range(0, len(tensors[0]), step):
                rectified.begin()
                model(*(tensor[start : start + step] for tensor in tensors))
    work = _own(flops_by_module(model, [tensor[:1] for tensor in tensors]), watched)
    names = [name for name in seen if name in watched]
    sizes = _counted(watched, names)
    layers = tuple(_layer(name, watched[name], sizes[name], work.get(name), seen[name]) for name in names)
    return Inside(layers, rectified.found(), chosen_maps(_as_arrays(maps), layer), len(tensors[0]))


def affordable(values_of_sample: int, num_samples: int) -> int:
    """Samples that are watched of those that there are.

    >>> affordable(1 << 24, 100), affordable(1000, 100), affordable(1 << 30, 100)
    (4, 100, 1)
    """
    return min(num_samples, max(1, MOST_VALUES // max(values_of_sample, 1)))


def histogram(values: np.ndarray) -> Histogram:
    """Values in bins of equal width.

    >>> histogram(np.array([0.0, 1.0, 1.0, np.nan]))[:2], sum(histogram(np.ones(5)).counts)
    ((0.0, 1.0), 5)
    """
    flat = np.asarray(values, dtype=np.float32).reshape(-1)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return Histogram(0.0, 0.0, (0,) * NUM_BINS, 0.0, 0.0, int(flat.size))
    low, high = float(finite.min()), float(finite.max())
    wide = finite.astype(np.float64)  # in float32 there may be no room for the bins
    counts = np.histogram(wide, NUM_BINS, (low, high if high > low else low + 1.0))[0]
    mean, deviation = float(wide.mean()), float(wide.std())
    return Histogram(low, high, tuple(counts.tolist()), mean, deviation, int(flat.size - finite.size))


def chosen_maps(outputs: Mapping[str, np.ndarray], layer: str | None) -> FeatureMaps | None:
    """Feature maps of the layer that was asked for, else of the first that has some.

    Args:
        outputs: What layers give for one sample, without the axis of samples, by name.
        layer: Name of one of them, or None.

    Raises:
        ModelError: what the layer gives has no grid.
    """
    for name, values in outputs.items():
        if layer in (None, name) and values.ndim == 3 and min(values.shape[1:]) > 1:
            varying = values.reshape(len(values), -1).std(axis=1)
            shown = np.sort(np.argsort(-varying, kind="stable")[:MOST_MAPS])
            return FeatureMaps(name, tuple(shown.tolist()), values[shown], len(values))
    if layer is not None:
        shape = list(outputs[layer].shape) if layer in outputs else "no tensor"
        raise ModelError(
            f"{layer!r} gives no feature maps: for one sample it gives {shape}",
            hint="name a layer that gives [channels, rows, columns]",
        )
    return None


class _Rectified(TorchFunctionMode):
    """Sees every rectifier while it is active, and which of its units were ever above zero."""

    def __init__(self) -> None:
        super().__init__()
        self._path: list[str] = []
        self._convolved = False
        self._alive: dict[str, Tensor] = {}
        self._noted: set[str] = set()

    def begin(self) -> None:
        """A call of the model begins."""
        self._noted.clear()

    def enter(self, name: str, *_: Any) -> None:
        """A module begins."""
        self._path.append(name)

    def leave(self, module: nn.Module, *_: Any) -> None:
        """It ends."""
        self._path.pop()
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            self._convolved = isinstance(module, nn.Conv1d)

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        output = function(*args, **named)
        least = args[1] if len(args) > 1 else named.get("min_val", named.get("min"))
        if function in _RECTIFIERS or (function in _CLAMPS and type(least) in (int, float) and least == 0):
            self._note(output)
        return output

    def _note(self, output: Tensor) -> None:
        """Units are the channels of convolutions, else the last axis."""
        sequence = output.ndim == 3 and not self._convolved
        axis = output.ndim - 1 if sequence else min(1, output.ndim - 1)
        alive = (output > 0).sum(dim=[number for number in range(output.ndim) if number != axis]) > 0
        place = self._path[-1] if self._path else ""
        name, number = place, 2
        while name in self._noted:
            name, number = f"{place} ({number})", number + 1
        self._noted.add(name)
        self._alive[name] = alive | self._alive[name] if name in self._alive else alive

    def found(self) -> tuple[Rectifier, ...]:
        """In the order of execution."""
        return tuple(
            Rectifier(name or REST, alive.numel(), int((~alive).sum())) for name, alive in self._alive.items()
        )


def _largest(model: nn.Module, tensors: Sequence[Tensor]) -> int:
    """Values of the largest tensor that a layer gives for one sample."""
    sizes = [0]

    def note(_: nn.Module, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        sizes.append(first.numel() if isinstance(first, Tensor) else 0)

    with ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            if list(module.parameters(recurse=False)):
                stack.callback(module.register_forward_hook(note).remove)
        model(*(tensor[:1] for tensor in tensors))
    return max(sizes)


def _see(
    name: str, seen: dict[str, Any], maps: dict[str, Tensor] | None, module: nn.Module, _: Any, output: Any
) -> None:
    """Count what a module gives, and keep it for the first sample; only its first call is seen."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor) or name in seen:
        return
    seen[name] = Held(histogram(first.float().numpy()))
    if maps is not None:
        maps[name] = first[0].clone()


def _as_arrays(maps: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy() for name, tensor in maps.items()}


def _own(work: Mapping[str, int], watched: Collection[str]) -> dict[str, int]:
    """Operations of each watched module that are in no watched module inside of it."""
    own = {name: work[name] for name in watched if name in work}
    for name in watched:
        around = [other for other in watched if other != name and (not other or name.startswith(f"{other}."))]
        if around and name in work and max(around, key=len) in own:
            own[max(around, key=len)] -= work[name]
    return own


def _counted(watched: Mapping[str, nn.Module], seen: Collection[str]) -> dict[str, int]:
    """Parameters of every module that was called: shared ones once, uncalled ones with what is around."""
    counts = dict.fromkeys(seen, 0)
    known: set[int] = set()
    for name, module in watched.items():
        own = [one for one in module.parameters(recurse=False) if id(one) not in known]
        known |= {id(one) for one in own}
        around = [other for other in seen if not other or name == other or name.startswith(f"{other}.")]
        if around:
            counts[max(around, key=len)] += sum(one.numel() for one in own)
    return counts


def _layer(name: str, module: nn.Module, num_parameters: int, flops: int | None, outputs: Any) -> Layer:
    own = list(module.parameters(recurse=False))
    weight = max(own, key=lambda parameter: (parameter.ndim > 1, parameter.numel()))
    held = Held(histogram(weight.detach().float().numpy()))
    return Layer(name or REST, type(module).__name__, num_parameters, flops, held, outputs)
