"""Which parts of an input an answer hangs on: a map of its pixels, positions or columns, for one class.

    grad-cam               the channels of the last feature map, each weighted by its mean gradient, and only
                           what speaks for the class; tokens of a vision transformer are put back on their
                           grid first (Selvaraju et al., arXiv 1610.02391)
    integrated-gradients   gradients summed on the way from an empty input to the sample; of tokens on the way
                           from padding, in the embedding (Sundararajan et al., arXiv 1703.01365)
    occlusion              how far the score falls when a part is covered by the mean of the samples. It needs
                           no gradient, so that it works on every runtime (Zeiler and Fergus, arXiv 1311.2901)

All three are captum's. Only the first input is explained; the others stay as they are. Left out: what parts
do together, and inputs of more than three axes a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lissom.adaptation import call_size
from lissom.causes import told
from lissom.errors import LissomError, ModelError, RequestError
from lissom.logs import Advance, NoProgress, Progress
from lissom.optional import require
from lissom.runtime.arrays import tensor_of

Method = Literal["grad-cam", "integrated-gradients", "occlusion"]
Tensors = Mapping[str, np.ndarray]
Call = Callable[[Tensors], Mapping[str, np.ndarray]]

NUM_STEPS = 32
"""Of the sum that stands for the integral."""
_WINDOWS, _TOKEN_WINDOWS = 7, 32
"""Parts along each side of an image, and along a sequence; neighbours overlap by half."""
_AT_ONCE = 32
"""Covered samples in a call."""
_MOST_LAYERS = 24
"""Feature maps that are tried, from the last, until one has a gradient."""


_FINE = 4
"""Rows and columns of a map that says where in an image something is."""


class FeatureMap(NamedTuple):
    """What a module gives that lies on a grid over the image.

    Attributes:
        name: Path of the module.
        rows: Of the grid.
        columns: Of the grid.
        extra: Tokens before those of the grid, such as a class token; None for a map with channels first.
    """

    name: str
    rows: int
    columns: int
    extra: int | None


class Attributed(NamedTuple):
    """Maps of samples.

    Attributes:
        method: How they were made.
        maps: Shape [samples, height, width] of images, [samples, positions] or [samples, columns] else;
            positive where the input speaks for the class.
        layer: Module whose feature map was weighted; empty for other methods.
    """

    method: Method
    maps: np.ndarray
    layer: str = ""


def gradient_maps(
    model: nn.Module, inputs: Tensors, targets: np.ndarray, *, progress: Progress | None = None
) -> list[Attributed]:
    """Maps by every method that fits a model whose gradients are known.

    Args:
        model: In evaluation mode; its first output is [samples, classes], or [samples, positions, classes],
            of which the last position is explained.
        inputs: Tensors after preprocessing, shape [samples, ...], in the order of the signature.
        targets: Class that is explained, shape [samples].
        progress: Shows how far it is.

    Raises:
        ModelError: the model has no gradients, or its output is not of these shapes.
        MissingExtra: captum is not installed.
    """
    attr = require("captum.attr", extra="explain")
    tensors = [tensor_of(array) for array in inputs.values()]
    goals = tensor_of(targets.astype(np.int64))
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:  # gradients of the inputs alone are wanted
            parameter.requires_grad_(False)
        found = [_grad_cam(attr, model, tensors, goals)] if tensors[0].ndim == 4 else []
        with (progress or NoProgress()).task("follow gradients", len(goals)) as advance:
            return [*(one for one in found if one), _integrated(attr, model, tensors, goals, advance)]
    except (LissomError, MemoryError):
        raise
    except Exception as exc:  # captum and the user's forward may raise anything on the way from empty inputs
        raise ModelError(f"gradients of the model are not known:{told(exc)}") from exc
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def occlusion_maps(
    call: Call, inputs: Tensors, targets: np.ndarray, *, progress: Progress | None = None
) -> Attributed:
    """Maps of any model that can be called.

    Args:
        call: `infer_batch` of a runtime; its first output is as in `gradient_maps`.
        inputs: As in `gradient_maps`.
        targets: Class that is explained, shape [samples].
        progress: Shows how far it is.

    Raises:
        ModelError: the output is not of these shapes, or a sample has more than three axes.
        MissingExtra: captum is not installed.
    """
    attr = require("captum.attr", extra="explain")
    names = list(inputs)
    tensors = [tensor_of(array) for array in inputs.values()]

    def forward(*given: Tensor) -> Tensor:
        batch = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        try:
            outputs = call(batch)
        except RequestError as exc:
            raise ModelError(f"it takes no samples of which parts are covered: {exc.message}") from exc
        return _scores(tensor_of(np.asarray(next(iter(outputs.values())))))

    window, stride = covered(tuple(tensors[0].shape[1:]))
    baseline = _baseline(tensors[0])
    occlusion = attr.Occlusion(forward)
    maps = []
    with (progress or NoProgress()).task("cover parts", len(targets)) as advance:
        for place, target in enumerate(targets.astype(np.int64).tolist()):
            own = [tensor[place : place + 1] for tensor in tensors]
            found = occlusion.attribute(
                own[0],
                sliding_window_shapes=window,
                strides=stride,
                baselines=baseline,
                target=target,
                additional_forward_args=tuple(own[1:]) or None,
                perturbations_per_eval=_AT_ONCE,
            )
            maps.append(_on_grid(found))
            advance(1)
    return Attributed("occlusion", np.concatenate(maps))


def num_calls(shape: Sequence[int]) -> int:
    """Covered samples that `occlusion_maps` makes of one sample of a shape.

    >>> num_calls((3, 224, 224)), num_calls((1, 8, 8)), num_calls((256,))
    (169, 49, 63)
    """
    window, stride = covered(tuple(shape))
    parts = (
        1 + math.ceil((size - own) / step) for size, own, step in zip(shape, window, stride, strict=True)
    )
    return math.prod(parts)


def covered(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the part that is covered at once, and how far it moves.

    Raises:
        ModelError: a sample has no axis, or more than three.

    >>> covered((3, 32, 32)), covered((4,))
    (((3, 5, 5), (3, 3, 3)), ((1,), (1,)))
    """
    if not 1 <= len(shape) <= 3:
        raise ModelError(f"samples of shape {list(shape)} cannot be explained: they have no grid")
    if len(shape) == 3:
        sizes = [math.ceil(size / _WINDOWS) for size in shape[1:]]
        return (shape[0], *sizes), (shape[0], *(math.ceil(size / 2) for size in sizes))
    size = max(1, math.ceil(shape[0] / _TOKEN_WINDOWS))
    rest = shape[1:]
    return (size, *rest), (math.ceil(size / 2), *rest)


def cosine(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Cosine of two maps of each sample, shape [samples]; NaN where one is empty.

    >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [1.0, nan]
    """
    one, other = (array.reshape(len(array), -1).astype(np.float64) for array in (before, after))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, np.einsum("ij,ij->i", one, other) / lengths, np.nan)


def feature_maps(model: nn.Module, tensors: Sequence[Tensor]) -> list[FeatureMap]:
    """Modules that are called once and give something on a grid over the image, in the order of execution.

    Of a transformer not the products inside its blocks nor its attention, but what blocks and norms give.
    """
    height, width = tensors[0].shape[2:]
    seen: dict[str, list[FeatureMap | None]] = {}
    handles = []
    for name, module in model.named_modules():

        def see(own: nn.Module, _: Any, output: Any, name: str = name) -> None:
            place = None if isinstance(own, nn.Linear) else _as_map(name, output, height, width)
            seen.setdefault(name, []).append(place)

        if name:
            handles.append(module.register_forward_hook(see))
    _call_once(model, tensors, handles)
    found = [places[0] for places in seen.values() if len(places) == 1 and places[0] is not None]
    lengths = {place.rows * place.columns + place.extra for place in found if place.extra is not None}
    return [
        place
        for place in found
        if place.extra is not None or not (place.rows == place.columns and place.rows in lengths)
    ]


def _call_once(model: nn.Module, tensors: Sequence[Tensor], handles: Sequence[RemovableHandle]) -> None:
    """Call a model that is watched with the first sample; it is not watched any more afterwards."""
    try:
        with torch.no_grad():
            model(*(tensor[:1] for tensor in tensors))
    finally:
        for handle in handles:
            handle.remove()


def _as_map(name: str, output: Any, height: int, width: int) -> FeatureMap | None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    fits = output.ndim == 4 and output.shape[2] <= height and output.shape[3] <= width
    if fits and min(output.shape[2:]) > 1:
        return FeatureMap(name, output.shape[2], output.shape[3], None)
    if output.ndim == 3:
        for patch in range(1, min(height, width) // 2 + 1):
            rows, columns = height // patch, width // patch
            extra = output.shape[1] - rows * columns
            if 0 <= extra <= 2:
                return FeatureMap(name, rows, columns, extra)
    return None


def _grad_cam(attr: Any, model: nn.Module, tensors: Sequence[Tensor], goals: Tensor) -> Attributed | None:
    """None where nothing on a grid has a gradient.

    The last layer may have none at the patches: a class token is all that the head reads of it. A map of 2x2
    points at everything, so that the last of at least 4x4 is taken where there is one.
    """
    places = feature_maps(model, tensors)
    step = call_size(model) or _AT_ONCE  # a layer is watched in one call
    fine = [place for place in places if min(place.rows, place.columns) >= _FINE]
    for place in reversed((fine or places)[-_MOST_LAYERS:]):
        maps = [
            _weighted(attr, model, [tensor[start : start + step] for tensor in tensors], own, place)
            for start, own in zip(range(0, len(goals), step), torch.split(goals, step), strict=True)
        ]
        if any(own.any() for own in maps):
            return Attributed("grad-cam", np.concatenate(maps), place.name)
    return None


def _weighted(
    attr: Any, model: nn.Module, tensors: Sequence[Tensor], goals: Tensor, place: FeatureMap
) -> np.ndarray:
    """The channels of one feature map, weighted, as large as the image."""
    layer = nn.Identity()

    def through(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return _back(layer(to_grid(output, place)), output, place)

    handle = model.get_submodule(place.name).register_forward_hook(through)
    try:
        maps = attr.LayerGradCam(
            _explained(model), layer
        ).attribute(
            tensors[0].detach().requires_grad_(True),  # else no gradient reaches the layers
            target=goals,
            additional_forward_args=tuple(tensors[1:]) or None,
            relu_attributions=True,
        )
    finally:
        handle.remove()
    maps = maps[: len(goals)]  # the last sample fills up a call
    whole = nn.functional.interpolate(maps.detach(), tensors[0].shape[2:], mode="bilinear")
    found: np.ndarray = whole[:, 0].numpy()
    return found


def to_grid(output: Tensor, place: FeatureMap) -> Tensor:
    """Channels first, on the grid: [samples, channels, rows, columns]."""
    if place.extra is None:
        return output
    tokens = output[:, place.extra :].transpose(1, 2)
    return tokens.reshape(len(output), -1, place.rows, place.columns)


def _back(grid: Tensor, output: Tensor, place: FeatureMap) -> Tensor:
    """What `to_grid` was given."""
    if place.extra is None:
        return grid
    return torch.cat([output[:, : place.extra], grid.flatten(2).transpose(1, 2)], dim=1)


def _integrated(
    attr: Any, model: nn.Module, tensors: Sequence[Tensor], goals: Tensor, advance: Advance
) -> Attributed:
    first, rest = tensors[0], tensors[1:]
    if first.is_floating_point():
        method = attr.IntegratedGradients(_explained(model))
    else:
        method = attr.LayerIntegratedGradients(_explained(model), _embedding(model, tensors))
    maps = []
    for place in range(len(first)):
        one = slice(place, place + 1)
        found = method.attribute(
            first[one],
            baselines=_baseline(first),
            target=goals[one],
            additional_forward_args=tuple(other[one] for other in rest) or None,
            n_steps=NUM_STEPS,
        )
        maps.append(_on_grid(found.detach()))
        advance(1)
    return Attributed("integrated-gradients", np.concatenate(maps))


def _embedding(model: nn.Module, tensors: Sequence[Tensor]) -> nn.Module:
    """The embedding that reads the tokens.

    Raises:
        ModelError: there is none.
    """
    found: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(
            lambda own, given: found.append(own) if given and torch.equal(given[0], tensors[0][:1]) else None
        )
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]
    _call_once(model, tensors, handles)
    if not found:
        raise ModelError("the model has no nn.Embedding of its tokens, whose gradients would be asked for")
    return found[0]


def _explained(model: nn.Module) -> Callable[..., Tensor]:
    """The model as one that gives scores of classes."""

    def forward(*given: Tensor) -> Tensor:
        outputs = model(*given)
        return _scores(outputs[0] if isinstance(outputs, tuple | list) else outputs)

    return forward


def _scores(outputs: Tensor) -> Tensor:
    """[samples, classes]; of every position the last. A single column speaks for the second of two classes.

    Raises:
        ModelError: the output has other axes.
    """
    if outputs.ndim == 3:
        return outputs[:, -1]
    if outputs.ndim == 1 or outputs.shape[1:] == (1,):
        second = outputs.reshape(-1)
        return torch.stack([-second, second], dim=1)
    if outputs.ndim == 2:
        return outputs
    raise ModelError(f"an output of shape {list(outputs.shape)} cannot be explained: [samples, classes] can")


def _baseline(first: Tensor) -> Tensor:
    """An input that says nothing: the mean of the samples, by channel of images; 0 for tokens."""
    if not first.is_floating_point():
        return torch.zeros_like(first[:1])
    axes = (0, 2, 3) if first.ndim == 4 else (0,)
    return first.mean(dim=axes, keepdim=True).expand(1, *first.shape[1:]).contiguous()


def _on_grid(maps: Tensor) -> np.ndarray:
    """Channels of an image, or of a position, summed."""
    if maps.ndim == 4:
        maps = maps.sum(dim=1)
    elif maps.ndim == 3:
        maps = maps.sum(dim=2)
    found: np.ndarray = maps.to(torch.float32).numpy()
    return found
