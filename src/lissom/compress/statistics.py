"""Statistics over channels of which some count as removed: means, norms and softmax over the others only.

A pruned normalisation knows nothing of the channels that are gone. So the model without them is not the one
in which their zeros are part of every mean; it is the one whose statistics leave them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lissom.compress.provenance import ChannelTracer

_LEAST, _MOST = ("amax", "max", "logsumexp"), ("amin", "min")


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an operation by name."""
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def axes_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dim: int) -> tuple[list[int], bool]:
    """The axes that a reduction reduces, and whether they stay with size 1."""
    given = bind(func, args, kwargs)
    axes = given.get("dim", given.get("dims"))
    if axes is None or axes == []:
        return list(range(dim)), bool(given.get("keepdim", False))
    return [axis % dim for axis in ([axes] if isinstance(axes, int) else axes)], bool(
        given.get("keepdim", False)
    )


def reduce(dead: Tensor | None, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A reduction over what is not dead."""
    x, name = args[0], func.overloadpacket.__name__
    if dead is None or not dead.any():
        return func(*args, **kwargs)
    axes, keepdim = axes_of(func, args, kwargs, x.dim())
    if name in _LEAST or name in _MOST:
        filled = x.masked_fill(dead, -torch.inf if name in _LEAST else torch.inf)
        filled = torch.where(dead.all(dim=tuple(axes), keepdim=True), 0.0, filled)
        return func(filled, *args[1:], **kwargs)
    if name == "prod":
        return func(x.masked_fill(dead, 1.0), *args[1:], **kwargs)
    if name not in ("mean", "var", "std", "var_mean", "std_mean"):
        return func(x.masked_fill(dead, 0.0), *args[1:], **kwargs)
    given = bind(func, args, kwargs)
    correction = given.get("correction", 1.0 if given.get("unbiased", True) else 0.0)
    mean, var = moments(x, dead, axes, 1.0 if correction is None else float(correction))
    spread = var if name.startswith("var") else var.sqrt()
    found: tuple[Tensor, ...] = (mean,) if name == "mean" else (spread, mean)[: 1 + name.endswith("_mean")]
    if not keepdim:
        found = tuple(item.squeeze(tuple(axes)) for item in found)
    return found[0] if len(found) == 1 else found


def moments(x: Tensor, dead: Tensor, axes: list[int], correction: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and variance over the axes of what is not dead, with the axes at size 1."""
    alive = (~dead).to(x.dtype)
    number = alive.sum(dim=axes, keepdim=True)
    mean = (x * alive).sum(dim=axes, keepdim=True) / number.clamp(min=1)
    squares = ((x - mean) * alive).square().sum(dim=axes, keepdim=True)
    return mean, squares / (number - correction).clamp(min=1e-30)


def softmax(
    tracer: ChannelTracer, labels: Tensor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """A softmax over what is not dead."""
    if tracer.dead is None:
        found: Tensor = func(*args, **kwargs)
        return found
    given: Tensor = func(args[0].masked_fill(tracer.is_dead(labels), -torch.inf), *args[1:], **kwargs)
    return given.nan_to_num(0.0, neginf=0.0)


def normalize(
    tracer: ChannelTracer, labels: Tensor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """A normalisation whose statistics are over what is not dead."""
    name = func.overloadpacket.__name__
    if tracer.dead is None or name not in _NORMS or not (dead := tracer.is_dead(labels)).any():
        found: Tensor = func(*args, **kwargs)
        return found
    return _NORMS[name](bind(func, args, kwargs), dead)


def _layer_norm(given: dict[str, Any], dead: Tensor) -> Tensor:
    x = given["input"]
    axes = list(range(x.dim() - len(given["normalized_shape"]), x.dim()))
    mean, var = moments(x, dead, axes)
    return _scaled((x - mean) / (var + given.get("eps", 1e-5)).sqrt(), given, None)


def _rms_norm(given: dict[str, Any], dead: Tensor) -> Tensor:
    x = given["input"]
    axes = list(range(x.dim() - len(given["normalized_shape"]), x.dim()))
    eps = given.get("eps")
    mean, _ = moments(x.square(), dead, axes)
    return _scaled(x / (mean + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt(), given, None)


def _group_norm(given: dict[str, Any], dead: Tensor) -> Tensor:
    x = given["input"]
    shape = (x.shape[0], given["num_groups"], -1)
    mean, var = moments(x.reshape(shape), dead.reshape(shape), [2])
    normal = (x.reshape(shape) - mean) / (var + given.get("eps", 1e-5)).sqrt()
    return _scaled(normal.reshape(x.shape), given, (-1, *[1] * (x.dim() - 2)))


def _scaled(normal: Tensor, given: dict[str, Any], shape: tuple[int, ...] | None) -> Tensor:
    for name, weight in (("weight", given.get("weight")), ("bias", given.get("bias"))):
        if weight is not None:
            weight = weight if shape is None else weight.reshape(shape)
            normal = normal * weight if name == "weight" else normal + weight
    return normal


_NORMS: dict[str, Callable[[dict[str, Any], Tensor], Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
}
