"""What layers and norms do with labels: they read channels, and give their own; see `provenance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lissom.compress import statistics
from lissom.compress.label_tensors import broadcast, thin, varying
from lissom.compress.provenance import PRODUCT, tensors_of
from lissom.compress.provenance_moves import keep_all

if TYPE_CHECKING:
    from lissom.compress.provenance import ChannelTracer


_MOST = 2**23
"""Elements of a matrix of the model's own that are followed one by one; a larger one keeps what it reads."""


def attend(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A product: of a layer, or of activations, whose channels are kept."""
    name = func.overloadpacket.__name__
    result = func(*args, **kwargs)
    start = 1 if name in ("addmm", "baddbmm", "addbmm") else 0
    weight = tracer.weight(args[start + 1]) if len(args) > start + 1 else None
    if name in ("mm", "addmm") and weight is not None:
        if weight.axes == ("in", "out"):
            return _layer(tracer, weight.module, args[start], result, -1, -1)
        tracer.keep_module(weight.module, "its weight is used in another way than by its own layer")
    elif name in ("mm", "addmm", "bmm", "baddbmm") and (
        _multiply(tracer, args[start], args[start + 1], -2)
        or _multiply(tracer, args[start + 1].mT, args[start].mT, -2)
    ):
        return result
    for tensor in tensors_of((args, kwargs)):
        tracer.keep(tracer.labels(tensor), PRODUCT)
        tracer.keep_owner(tensor, "it multiplies with a matrix of its own, and is no layer that is known")
        if (found := tracer.weight(tensor)) is not None:
            tracer.keep_module(found.module, "its weight is multiplied in another way than by its own layer")
    return result


def _multiply(tracer: ChannelTracer, given: Tensor, matrix: Tensor, axis: int) -> bool:
    """True when a matrix of the model's own is multiplied with channels: along this axis it goes with them.

    What comes out has no labels: it stays as wide as it is.
    """
    own, reads = tracer.labels(matrix), tracer.labels(given)
    if own is None or own.numel() > _MOST or tracer.is_given(matrix) or not tracer.is_given(given):
        return False
    last = given.dim() - 1
    if reads is None or varying(reads) - {last}:
        return False
    if tracer.dead is None:
        line = thin(reads.movedim(last, 0)).flatten(1)[:, 0].expand(given.shape[-1])
        shape = [1] * own.dim()
        shape[axis] = len(line)
        one, other = broadcast(line.reshape(shape), own)
        tracer.pair(one.flatten(), other.flatten())
    return True


def _layer(tracer: ChannelTracer, name: str, given: Tensor, result: Tensor, axis: int, out: int) -> Tensor:
    tracer.read(name, tracer.labels(given), axis)
    if tracer.labels(given) is None and tracer.is_given(given):
        tracer.read(name, torch.zeros((), dtype=torch.float64).expand(given.shape), axis)
    return tracer.note(result, tracer.outputs_of(name, result.shape[out], result.shape, out))


def linear(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A linear layer reads the last axis."""
    weight = tracer.weight(args[1])
    if weight is None and _multiply(tracer, args[0], args[1], -1):
        return func(*args, **kwargs)
    if weight is None or weight.axes != ("out", "in"):
        return attend(tracer, func, args, kwargs)
    return _layer(tracer, weight.module, args[0], func(*args, **kwargs), -1, -1)


def convolve(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A convolution reads the axis before those of space; one by channel changes none."""
    weight, result = tracer.weight(args[1]), func(*args, **kwargs)
    if (
        weight is None
        or "out" not in weight.axes[:2]
        or ("transpose" in func.overloadpacket.__name__) != (weight.axes[:2] == ("in", "out"))
    ):
        for tensor in tensors_of((args, kwargs)):
            tracer.keep(tracer.labels(tensor), "they go into a convolution whose weight is no layer's")
        if weight is not None:
            tracer.keep_module(weight.module, "its weight is used in another way than by its own layer")
        return result
    axis = 1 - args[1].dim()
    module: Any = tracer.modules[weight.module]
    if module.groups == module.in_channels and module.groups > 1:
        return _by_channel(tracer, weight.module, args[0], result, axis)
    return _layer(tracer, weight.module, args[0], result, axis, axis)


def _by_channel(tracer: ChannelTracer, name: str, given: Tensor, result: Tensor, axis: int) -> Tensor:
    """A depthwise convolution: each channel goes with those that are made from it."""
    own = tracer.outputs_of(name, result.shape[axis], result.shape, axis)
    labels = tracer.labels(given)
    if tracer.dead is None:
        lines = (
            torch.zeros(given.shape[axis], 1, dtype=torch.float64)
            if labels is None
            else thin(labels.movedim(axis, 0)).flatten(1)
        )
        times = result.shape[axis] // given.shape[axis]
        made = tracer.ledger.labels[(name, "")].unsqueeze(1)
        one, other = broadcast(lines.repeat_interleave(times, 0), made)
        tracer.pair(one.flatten(), other.flatten())
    return tracer.note(result, own)


def embed(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A table gives channels and reads none."""
    weight, result = tracer.weight(args[0]), func(*args, **kwargs)
    if weight is None or weight.axes != ("", "out"):
        return keep_all(tracer, func, args, kwargs)
    labels = tracer.outputs_of(weight.module, result.shape[-1], result.shape, -1)
    return tracer.note(result, labels)


def recur(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A recurrent layer as a whole; see `recurrence`."""
    result = func(*args, **kwargs)
    weights = args[2] if isinstance(args[2], tuple | list) else args[3]
    name = tracer.recurrent.get(id(weights[0]))
    if name is None or func._overloadname != "input":
        return keep_all(tracer, func, args, kwargs)
    layer: Any = tracer.modules[name]
    _layer(tracer, name, args[0], result[0], -1, -1)
    for state in tensors_of(args[1]):
        tracer.keep(tracer.labels(state), "they are the state that a recurrent layer starts from")
    if layer.num_layers == 1 and not layer.bidirectional:
        for state in result[1:]:
            tracer.note(state, tracer.outputs_of(name, state.shape[-1], state.shape, -1))
    return result


def normalize(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Statistics over channels or places, then a scale and a shift for each channel."""
    labels = tracer.labels(args[0])
    if labels is None:
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    result = statistics.normalize(tracer, labels, func, args, kwargs)
    last = name in ("layer_norm", "rms_norm")
    for item in tensors_of((args[1:], tuple(kwargs.values()))):
        own = tracer.labels(item)
        if own is not None:
            shape = tuple(own.shape) if last else (-1, *[1] * (labels.dim() - 2))
            labels = tracer.meet(labels, own.reshape(shape)).expand(result.shape)
    if name == "group_norm" and tracer.dead is None and int(args[1]) < labels.shape[1]:
        lines = thin(labels.movedim(1, 0)).flatten(1)
        tracer.ledger.blocks.append((lines[:, 0].long(), int(args[1])))
    return tracer.note(result, labels)
